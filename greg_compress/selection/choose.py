"""From a network and a selection to a decided plan: the one way that every stage takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from greg_compress.criteria.loss import Batches
from greg_compress.criteria.scores import Scores
from greg_compress.errors import CheckFailed, RequestError
from greg_compress.options.selecting import Selection
from greg_compress.reporting import Reporter
from greg_compress.selection.counts import resolve
from greg_compress.selection.plan import Plan
from greg_compress.selection.timed import resolve_timed
from greg_compress.wiring.groups import Wiring

SILENT = Reporter()


def choose(
    model: nn.Module,
    wiring: Wiring,
    selection: Selection,
    images: Callable[[], Batches] | None = None,
    ui: Reporter = SILENT,
) -> Plan:
    """Resolve a selection to counts, and pick the units with the least scores where a plan file does not.

    Args:
        images: what a criterion that needs them is measured on.
        ui: hears what measuring times takes.

    Raises:
        RequestError: the selection does not fit the network.
        CheckFailed: it removes nothing.
    """
    scores = Scores(model, wiring, selection.criterion, images)
    timed = selection.timed
    plan = resolve_timed(model, wiring, selection, scores, ui) if timed else resolve(model, wiring, selection, scores)
    _require_effect(plan, wiring, selection)
    decided = {name: share for name, share in plan.shares.items() if share.removed is not None}
    return replace(found := plan.decide(scores), shares={**found.shares, **decided})


def counts(model: nn.Module, wiring: Wiring, selection: Selection) -> Plan:
    """What a selection means for this network, be it nothing; which units go is open.

    Raises:
        RequestError: the selection does not fit the network, or depends on measured times, which are never the same.
    """
    if selection.timed:
        raise RequestError(f"{selection.text} is measured anew each time; leave it out where counts are decided")
    return resolve(model, wiring, selection, Scores(model, wiring))


def by_l1(model: nn.Module, wiring: Wiring, plan: Plan) -> Plan:
    """Decide a plan's counts anew, by the L1 norms that the network has now."""
    return plan.decide(Scores(model, wiring))


def _require_effect(plan: Plan, wiring: Wiring, selection: Selection) -> None:
    """A plan that removes nothing is never a shrug.

    Raises:
        CheckFailed: no group loses a unit.
    """
    if plan.shares:
        return
    if all(group.left_alone(selection.coupled) or group.channels == 1 for group in wiring.groups):
        what = "every group is frozen" + ("" if selection.coupled else " or coupled")
        raise CheckFailed(f"nothing can be pruned: {what}; `greg analyze` lists the reasons")
    beside = {
        "--skip": selection.skip,
        "--align": selection.align or selection.auto_align,
        "--max-ratio": selection.max_ratio,
    }
    named = [selection.option, *(option for option, value in beside.items() if value)]
    raise CheckFailed(f"this selection removes nothing from any group that could lose units; see {' and '.join(named)}")
