"""How much accuracy each group loses at a few ratios, one group at a time: what a choice of ratios goes by.

Nothing is cut, copied or traced for a point. The weights that read the removed units are zeroed in place and put
back; that such a network gives what the cut one gives is what :mod:`.surgery.masking` proves. One-shot and without
fine-tuning, as the sensitivity analysis of Li et al., "Pruning Filters for Efficient ConvNets" (2017), section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from greg_compress.cost import layer_macs
from greg_compress.criteria.scores import l1
from greg_compress.errors import CheckFailed, input_fault
from greg_compress.reporting import Progress, Reporter
from greg_compress.selection.plan import Plan, Share
from greg_compress.selection.ratios import units_to_remove
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Items, Part, Samples, evenly
from greg_compress.surgery.masking import mask, unseen
from greg_compress.training.evaluation import Accuracy, evaluate
from greg_compress.wiring.groups import Group, Wiring

RATIOS = tuple(map(Decimal, ("0.25", "0.5", "0.75", "0.9")))
MOST_HELD = 2**31
"""Bytes of images that are kept in memory instead of being read for every point: 2,000 photographs take 0.3e9."""


class Held(Part):
    """Images that a data set reads one by one, kept once they are read."""

    at_once: ClassVar[int] = Items.at_once


def spread(samples: Samples, count: int) -> Samples:
    """`count` images at equal distances, in memory if they fit."""
    chosen = evenly(samples, count)
    return _held(chosen) if isinstance(chosen, Items) else chosen


def _held(items: Items) -> Samples:
    first = replace(items, indices=items.indices[:1], workers=0)
    ((image, _),) = first.batches(torch.arange(1), 1)
    if image.nbytes * len(items) > MOST_HELD:
        return items
    with input_fault("the test images differ in shape"):
        images, labels = zip(*items.batches(torch.arange(len(items)), items.at_once), strict=True)
        return Held(torch.cat(images), torch.cat(labels))


@contextmanager
def masked(model: nn.Module, wiring: Wiring, removed: Tensor) -> Iterator[None]:
    """Zero the slices that read the units `removed` (classes), and put every bit back, whatever happens inside."""
    reading = {
        name: model.get_parameter(name)
        for name, dim in wiring.trace.consumers
        if bool(torch.isin(wiring.classes[name][dim], removed).any())
    }
    before = {name: parameter.detach().clone() for name, parameter in reading.items()}
    try:
        mask(model, wiring, removed)
        with unseen(model, wiring, removed):
            yield
    finally:
        with torch.no_grad():
            for name, parameter in reading.items():
                parameter.copy_(before[name])


@dataclass(frozen=True)
class Evaluation:
    """How a network is evaluated, masked or not."""

    model: nn.Module
    samples: Samples
    normalization: Normalization
    device: torch.device
    """Where the model is."""


def measure(evaluation: Evaluation, wiring: Wiring, groups: Sequence[Group], ui: Reporter) -> dict[str, Any]:
    """Evaluate the network without the units of least L1 norm of each of `groups`, at each of RATIOS.

    Returns:
        `samples`, `top1` (percent), `loss` of the whole network, `ratios`, and `groups` in the order given, each
        `name`, `channels`, `macs_share` (percent of the network's MACs in which the group's units take part) and
        `points` (`ratio`, `kept`, `top1`, `loss`, `top1_drop` in percentage points).

    Raises:
        CheckFailed: there is no group to measure.
    """
    if not groups:
        raise CheckFailed("no group can be measured: every one is frozen or coupled; `greg analyze` lists the reasons")
    dense = _evaluate(evaluation)
    shares = _macs_shares(evaluation.model, wiring, groups)
    pace = Pace(ui, dense, sum(len(_counts(group)) for group in groups) * _batches(evaluation.samples))
    try:
        rows = [
            {
                "name": group.name,
                "channels": group.channels,
                "macs_share": shares[group.name],
                "points": _points(evaluation, wiring, group, dense, pace),
            }
            for group in groups
        ]
    finally:
        ui.finish()
    return {
        "samples": dense.samples,
        "top1": dense.top1,
        "loss": dense.loss,
        "ratios": [float(ratio) for ratio in RATIOS],
        "groups": rows,
    }


class Pace:
    """Tells how far the points are, by batches, so that the time to go is known before the first point is."""

    def __init__(self, ui: Reporter, dense: Accuracy, total: int) -> None:
        self._ui, self._total, self._done = ui, total, 0
        self.last, self.phase = dense, ""

    def step(self) -> None:
        self._done += 1
        self._ui.progress(
            lambda: Progress(self.phase, self._done, self._total, 0, self.last.loss, self.last.top1, lr=0.0)
        )


def _points(evaluation: Evaluation, wiring: Wiring, group: Group, dense: Accuracy, pace: Pace) -> list[dict[str, Any]]:
    scores = {group.name: l1(evaluation.model, wiring, group)}
    found = {0: dense}
    for count in _counts(group):
        share = Share(group.channels, group.channels - count)
        removed = Plan({group.name: share}).decide(scores).removed_units(wiring)
        pace.phase = f"sensitivity of {group.name}"
        with masked(evaluation.model, wiring, removed):
            found[count] = pace.last = _evaluate(evaluation, pace)
    return [_point(ratio, group, dense, found[units_to_remove(ratio, group.channels)]) for ratio in RATIOS]


def _point(ratio: Decimal, group: Group, dense: Accuracy, found: Accuracy) -> dict[str, Any]:
    return {
        "ratio": float(ratio),
        "kept": group.channels - units_to_remove(ratio, group.channels),
        "top1": found.top1,
        "loss": found.loss,
        "top1_drop": dense.top1 - found.top1,
    }


def _counts(group: Group) -> list[int]:
    """How many units go, each number once: in a small group two ratios may mean the same."""
    return sorted({units_to_remove(ratio, group.channels) for ratio in RATIOS} - {0})


def _batches(samples: Samples) -> int:
    return -(-len(samples) // samples.at_once)


def _evaluate(given: Evaluation, pace: Pace | None = None) -> Accuracy:
    check = pace.step if pace else lambda: None
    return evaluate(given.model, given.samples, given.normalization, given.device, check)


def _macs_shares(model: nn.Module, wiring: Wiring, groups: Sequence[Group]) -> dict[str, float]:
    """Percent of the MACs that would go with all units of a group, in the layers that make and that read them.

    The shares of all groups may exceed 100 in sum, since a layer lies between two groups.
    """
    macs = layer_macs(model, wiring.input_shapes, wiring.layers)
    total = sum(macs.values()) + sum(layer.macs for layer in wiring.trace.unfollowed.values())
    return {
        group.name: 100 * sum(_touched(wiring, name, group) * count for name, count in macs.items()) / total
        for group in groups
    }


def _touched(wiring: Wiring, weight: str, group: Group) -> float:
    """The share of a weight's entries that make or read a group's units."""
    untouched = 1.0
    for units in wiring.classes[weight]:
        untouched *= 1 - torch.isin(units, group.units).double().mean().item()
    return 1 - untouched
