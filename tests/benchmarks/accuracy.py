"""Accuracy against Torch-Pruning's GrowingRegPruner and GroupNormPruner: same base, MACs, images and iterations.

Usage: python tests/benchmarks/accuracy.py BASE --data DATA --ratio R [--seed N] [--scale F] > theirs.json
(pip install torch-pruning). BASE is a dense state of greg's. Each method trains with its regularizer for as long as
preset quick's phase, cuts to the MACs that ratio R leaves of BASE in greg, and is fine-tuned as `greg finetune` does;
all in greg's own training loop, both lengths F times as long, as by `greg run --scale F`. The regularizers' strengths
are the defaults of Torch-Pruning's reproduce/main.py.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning  # type: ignore[import-not-found]
from torch import nn

from greg_compress.cost import layer_macs
from greg_compress.fit import fitting, normalization_of
from greg_compress.options.network import ModelOptions
from greg_compress.options.penalty import PenaltyOptions, Preset
from greg_compress.options.selecting import Selection
from greg_compress.options.training import Decay, Precision
from greg_compress.penalty.presets import PRESETS
from greg_compress.penalty.schedule import scaled_schedule
from greg_compress.selection.choose import choose
from greg_compress.selection.ratios import parse_ratios
from greg_compress.sources.data import load_data
from greg_compress.sources.specs import parse_data
from greg_compress.state.models import Opened, open_model
from greg_compress.surgery.effect import cost_after
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.training import numerics
from greg_compress.training.batches import Batches
from greg_compress.training.evaluation import evaluate
from greg_compress.training.loop import Loop, Settings
from greg_compress.training.schedule import Schedule
from greg_compress.wiring.groups import find_groups

CPU = torch.device("cpu")
UPDATES = 100
"""GrowingRegPruner's update_reg is called so often, evenly spread: its authors call it once in each of 100 epochs."""
METHODS = {
    "GrowingRegPruner": (torch_pruning.pruner.GrowingRegPruner, {"reg": 5e-4, "delta_reg": 1e-4}),
    "GroupNormPruner": (torch_pruning.pruner.GroupNormPruner, {"reg": 5e-4}),
}


class Theirs:
    """A pruner of theirs as the regularizer of our loop."""

    phase, finished = "regularizing", False

    def __init__(self, pruner: Any, model: nn.Module, every: int) -> None:
        self._pruner, self._model, self._every, self._iteration = pruner, model, every, 0

    def add_gradients(self) -> None:
        self._pruner.regularize(self._model)
        self._iteration += 1
        if hasattr(self._pruner, "update_reg") and self._iteration % self._every == 0:
            self._pruner.update_reg()

    def status(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: no run here is resumed."""


def macs(model: nn.Module, shapes: Any) -> int:
    wiring = find_groups(model, shapes)
    return sum(layer_macs(model, shapes, wiring.layers).values())


def cut_to(wanted: int, make: Callable[[nn.Module, float], Any], model: nn.Module, shapes: Any) -> nn.Module:
    """Halve the interval of ratios until the MACs are the wanted ones or next to them."""
    low, high, best = 0.0, 0.99, copy.deepcopy(model)
    for _ in range(12):
        victim, ratio = copy.deepcopy(model), (low + high) / 2
        make(victim, ratio).step()
        found = macs(victim, shapes)
        if abs(found - wanted) < abs(macs(best, shapes) - wanted):
            best = victim
        low, high = (ratio, high) if found > wanted else (low, ratio)
    return best


def train(model: nn.Module, batches: Batches, schedule: Schedule, seed: int, regularizer: Any = None) -> None:
    precision = numerics.resolve_precision(Precision.AUTO, CPU)
    settings = Settings(momentum=0.9, weight_decay=5e-4, precision=precision, device=CPU, seed=seed)
    for iteration in Loop(model, batches, schedule, settings, regularizer):
        if iteration % 500 == 0:
            print(f"iteration {iteration} of {schedule.total}", file=sys.stderr, flush=True)


def chain(opened: Opened, method: str, data: Any, wanted: int, seed: int, epochs: int, scale: float) -> dict[str, Any]:
    model, shapes = copy.deepcopy(opened.model).to(memory_format=torch.channels_last), opened.state.input_shapes  # type: ignore[call-overload]
    normalization = normalization_of(opened.state)
    batches = Batches(data.train, normalization, 128, seed)
    kind, strength = METHODS[method]

    def make(network: nn.Module, ratio: float) -> Any:
        classifier = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
        importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        example = torch.rand(1, *shapes[0])
        return kind(network, example, importance, pruning_ratio=ratio, ignored_layers=classifier, **strength)

    def top1(network: nn.Module) -> float:
        return evaluate(network, data.test, normalization, CPU).top1

    phase = scaled_schedule(PenaltyOptions(), len(batches), 5e-4, scale).iterations
    regularizer = Theirs(make(model, 0.5), model, max(1, phase // UPDATES))
    train(model, batches, Schedule(PRESETS[Preset.QUICK].lr, phase), seed, regularizer)
    result = {"method": method, "end_of_phase": top1(model)}
    model = cut_to(wanted, make, model.eval(), shapes)
    result |= {"macs": macs(model, shapes), "after_the_cut": top1(model)}
    total = round(scale * epochs * len(batches))
    train(model, batches, Schedule(0.02, total, Decay.COSINE, total // 20), seed)
    return {**result, "top1": top1(model), "iterations": phase + total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--data", required=True)
    parser.add_argument("--ratio", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    asked = parser.parse_args()
    numerics.flush_denormals()
    numerics.keep_freed_memory()
    opened = open_model(ModelOptions(asked.base))
    data = fitting(opened, load_data(parse_data(asked.data), False, None))
    wiring = prunable_wiring(opened.model, opened.state.input_shapes)
    plan = choose(opened.model, wiring, Selection(parse_ratios(asked.ratio)))
    wanted = cost_after(opened.model, wiring, plan.removed_units(wiring)).macs
    rows = [chain(opened, method, data, wanted, asked.seed, asked.epochs, asked.scale) for method in asked.methods]
    of = {"ratio": asked.ratio, "seed": asked.seed, "scale": asked.scale, "macs_wanted": wanted}
    print(json.dumps({**of, "rows": rows}, indent=2))


main()
