"""What ratio 0.5 takes from each family of torchvision, and how exactly masked equals sliced.

Usage: python tests/benchmarks/families.py [names]. Prints a table in Markdown.
"""

from __future__ import annotations

import copy
import sys
import time

import torch
import torchvision
from torch import nn

from greg_compress.options import Selection
from greg_compress.selection.choose import choose
from greg_compress.selection.ratios import parse_ratios
from greg_compress.surgery.cut import cut
from greg_compress.surgery.effect import cost_of, reduction
from greg_compress.surgery.masking import masked_equals_sliced
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.skeleton import Shapes

NAMES = (
    *("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg16", "vgg16_bn", "alexnet", "densenet121"),
    *("googlenet", "inception_v3", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_large", "mnasnet1_0"),
    *("efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf"),
)


def settled(name: str) -> tuple[nn.Module, Shapes]:
    """A fresh network whose BatchNorms have the statistics of a batch: else its output may hang on nothing."""
    torch.manual_seed(0)
    kwargs = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, **kwargs)
    shape = (3, 299, 299) if name == "inception_v3" else (3, 224, 224)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(4, *shape))
    return model.eval(), (shape,)


print("| network | groups: free, coupled, frozen | MACs | fewer MACs | sparsity | largest error | wiring |")
print("|---|---|---|---|---|---|---|")
for name in sys.argv[1:] or NAMES:
    model, shapes = settled(name)
    start = time.perf_counter()
    wiring = prunable_wiring(model, shapes)
    seconds = time.perf_counter() - start
    removed = choose(model, wiring, Selection(parse_ratios("0.5"))).removed_units(wiring)
    small = copy.deepcopy(model)
    cut(small, wiring, removed)
    error = masked_equals_sliced(model, small, wiring, removed).max_rel_error
    before, after = (cost_of(network, wiring) for network in (model, small))
    effect = reduction(before, after)
    frozen = sum(bool(group.frozen) for group in wiring.groups)
    coupled = sum(group.coupled and not group.frozen for group in wiring.groups)
    print(
        f"| {name} | {len(wiring.groups) - coupled - frozen}, {coupled}, {frozen} | {before.macs / 1e6:,.0f} M"
        f" | {effect['macs_speedup']:.2f}x | {effect['sparsity']:.1f}% | {error:.0e} | {seconds:.1f} s |",
        flush=True,
    )
