"""Finding groups and cutting half of every free channel, against Torch-Pruning (pip install torch-pruning).

Usage: python tests/benchmarks/prune.py [torchvision names]. Times are taken in turn in one process.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch_pruning  # type: ignore[import-not-found]
import torchvision
from torch import nn

from greg_compress.options import Selection
from greg_compress.selection.choose import choose
from greg_compress.selection.ratios import parse_ratios
from greg_compress.surgery.cut import cut
from greg_compress.surgery.replay import first_difference
from greg_compress.surgery.trial import prunable_wiring

SHAPES = ((3, 224, 224),)


def ours(model: nn.Module) -> None:
    """Trace, trial cut, choose, prove on labels, cut."""
    wiring = prunable_wiring(model, SHAPES)
    removed = choose(model, wiring, Selection(parse_ratios("0.5"))).removed_units(wiring)
    assert first_difference(model, wiring, removed) is None
    cut(model, wiring, removed)


def theirs(model: nn.Module) -> None:
    """Its magnitude pruner, which cuts residual stages too and proves nothing."""
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        torch.rand(1, *SHAPES[0]),
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=classifier,
    )
    pruner.step()


def seconds(prune: Callable[[nn.Module], None], model: nn.Module) -> float:
    victim = copy.deepcopy(model).eval()
    start = time.perf_counter()
    prune(victim)
    return time.perf_counter() - start


for name in sys.argv[1:] or ["resnet50", "vgg16_bn"]:
    model = torchvision.models.get_model(name)
    seconds(ours, model), seconds(theirs, model)  # warm
    pairs = [(seconds(ours, model), seconds(theirs, model)) for _ in range(5)]
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(y / x for x, y in pairs)
    print(f"{name}: greg {a:.2f} s with proof, Torch-Pruning {b:.2f} s; ratio {ratio:.2f}")
