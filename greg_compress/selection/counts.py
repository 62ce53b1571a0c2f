"""How many units each group keeps: by a ratio of its own or one threshold over all, capped and rounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

import torch
from torch import Tensor, nn

from greg_compress.criteria.scores import Scores
from greg_compress.errors import RequestError
from greg_compress.options.selecting import Scope, Selection
from greg_compress.selection.estimate import Estimate
from greg_compress.selection.limits import Limits, limits_of
from greg_compress.selection.plan import Plan, Share
from greg_compress.selection.planned import fitted
from greg_compress.selection.ratios import Ratios, units_to_remove, whole_units
from greg_compress.selection.resolve import asked_ratios
from greg_compress.selection.target import reach
from greg_compress.wiring.groups import Group, Wiring

EVERY = Ratios("", uniform=Decimal("0.5"))
"""Reaches the groups that one number for all does; which number is another question."""


def resolve(model: nn.Module, wiring: Wiring, selection: Selection, scores: Scores) -> Plan:
    """The plan (counts, and the units that a plan file decides) that a selection means for this network.

    Raises:
        RequestError: the selection does not fit the network, or its target cannot be reached.
    """
    if selection.plan is not None:
        return fitted(selection.plan, wiring)
    asked = _asked(wiring, selection)
    groups = asked_groups(wiring, selection)
    counting = Counting(wiring, groups, selection, scores)
    if selection.ratios is None:
        return _solved(model, wiring, groups, selection, counting, scores)
    if selection.scope is Scope.GLOBAL:
        assert selection.ratios.uniform is not None
        return counting.at(selection.ratios.uniform)
    return counting.by(asked)


def asked_groups(wiring: Wiring, selection: Selection) -> list[Group]:
    """The groups that a selection other than a plan file asks to lose something.

    Raises:
        RequestError: the selection does not fit the network.
    """
    asked = _asked(wiring, selection)
    groups = [group for group in wiring.groups if group.name in asked]
    if selection.coupled:
        _require_coupled(wiring, groups)
    return groups


def _asked(wiring: Wiring, selection: Selection) -> dict[str, Decimal]:
    return asked_ratios(selection.ratios or EVERY, selection.skip, wiring, coupled=selection.coupled)


def _require_coupled(wiring: Wiring, asked: Sequence[Group]) -> None:
    if not (coupled := [group for group in wiring.groups if group.coupled and not group.frozen]):
        raise RequestError("--coupled would have no effect: no addition ties layers of this network")
    if not any(group.coupled for group in asked):
        raise RequestError(
            "--coupled would have no effect: this selection asks for no coupled group, like that of"
            f" {coupled[0].name}; leave it out"
        )


class Counting:
    """Plans (counts alone) for the groups that a selection asks for."""

    def __init__(self, wiring: Wiring, groups: Sequence[Group], selection: Selection, scores: Scores) -> None:
        self._limits = {group.name: limits_of(group, wiring, selection.align, selection.cap) for group in groups}
        self._aligns = selection.align is not None
        self._queue = Queue(self._limits, scores.comparable) if selection.scope is Scope.GLOBAL and groups else None

    def at(self, ratio: Decimal) -> Plan:
        """One ratio for all: of each group, or with one threshold of all their units."""
        if self._queue is None:
            return self.by(dict.fromkeys(self._limits, ratio))
        return self._limited(self._queue.first(ratio))

    def by(self, ratios: Mapping[str, Decimal]) -> Plan:
        """A ratio for each group."""
        return self._limited(
            {name: units_to_remove(ratio, self._limits[name].channels) for name, ratio in ratios.items()}
        )

    def _limited(self, lost: Mapping[str, int]) -> Plan:
        before, after = {}, {}
        for name, limits in self._limits.items():
            if (count := min(lost.get(name, 0), limits.most)) == 0:
                continue
            kept = limits.channels - count
            before[name] = Share(limits.channels, kept)
            if (rounded := limits.aligned(kept)) < limits.channels:
                after[name] = Share(limits.channels, rounded)
        return Plan(after, Plan(before) if self._aligns else None)


class Queue:
    """All units that may go, in the order in which a threshold that rises from zero takes them.

    A group that has lost the most that it may leaves the queue; the others go on.
    """

    def __init__(self, limits: Mapping[str, Limits], scores: Callable[[str], Tensor]) -> None:
        self._names = list(limits)
        self._total = sum(each.channels for each in limits.values())
        lowest = [scores(name).sort().values[: each.most] for name, each in limits.items()]
        owners = torch.arange(len(lowest)).repeat_interleave(torch.tensor([part.numel() for part in lowest]))
        self._owners = owners[torch.cat(lowest).sort(stable=True).indices]

    def first(self, ratio: Decimal) -> dict[str, int]:
        """How many units each group loses when that share of all units goes."""
        lost = self._owners[: whole_units(ratio, self._total)].bincount(minlength=len(self._names))
        return dict(zip(self._names, lost.tolist(), strict=True))


def _solved(
    model: nn.Module,
    wiring: Wiring,
    groups: Sequence[Group],
    selection: Selection,
    counting: Counting,
    scores: Scores,
) -> Plan:
    """The plan that reaches the selection's target."""
    amount = amount_of(model, wiring, groups, scores, "params" if selection.target_macs is None else "macs")
    dense = amount(Plan({}))
    more = {} if selection.coupled else asked_ratios(EVERY, selection.skip, wiring, coupled=True)
    wider = ", or add --coupled" if len(more) > len(groups) else ""
    return reach(selection, counting.at, lambda plan: amount(plan) / dense, wider)


def amount_of(
    model: nn.Module, wiring: Wiring, groups: Sequence[Group], scores: Scores, what: Literal["macs", "params"]
) -> Callable[[Plan], int]:
    """What plans of these groups leave of a network when the units with the least scores go."""
    estimate = Estimate(model, wiring)
    leaving = {group.name: group.units[torch.sort(scores[group.name], stable=True).indices] for group in groups}
    nothing = torch.empty(0, dtype=torch.int64)

    def amount(plan: Plan) -> int:
        parts = [leaving[name][: share.channels - share.kept] for name, share in plan.shares.items()]
        return int(getattr(estimate.after(torch.cat([nothing, *parts])), what))

    return amount
