"""From a network and a selection to a decided plan: the one way that every stage takes."""

from __future__ import annotations

from torch import nn

from greg_compress import criteria
from greg_compress.options import Selection
from greg_compress.selection.plan import Plan, require_effect
from greg_compress.selection.resolve import resolve
from greg_compress.wiring.groups import Wiring


def choose(model: nn.Module, wiring: Wiring, selection: Selection) -> Plan:
    """Resolve ratios to counts, and pick the units with the least L1 norms.

    Raises:
        RequestError: the selection does not fit the network.
        CheckFailed: it removes nothing.
    """
    plan = resolve(selection.ratios, selection.skip, wiring)
    require_effect(plan, wiring)
    return by_l1(model, wiring, plan)


def by_l1(model: nn.Module, wiring: Wiring, plan: Plan) -> Plan:
    """Decide a plan's counts anew, by the L1 norms that the network has now."""
    scores = {group.name: criteria.l1(model, wiring, group) for group in wiring.groups if group.name in plan.shares}
    return plan.decide(scores)
