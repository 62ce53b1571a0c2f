"""Ratios, plans and the paper's published figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from greg_compress.cost import layer_macs
from greg_compress.errors import CheckFailed, InputError, RequestError
from greg_compress.options.selecting import Selection
from greg_compress.selection.choose import choose, counts
from greg_compress.selection.plan import Plan, Share, picks_from_json
from greg_compress.selection.ratios import parse_ratios, units_to_remove
from greg_compress.surgery.effect import cost_of
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import find_groups
from sample_models import resnet_cifar, vgg_cifar
from tests.conftest import RESNET, Ran
from tests.zoo import INPUT, ZOO, Chain, Depthwise, Gated, Grouped, Residual, inputs_of

IMAGE = (INPUT,)


@given(st.integers(0, 99), st.integers(1, 4096))
def test_counts_are_exact_on_the_decimal_literal(percent: int, channels: int) -> None:
    exact = min(math.ceil(Fraction(percent, 100) * channels), channels - 1)
    assert units_to_remove(Decimal(f"0.{percent:02}"), channels) == exact


def test_seven_of_a_hundred() -> None:
    assert units_to_remove(Decimal("0.07"), 100) == 7


@pytest.mark.parametrize(
    "text",
    [
        *("1.0", "1", "-0.1", "nan", "inf", "x", "", "[]", "[0.5, x]", "[0.5, 1.0]", "0,5", "[0.5", "0.5]"),
        *("[0:0.5, 0.5]", "[a:0.5]", "[1-2-3:0.5]", "[3-1:0.5]", "[-1:0.5]", "[0:1]", "[0:]", "[9999999:0.5]"),
        *("a=", "=0.5", "a=0.5,", "a=0.5,b", "a=1.0", "a=0.5 b=0.5", "a:0.5"),
    ],
)
def test_bad_ratios_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--ratios"):
        parse_ratios(text)


@pytest.mark.parametrize(
    ("content", "typed"),
    [
        ("0.5", "0.5"),
        ("[0, 0.75, 7e-2]", "[0, 0.75, 0.07]"),
        ('{"layer1.*.conv1": 0.3, "layer2": 0.50}', "layer1.*.conv1=0.3,layer2=0.50"),
        ('"[0:0, 1-15:0.7]"', "[0:0, 1-15:0.7]"),
        ('{"a": 0.3, "b": 0.1, "a": 0}', "a=0.3,b=0.1,a=0"),
    ],
)
def test_a_file_says_what_can_be_typed(content: str, typed: str, tmp_path: Path) -> None:
    path = tmp_path / "ratios.json"
    path.write_text(content)
    assert parse_ratios(f"@{path}") == parse_ratios(typed)
    assert "@" not in parse_ratios(f"@{path}").text


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, InputError, "does not exist"),
        ("{", InputError, "is no JSON"),
        ("[" * 100_000, InputError, "is no JSON"),
        ("\xff", InputError, "is no JSON"),
        ("1" * (2**20 + 1), InputError, "is larger than 1,048,576 bytes"),
        ("null", RequestError, "null is not a number"),
        ("true", RequestError, "true is not a number"),
        ("NaN", RequestError, "NaN is not a number"),
        ("[0.5, [0.5]]", RequestError, "is not a number"),
        ("{}", RequestError, "maps names of layers to ratios"),
        ('{"a,b": 0.5}', RequestError, "maps names of layers to ratios"),
        ('{"a": 1.5}', RequestError, "1.5 is not a ratio"),
        ('"@other.json"', RequestError, "cannot name another"),
    ],
)
def test_files_that_are_no_ratios(content: str | None, error: type[Exception], words: str, tmp_path: Path) -> None:
    path = tmp_path / "ratios.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(error, match=words) as caught:
        parse_ratios(f"@{path}")
    assert "\n" not in str(caught.value)


def kept(text: str, *skip: str, model: nn.Module | None = None, coupled: bool = False) -> dict[str, int]:
    """What a selection keeps of a ResNet-20 of width 16, or of another network."""
    net, wiring = (model, find_groups(model, IMAGE)) if model else (RESNET20, RESNET20_WIRING)
    return counts(net, wiring, Selection(parse_ratios(text), skip, coupled)).counts


RESNET20 = resnet_cifar.resnet20()
RESNET20_WIRING = find_groups(RESNET20, ((3, 32, 32),))


def test_the_last_entry_wins_and_skip_wins_over_all() -> None:
    assert kept("layer2=0.5") == {f"layer2.{n}.conv1": 16 for n in range(3)}
    assert kept("layer2=0.5,layer2.1=0.25,*.2.conv1=0") == {"layer2.0.conv1": 16, "layer2.1.conv1": 24}
    assert kept("*.conv1=0.5,layer1.*.conv1=0.25,layer3=0") == {
        **{f"layer1.{n}.conv1": 12 for n in range(3)},
        **{f"layer2.{n}.conv1": 16 for n in range(3)},
    }
    assert kept("layer2=0.5", "layer2.1", "*.2") == {"layer2.0.conv1": 16}
    assert kept("[1:0.5, 3-4:0.25, 1:0]") == {"layer1.1.conv1": 12}
    assert kept("[0, 0, 0.5, 0]") == kept("layer2=0.5") == kept("[7-12:0.5]")


def test_names_end_at_dots() -> None:
    """`layer1.1` is not `layer1.10`, and a name is no prefix."""
    model = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(12)), nn.Flatten(), nn.Linear(192, 2))
    assert kept("1=0.5", model=model) == {"1": 1}
    assert kept("1*=0.5", model=model) == {"1": 1, "10": 1, "11": 1}


@pytest.mark.parametrize(
    ("text", "skip", "words"),
    [
        ("layer1.0.cnv1=0.5", (), r"layer1\.0\.cnv1 matches no layer; nearest: layer1\.0\.conv1"),
        ("layr3=0.5", (), r"layr3 matches no layer; nearest: layer3"),
        ("LAYER3=0.5", (), r"LAYER3 matches no layer; nearest: layer3"),
        ("layer2=0.5,bn1=0.5", (), "bn1 matches no convolution or linear layer that runs"),
        ("[0-19:0.5]", (), "0-19 goes beyond the last layer, which has index 18"),
        ("[19:0.5]", (), "19 goes beyond"),
        ("fc=0.5", (), "nothing in fc can be pruned .fc is frozen: it is the network's output"),
        ("*.conv2=0.5", (), "nothing in .*conv2 can be pruned .conv1 is coupled: an addition ties 10 layers"),
        ("[2:0.5]", (), "nothing in index 2 can be pruned .*coupled"),
        ("layer1=0.5", ("layer1.0.conv",), r"--skip layer1\.0\.conv matches no layer; nearest: layer1\.0\.conv"),
    ],
)
def test_entries_that_can_do_nothing_are_refused(text: str, skip: tuple[str, ...], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        kept(text, *skip)


def test_a_depthwise_convolution_names_its_leader() -> None:
    model = Depthwise()
    with pytest.raises(RequestError, match="it follows the channels that it reads; name a instead"):
        kept("d=0.5", model=model)
    assert kept("0.5", model=model) == {"b": 2}
    assert kept("a=0.5", model=model) == {"a": 3}
    assert kept("*=0.5", "d", model=model) == {"b": 2}


class Computed(nn.Module):
    """The first convolution's weight is computed: nobody can follow it, and it is the first all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = (nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2))
        nn.utils.parametrizations.weight_norm(self.a)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.c(self.b(self.a(x))).mean((2, 3)))


def test_a_layer_that_cannot_be_followed_keeps_its_place() -> None:
    assert kept("0.5", model=Computed()) == {"b": 2, "c": 2}
    assert kept("[0, 0.5, 0]", model=Computed()) == kept("[1:0.5]", model=Computed()) == {"b": 2}
    for text in ("a=0.5", "[0:0.5]", "[0.5, 0, 0]"):
        with pytest.raises(RequestError, match=r"can be pruned .frozen: its weight or its input cannot be followed"):
            kept(text, model=Computed())


def test_only_the_star_is_special_in_names() -> None:
    with pytest.raises(RequestError, match=r"layer\[23\] matches no layer"):
        kept("layer[23]=0.5")


def test_a_gate_shares_the_ratio_of_what_it_scales() -> None:
    assert kept("excite=0.5", model=Gated()) == {"a": 3} == kept("a=0.5", model=Gated())
    assert kept("a=0.5,excite=0", model=Gated()) == {}


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
    assert set(kept("0.5", model=Chain())) == {"b"}


def test_a_stage_list_names_the_stages() -> None:
    with pytest.raises(RequestError, match="4 stages with convolutions: conv1, layer1, layer2, layer3"):
        kept("[0, 0.5]")
    with pytest.raises(RequestError, match=r"nothing in stage conv1 can be pruned .*coupled"):
        kept("[0.5, 0, 0, 0]")


def test_skip_spares_whole_modules_only() -> None:
    model = resnet_cifar.resnet56()
    wiring = find_groups(model, ((3, 32, 32),))
    plan = counts(model, wiring, Selection(parse_ratios("0.5"), ("layer1.1", "*.3.conv1")))
    spared = {group.name for group in wiring.groups if not group.reason} - set(plan.shares)
    assert spared == {"layer1.1.conv1", "layer1.3.conv1", "layer2.3.conv1", "layer3.3.conv1"}
    with pytest.raises(RequestError, match=r"matches no layer; nearest: layer1\.1\.conv"):
        counts(model, wiring, Selection(parse_ratios("0.5"), ("layer1.1.cnv1",)))


def test_plans_that_do_nothing_are_errors() -> None:
    with pytest.raises(CheckFailed, match="removes nothing"):
        choose(Chain(), prunable_wiring(Chain(), IMAGE), Selection(parse_ratios("0")))
    frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(1), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(CheckFailed, match="frozen or coupled"):
        choose(frozen, prunable_wiring(frozen, IMAGE), Selection(parse_ratios("0.5")))


def test_plans_survive_json_and_refuse_other_networks() -> None:
    wiring = find_groups(Chain(), IMAGE)
    plan = Plan({"a": Share(6, 4, (0, 5)), "b": Share(5, 4, (2,))})
    assert picks_from_json(plan.to_json(), wiring) == plan
    with pytest.raises(InputError, match="do not fit"):
        picks_from_json(plan.to_json(), find_groups(Grouped(), IMAGE))
    for removed in ([0], [0, 0], [0, 6], [-1, 2], [0, 1.0]):
        with pytest.raises(InputError, match="do not leave 4 of 6"):
            picks_from_json({"a": {"channels": 6, "kept": 4, "removed": removed}}, wiring)
    for broken in (None, {}, {"a": None}, {"a": {}}, {"a": {"channels": 6, "kept": 4, "removed": None}}, {"a": 3}):
        with pytest.raises(InputError, match="damaged"):
            picks_from_json(broken, wiring)


RESNET56 = f"{RESNET}:resnet56"
VGG19 = f"{RESNET.with_name('vgg_cifar.py')}:vgg19"
SKIPPED = ("layer1.0", "layer2.0", "layer2.3", "layer3.0", "layer3.5")
PAPER = [
    ("torchvision:resnet34", "[0, 0.5, 0.6, 0.4, 0]", SKIPPED, 1.32),
    ("torchvision:resnet50", "[0, 0.3, 0.3, 0.3, 0.14]", (), 1.49),
    ("torchvision:resnet50", "[0, 0.6, 0.6, 0.6, 0.21]", (), 2.31),
    ("torchvision:resnet50", "[0, 0.74, 0.74, 0.6, 0.21]", (), 2.56),
    ("torchvision:resnet50", "[0, 0.68, 0.68, 0.68, 0.5]", (), 3.06),
    (RESNET56, "[0, 0.75, 0.75, 0.32]", (), 2.55),
    (RESNET56, "0.5", (), 1.99),
    (RESNET56, "0.7", (), 3.59),
    (RESNET56, "0.9", (), 11.58),
    (RESNET56, "0.925", (), 15.20),
    (RESNET56, "0.95", (), 19.85),
    (VGG19, "[0:0, 1-15:0.5]", (), 3.61),
    (VGG19, "[0:0, 1-15:0.6]", (), 5.42),
    (VGG19, "[0:0, 1-15:0.7]", (), 8.89),
    (VGG19, "[0:0, 1-15:0.8]", (), 17.34),
    (VGG19, "[0:0, 1-15:0.9]", (), 45.53),
]


@pytest.mark.parametrize(("spec", "ratios", "skip", "speedup"), PAPER)
def test_the_papers_ratios_give_the_papers_speedups(
    spec: str, ratios: str, skip: tuple[str, ...], speedup: float, greg: Callable[..., Ran]
) -> None:
    words = [word for name in skip for word in ("--skip", name)]
    words += ["--arch-arg", "num_classes=100"] if spec == VGG19 else []
    ran = greg("analyze", spec, "--ratios", ratios, *words, "--json")
    assert ran.code == 0, ran.err
    assert round(ran.json["plan"]["macs_speedup"], 2) == speedup


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
    wiring = find_groups(model, IMAGE)
    macs = layer_macs(model, IMAGE, wiring.layers)
    assert all(macs[layer.weight] > 0 for layer in wiring.layers)
    assert len(macs) == len(wiring.layers)
