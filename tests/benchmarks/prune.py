"""Trace, plan and cut by half, against Torch-Pruning (pip install torch-pruning); and how the time grows with depth.

Usage: python tests/benchmarks/prune.py [torchvision names]. Both take turns in one process, real weights and all.
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

from greg_compress.options.selecting import Selection
from greg_compress.selection.choose import choose
from greg_compress.selection.ratios import parse_ratios
from greg_compress.surgery.cut import cut
from greg_compress.surgery.replay import first_difference
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import find_groups
from greg_compress.wiring.skeleton import Shapes

NAMES = ("resnet50", "vgg16_bn", "densenet121", "mobilenet_v2", "inception_v3", "googlenet")
DEEPER = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
ROUNDS = 3


def build(name: str) -> tuple[nn.Module, Shapes]:
    kwargs = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = 299 if name == "inception_v3" else 224
    return torchvision.models.get_model(name, **kwargs).eval(), ((3, size, size),)


def ours(model: nn.Module, shapes: Shapes) -> None:
    """Trace, trial cut, choose by L1, prove on labels, cut."""
    wiring = prunable_wiring(model, shapes)
    removed = choose(model, wiring, Selection(parse_ratios("0.5"))).removed_units(wiring)
    assert first_difference(model, wiring, removed) is None
    cut(model, wiring, removed)


def theirs(model: nn.Module, shapes: Shapes) -> None:
    """Its magnitude pruner, which cuts residual stages too and proves nothing."""
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        torch.rand(1, *shapes[0]),
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=classifier,
    )
    pruner.step()


def seconds(prune: Callable[[nn.Module, Shapes], None], model: nn.Module, shapes: Shapes) -> float:
    victim = copy.deepcopy(model)
    start = time.perf_counter()
    prune(victim, shapes)
    return time.perf_counter() - start


def compare(names: tuple[str, ...]) -> None:
    total = [0.0, 0.0]
    for name in names:
        model, shapes = build(name)
        pairs = [(seconds(ours, model, shapes), seconds(theirs, model, shapes)) for _ in range(ROUNDS)]
        a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
        total = [total[0] + a, total[1] + b]
        print(f"{name}: greg {a:.2f} s with proof, Torch-Pruning {b:.2f} s, {b / a:.1f} times as long", flush=True)
    print(f"all: greg {total[0]:.2f} s, Torch-Pruning {total[1]:.2f} s, {total[1] / total[0]:.1f} times as long")


def grow() -> None:
    for name in DEEPER:
        model, shapes = build(name)
        operations = len(find_groups(model, shapes).trace.operations)
        taken = statistics.median(seconds(ours, model, shapes) for _ in range(ROUNDS))
        print(
            f"{name}: {taken:.2f} s, {1e6 * taken / operations:.0f} us for each of {operations} operations", flush=True
        )


compare(tuple(sys.argv[1:]) or NAMES)
if not sys.argv[1:]:
    grow()
