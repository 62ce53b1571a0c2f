"""Ten small networks of the coverage table (`tests/benchmarks/coverage.md`), plainly and with `--coupled`."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from greg_compress.options.selecting import Selection
from greg_compress.selection.choose import choose
from greg_compress.selection.ratios import parse_ratios
from greg_compress.sources import models
from greg_compress.sources.specs import parse_architecture
from greg_compress.surgery.masking import masked_equals_sliced
from greg_compress.surgery.replay import first_difference
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import Wiring, find_groups
from greg_compress.wiring.skeleton import Shape
from tests.cutting import another, sliced

pytest.importorskip("timm")
OUTPUTS, HEADS, LINE_UP = "it is the network's output", "whose heads have a fixed shape", "would no longer line up"
ALL_AT_ONCE = "could only go all at once"
IMAGE = (3, 64, 64)
NETWORKS: list[tuple[str, Shape, int, int, set[str]]] = [
    ("torchvision:shufflenet_v2_x0_5", IMAGE, 20, 0, {ALL_AT_ONCE}),
    ("torchvision:convnext_tiny", IMAGE, 18, 4, set()),
    ("torchvision:swin_t", IMAGE, 12, 0, {HEADS, LINE_UP}),
    ("torchvision:lraspp_mobilenet_v3_large", IMAGE, 24, 6, set()),
    ("torchvision:r3d_18", (3, 4, 32, 32), 8, 4, set()),
    ("torchvision:ssdlite320_mobilenet_v3_large/backbone", IMAGE, 25, 6, set()),
    ("timm:starnet_s050", IMAGE, 7, 4, set()),
    ("timm:tinynet_e", IMAGE, 25, 3, set()),
    ("timm:cs3darknet_s", IMAGE, 23, 0, {LINE_UP}),
    ("timm:edgenext_xx_small", IMAGE, 12, 1, {HEADS, LINE_UP}),
]
"""Name, input, how many groups are free and coupled, and what freezes others besides being outputs."""


def settled(spec: str, shape: Shape) -> nn.Module:
    """A network whose BatchNorms have the statistics of a batch, and whose every layer counts."""
    torch.manual_seed(0)
    model, _ = models.build(parse_architecture(spec, ()))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    for name, parameter in model.named_parameters():
        if re.search(r"layer_scale|gamma", name):
            nn.init.ones_(parameter)
    with torch.no_grad():
        model.train()(torch.rand(4, *shape))
    return model.eval()


@pytest.mark.parametrize(("spec", "shape", "free", "coupled", "reasons"), NETWORKS, ids=[n[0] for n in NETWORKS])
def test_networks_of_the_table(spec: str, shape: Shape, free: int, coupled: int, reasons: set[str]) -> None:
    model = settled(spec, shape)
    wiring = prunable_wiring(model, (shape,))
    assert sum(group.reason is None for group in wiring.groups) == free
    assert sum(group.coupled and not group.frozen for group in wiring.groups) == coupled
    frozen = [group.frozen for group in wiring.groups if group.frozen and OUTPUTS not in group.frozen]
    assert {word for word in (HEADS, LINE_UP, ALL_AT_ONCE) if any(word in reason for reason in frozen)} == reasons
    is_right(model, wiring, Selection(parse_ratios("0.5")))
    if coupled:
        is_right(model, wiring, Selection(parse_ratios("*=0.5"), coupled=True))


def is_right(model: nn.Module, wiring: Wiring, selection: Selection) -> None:
    """By labels and by numbers, and the numbers notice another unit in one of four groups."""
    plan = choose(model, wiring, selection)
    removed = plan.removed_units(wiring)
    assert first_difference(model, wiring, removed) is None
    assert masked_equals_sliced(model, sliced(model, wiring, plan), wiring, removed).passed
    wrong = plan
    for name in list(plan.shares)[:: max(1, len(plan.shares) // 4)]:
        wrong = another(wrong, name)
    assert not masked_equals_sliced(model, sliced(model, wiring, wrong), wiring, removed).passed


def test_training_is_replayed_only_where_it_does_something_else() -> None:
    def alike(spec: str, *arguments: str) -> bool:
        model, _ = models.build(parse_architecture(spec, arguments))
        return find_groups(model, ((3, 96, 96),)).trace.trains_alike

    assert alike("torchvision:resnet18")
    assert alike("torchvision:efficientnet_b0")  # dropout, and whole samples dropped
    assert not alike("torchvision:googlenet", "init_weights=false")  # auxiliary heads
