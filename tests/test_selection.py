"""Ratios, plans and the paper's published figures."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from greg_compress.cost import layer_macs
from greg_compress.errors import CheckFailed, InputError, RequestError
from greg_compress.options import Selection
from greg_compress.selection.choose import choose
from greg_compress.selection.plan import Plan, Share, picks_from_json
from greg_compress.selection.ratios import parse_ratios, units_to_remove
from greg_compress.selection.resolve import resolve
from greg_compress.surgery.effect import cost_after, cost_of
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import find_groups
from sample_models import resnet_cifar, vgg_cifar
from tests.zoo import INPUT, ZOO, Chain, Depthwise, Functional, Gated, Grouped, Residual, inputs_of


@given(st.integers(0, 99), st.integers(1, 4096))
def test_counts_are_exact_on_the_decimal_literal(percent: int, channels: int) -> None:
    exact = min(math.ceil(Fraction(percent, 100) * channels), channels - 1)
    assert units_to_remove(Decimal(f"0.{percent:02}"), channels) == exact


def test_seven_of_a_hundred() -> None:
    assert units_to_remove(Decimal("0.07"), 100) == 7


@pytest.mark.parametrize("text", ["1.0", "1", "-0.1", "nan", "inf", "x", "", "[]", "[0.5, x]", "[0.5, 1.0]", "0,5"])
def test_bad_ratios_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--ratios"):
        parse_ratios(text)


@pytest.mark.parametrize("net", ZOO)
def test_the_least_scores_go_and_the_count_is_hit(net: type[nn.Module]) -> None:
    model = net()
    wiring = prunable_wiring(model, inputs_of(net))
    try:
        plan = choose(model, wiring, Selection(parse_ratios("0.5")))
    except CheckFailed:
        assert all(g.reason or g.channels == 1 or g is wiring.groups[0] for g in wiring.groups)
        return
    for group in wiring.groups:
        share = plan.shares.get(group.name)
        if share is None:
            continue
        assert group.reason is None
        makes, rows = wiring.filters(group.sources[0])
        weight = model.get_parameter(group.sources[0]).detach().abs().movedim(makes, 0).flatten(1).mean(1)
        score = torch.stack([weight[rows == unit].mean() for unit in group.units])
        removed = torch.tensor(share.removed)
        kept = torch.tensor([unit for unit in range(group.channels) if unit not in removed])
        assert len(removed) == min(math.ceil(group.channels / 2), group.channels - 1)
        assert score[removed].max() <= score[kept].min()


def test_a_uniform_ratio_spares_the_first_convolution() -> None:
    model = Chain()
    plan = resolve(parse_ratios("0.5"), (), find_groups(model, (INPUT,)))
    assert set(plan.shares) == {"b"}


def test_a_stage_list_names_the_stages() -> None:
    model = resnet_cifar.resnet20()
    wiring = find_groups(model, ((3, 32, 32),))
    with pytest.raises(RequestError, match="4 stages with convolutions: conv1, layer1, layer2, layer3"):
        resolve(parse_ratios("[0, 0.5]"), (), wiring)
    with pytest.raises(RequestError, match=r"nothing in stage conv1 .*coupled"):
        resolve(parse_ratios("[0.5, 0, 0, 0]"), (), wiring)


def test_skip_spares_whole_modules_only() -> None:
    model = resnet_cifar.resnet56()
    wiring = find_groups(model, ((3, 32, 32),))
    plan = resolve(parse_ratios("0.5"), ("layer1.1", "*.3.conv1"), wiring)
    spared = {group.name for group in wiring.groups if not group.reason} - set(plan.shares)
    assert spared == {"layer1.1.conv1", "layer1.3.conv1", "layer2.3.conv1", "layer3.3.conv1"}
    with pytest.raises(RequestError, match=r"matches no layer; nearest: layer1\.1\.conv"):
        resolve(parse_ratios("0.5"), ("layer1.1.cnv1",), wiring)


def test_plans_that_do_nothing_are_errors() -> None:
    with pytest.raises(CheckFailed, match="removes nothing"):
        choose(Chain(), prunable_wiring(Chain(), (INPUT,)), Selection(parse_ratios("0")))
    frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(1), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(CheckFailed, match="frozen or coupled"):
        choose(frozen, prunable_wiring(frozen, (INPUT,)), Selection(parse_ratios("0.5")))


def test_plans_survive_json_and_refuse_other_networks() -> None:
    wiring = find_groups(Chain(), (INPUT,))
    plan = Plan({"a": Share(6, 4, (0, 5)), "b": Share(5, 4, (2,))})
    assert picks_from_json(plan.to_json(), wiring) == plan
    with pytest.raises(InputError, match="do not fit"):
        picks_from_json(plan.to_json(), find_groups(Grouped(), (INPUT,)))
    for removed in ([0], [0, 0], [0, 6], [-1, 2], [0, 1.0]):
        with pytest.raises(InputError, match="do not leave 4 of 6"):
            picks_from_json({"a": {"channels": 6, "kept": 4, "removed": removed}}, wiring)
    for broken in (None, {}, {"a": None}, {"a": {}}, {"a": {"channels": 6, "kept": 4, "removed": None}}, {"a": 3}):
        with pytest.raises(InputError, match="damaged"):
            picks_from_json(broken, wiring)


PAPER = [
    ("resnet34", "[0, 0.5, 0.6, 0.4, 0]", ("layer1.0", "layer2.0", "layer2.3", "layer3.0", "layer3.5"), 1.32),
    ("resnet50", "[0, 0.3, 0.3, 0.3, 0.14]", (), 1.49),
    ("resnet50", "[0, 0.6, 0.6, 0.6, 0.21]", (), 2.31),
    ("resnet50", "[0, 0.74, 0.74, 0.6, 0.21]", (), 2.56),
    ("resnet50", "[0, 0.68, 0.68, 0.68, 0.5]", (), 3.06),
    ("resnet56", "[0, 0.75, 0.75, 0.32]", (), 2.55),
    ("resnet56", "0.5", (), 1.99),
    ("resnet56", "0.7", (), 3.59),
    ("resnet56", "0.9", (), 11.58),
    ("resnet56", "0.925", (), 15.20),
    ("resnet56", "0.95", (), 19.85),
]


@pytest.mark.parametrize(("name", "ratios", "skip", "speedup"), PAPER)
def test_the_papers_ratios_give_the_papers_speedups(
    name: str, ratios: str, skip: tuple[str, ...], speedup: float
) -> None:
    on_cifar = name == "resnet56"
    model = resnet_cifar.resnet56() if on_cifar else torchvision.models.get_model(name)
    wiring = find_groups(model, ((3, 32, 32) if on_cifar else (3, 224, 224),))
    plan = choose(model, wiring, Selection(parse_ratios(ratios), skip))
    after = cost_after(model, wiring, plan.removed_units(wiring))
    assert round(cost_of(model, wiring).macs / after.macs, 2) == speedup


@pytest.mark.parametrize(
    ("model", "shape", "params", "macs"),
    [
        (resnet_cifar.resnet56(), (3, 32, 32), 0.85e6, 125.5e6),
        (vgg_cifar.vgg19(num_classes=100), (3, 32, 32), 20.0e6, 398.2e6),
        (torchvision.models.resnet18(), (3, 224, 224), 11.7e6, 1.814e9),
    ],
    ids=["resnet56", "vgg19", "resnet18"],
)
def test_published_sizes(model: nn.Module, shape: tuple[int, ...], params: float, macs: float) -> None:
    wiring = find_groups(model, (shape,))
    found = cost_of(model, wiring)
    assert found.params == pytest.approx(params, rel=0.01)
    assert found.macs == pytest.approx(macs, rel=0.001)


def test_the_counter_would_notice_a_missing_layer() -> None:
    model = Residual().eval()
    wiring = find_groups(model, (INPUT,))
    macs = layer_macs(model, (INPUT,), wiring.layers)
    assert all(macs[layer.weight] > 0 for layer in wiring.layers)
    assert len(macs) == len(wiring.layers)
