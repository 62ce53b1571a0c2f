"""The families that practitioners deploy, from torchvision, by every oracle."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from greg_compress.surgery.effect import cost_of
from greg_compress.surgery.masking import mask, masked_equals_sliced
from greg_compress.surgery.replay import first_difference
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.skeleton import Shapes, output_tensors
from tests.cutting import another, random_plan, silence, sliced
from tests.poking import disagreement
from tests.test_surgery import flops, scores

AUX = {"aux_logits": True, "init_weights": False}
NO_AUX = {"aux_logits": False, "init_weights": False}
FAMILIES: list[tuple[str, dict[str, Any], int]] = [
    *((name, {}, 64) for name in ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")),
    *((name, {}, 64) for name in ("vgg11", "vgg11_bn", "alexnet", "densenet121", "mobilenet_v2")),
    *((name, {}, 64) for name in ("mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5")),
    *((name, {}, 64) for name in ("efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf")),
    *((name, {}, 64) for name in ("squeezenet1_0", "squeezenet1_1")),
    *(("googlenet", aux, 96) for aux in (AUX, NO_AUX)),
    *(("inception_v3", aux, 299) for aux in (AUX, NO_AUX)),
]


def build(name: str, kwargs: dict[str, Any], size: int) -> tuple[nn.Module, Shapes]:
    """A network in float64 whose BatchNorms have the statistics of a batch, so that every layer counts."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=10, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and not name.startswith("vgg"):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    with torch.no_grad():
        model.train()(torch.rand(2, 3, size, size))
    return model.double().eval(), ((3, size, size),)


@pytest.mark.parametrize(
    ("name", "kwargs", "size"), FAMILIES, ids=[f"{n}{'-aux' * (k is AUX)}" for n, k, _ in FAMILIES]
)
def test_families_are_cut_exactly(name: str, kwargs: dict[str, Any], size: int) -> None:
    model, shapes = build(name, kwargs, size)
    wiring = prunable_wiring(model, shapes)
    assert {group.name for group in wiring.groups if group.frozen} == set(outputs(name, kwargs))
    plan = random_plan(wiring)
    removed = plan.removed_units(wiring)
    assert first_difference(model, wiring, removed) is None
    small = sliced(model, wiring, plan)
    assert masked_equals_sliced(model, small, wiring, removed).passed
    image = [torch.rand(1, *shapes[0], dtype=torch.float64)]
    for each in (model, small):
        assert cost_of(each, wiring).macs == flops(each, image)
    # The oracle's own test: another unit of each of four groups gives another network.
    middle = len(plan.shares) // 2
    wrong = sliced(model, wiring, functools.reduce(another, list(plan.shares)[middle - 2 : middle + 2], plan))
    with torch.no_grad():
        right_output, wrong_output = (each(image[0]) for each in (small, wrong))
    assert (right_output - wrong_output).abs().max() > 1e-6 * right_output.abs().max()


def outputs(name: str, kwargs: dict[str, Any]) -> list[str]:
    """The layers that make what leaves the network: all that is frozen."""
    if name == "googlenet":
        return ["fc", "aux1.fc2", "aux2.fc2"] if kwargs is AUX else ["fc"]
    if name == "inception_v3":
        return ["fc", "AuxLogits.fc"] if kwargs is AUX else ["fc"]
    return {"alexnet": ["classifier.6"], "vgg11": ["classifier.6"], "vgg11_bn": ["classifier.6"]}.get(
        name, ["fc"] if "res" in name or "regnet" in name else [last_of(name)]
    )


def last_of(name: str) -> str:
    if name.startswith("mobilenet_v3"):
        return "classifier.3"
    return "classifier" if name == "densenet121" else "classifier.1"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "regnet_x_400mf"])
def test_groups_by_labels_are_groups_by_poking(name: str) -> None:
    model, shapes = build(name, {}, 64)
    wiring = prunable_wiring(model, shapes)
    for number, group in enumerate(wiring.groups):
        if not group.frozen and number % 6 == 0:
            assert disagreement(model, wiring, group, number % group.channels) == set(), group.name


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_dead_filters_are_what_l1_picks_and_nothing_changes(name: str) -> None:
    model, shapes = build(name, {}, 64)
    wiring = prunable_wiring(model, shapes)
    plan = random_plan(wiring)
    silence(model, wiring, plan)
    assert plan.decide(scores(model, wiring, plan)) == plan
    image = torch.rand(2, *shapes[0], dtype=torch.float64)
    with torch.no_grad():
        wanted, got = model(image), sliced(model, wiring, plan)(image)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_cut_and_trained(name: str) -> None:
    """In training the heads are read too: masked equals sliced there, and a step moves every parameter."""
    model, shapes = build(name, AUX, 96 if name == "googlenet" else 299)
    wiring = prunable_wiring(model, shapes)
    plan = random_plan(wiring)
    small = sliced(model, wiring, plan)
    masked = copy.deepcopy(model)
    mask(masked, wiring, plan.removed_units(wiring))
    image = torch.rand(2, *shapes[0], dtype=torch.float64)
    wanted, got = (output_tensors(each.train()(image)) for each in (masked, small))
    assert len(got) == (3 if name == "googlenet" else 2)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    before = {key: parameter.detach().clone() for key, parameter in small.named_parameters()}
    sum(output.square().mean() for output in got).backward()  # type: ignore[union-attr]
    torch.optim.SGD(small.parameters(), lr=0.1).step()
    for key, parameter in small.named_parameters():
        assert parameter.isfinite().all()
        assert not torch.equal(parameter, before[key]), key


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_large", "regnet_y_400mf"])
def test_squeeze_and_excite_does_not_freeze_its_block(name: str) -> None:
    """Every inner channel may go; a gate's last layer goes with the channels that it scales, uncoupled."""
    model, shapes = build(name, {}, 64)
    wiring = prunable_wiring(model, shapes)
    gates = [layer for layer in wiring.layers if layer.name.endswith(("fc1", "fc2"))]
    assert gates
    for layer in gates:
        (group,) = wiring.groups_of(layer.weight)
        assert group.reason is None
        scaled = next(each for each in wiring.layers if each.weight == group.sources[0])
        assert (scaled.name == layer.name) == layer.name.endswith("fc1")
