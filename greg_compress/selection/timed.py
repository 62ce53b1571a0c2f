"""From a target in measured time to counts, and the multiple of channels that measured times are best for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy
import torch
from torch import nn

from greg_compress.criteria.scores import Scores
from greg_compress.errors import RequestError
from greg_compress.latency_target.layers import Integers
from greg_compress.latency_target.predict import Prediction
from greg_compress.latency_target.reach import Goal, clock, reach
from greg_compress.latency_target.surface import BLOCK, Floats, widths
from greg_compress.options.selecting import Scope, Selection
from greg_compress.reporting import Reporter
from greg_compress.selection.counts import amount_of, asked_groups, resolve
from greg_compress.selection.limits import Limits, limits_of
from greg_compress.selection.plan import Plan, Share
from greg_compress.wiring.groups import Group, Wiring

MULTIPLES = (1, 4, 8, 16, 32)
ALIKE = 0.05
"""How far the MACs of a rounded plan may be from those of the plan that was asked for."""


def resolve_timed(model: nn.Module, wiring: Wiring, selection: Selection, scores: Scores, ui: Reporter) -> Plan:
    """The plan (counts) of a selection that depends on measured times.

    Raises:
        RequestError: the selection does not fit the network, or its target cannot be reached.
    """
    if selection.auto_align:
        return _aligned(model, wiring, selection, scores, ui)
    groups = asked_groups(wiring, selection)
    limits = {group.name: limits_of(group, wiring, selection.align, selection.cap) for group in groups}
    choices = {group.name: _choices(group, wiring, limits[group.name]) for group in groups}
    free = [group for group in groups if len(choices[group.name]) > 1]
    if not free:
        return Plan({})
    option, _, text = selection.text.partition(" ")
    goal = Goal(option, text, selection.target_latency, selection.target_speedup, selection.threads, selection.batch)
    counts = [choices[group.name] for group in free]
    with clock(model, wiring, free, selection.threads, selection.batch, ui) as timed:
        kept, met = reach(goal, timed, counts, lambda found: _worth(selection, found, free, counts, scores), ui)
    shares = {
        group.name: Share(group.channels, int(count))
        for group, count in zip(free, kept, strict=True)
        if count < group.channels
    }
    return Plan(shares, solution=met)


def _choices(group: Group, wiring: Wiring, limits: Limits) -> Integers:
    """How many units a group may keep, ascending: those whose channels are measured, and all in whole blocks.

    Between what was measured a few channels more may cost a block.
    """
    filters = wiring.filters(group.sources[0])[1]
    each = max(1, int(torch.isin(filters, group.units).sum()) // group.channels)
    known = {count // each for count in (*widths(each * group.channels), *range(BLOCK, filters.numel(), BLOCK))}
    counts = {limits.aligned(count) for count in known if count >= limits.channels - limits.most}
    return numpy.array(sorted({*counts, limits.channels}), dtype=numpy.int64)


def _worth(
    selection: Selection, found: Prediction, groups: Sequence[Group], counts: Sequence[Integers], scores: Scores
) -> list[Floats]:
    """What keeping so many units of each group is worth.

    With one threshold for all groups, the scores of the units that stay. Else the logarithm of their number, times
    what the layers take that make or read them: were time in proportion to MACs, the same ratio of every group would
    be worth the most; where fewer channels save little time, fewer go.
    """
    if selection.scope is Scope.GLOBAL:
        kept = [scores.comparable(group.name).sort(descending=True).values.cumsum(0).numpy() for group in groups]
        return [total[each - 1] for total, each in zip(kept, counts, strict=True)]
    return [found.share(at) * numpy.log(each) for at, each in enumerate(counts)]


def _aligned(model: nn.Module, wiring: Wiring, selection: Selection, scores: Scores, ui: Reporter) -> Plan:
    """The plan whose kept channels are multiples of what takes the least time by prediction, at about the same MACs."""
    groups = asked_groups(wiring, selection)
    amount = amount_of(model, wiring, groups, scores, "macs")
    plans = dict[int, Plan]()
    for multiple in MULTIPLES:
        try:
            plans[multiple] = resolve(model, wiring, replace(selection, auto_align=False, align=multiple), scores)
        except RequestError:
            if multiple == 1:
                raise
    if not plans[1].shares:
        return plans[1]
    asked = amount(plans[1])
    alike = {multiple: plan for multiple, plan in plans.items() if abs(amount(plan) / asked - 1) <= ALIKE}
    if all(plan.counts == plans[1].counts for plan in alike.values()):
        ui.note("--align auto: there is nothing to round")
        return plans[1]
    with clock(model, wiring, groups, selection.threads, selection.batch, ui) as timed:
        times = {multiple: float(timed.prediction.at(_kept(plan, groups))) for multiple, plan in alike.items()}
    best = min(times, key=lambda multiple: times[multiple])
    ui.note(f"--align auto: multiples of {best}; predicted: {_listed(times)} (dense {timed.dense.p50_ms:.3g} ms)")
    return alike[best]


def _kept(plan: Plan, groups: Sequence[Group]) -> Integers:
    return numpy.array([plan.kept_in(group) for group in groups], dtype=numpy.int64)


def _listed(times: Mapping[int, float]) -> str:
    return ", ".join(f"{multiple}: {time:.3g} ms" for multiple, time in times.items())
