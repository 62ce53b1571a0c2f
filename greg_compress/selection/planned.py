"""Plan files against a network: what a file that was read means here, and how a plan is written."""

from __future__ import annotations

import json
from itertools import zip_longest

from greg_compress.errors import RequestError
from greg_compress.selection.plan import Plan, Share
from greg_compress.selection.plan_file import FORMAT, VERSION, PlanFile, PlannedGroup
from greg_compress.wiring.groups import Group, Wiring


def fitted(file: PlanFile, wiring: Wiring) -> Plan:
    """The plan that a file means for this network; units that it leaves open are not decided.

    A plan says everything itself: it may remove from coupled groups.

    Raises:
        RequestError: it is a plan of another network, or removes from a frozen group.
    """
    for there, here in zip_longest(file.groups, wiring.groups):
        if (difference := _difference(there, here, file, wiring)) is not None:
            raise RequestError(
                f"{file.path} is a plan of another network: the first layer that differs is {difference};"
                " make one with greg analyze --plan-out"
            )
    shares = {}
    for planned, group in zip(file.groups, wiring.groups, strict=True):
        if planned.kept == planned.channels:
            continue
        if group.frozen:
            raise RequestError(
                f"{file.path} removes {planned.channels - planned.kept} units of {group.name}, which is"
                f" {group.reason}; set its kept to {group.channels}"
            )
        shares[group.name] = Share(planned.channels, planned.kept, planned.removed)
    return Plan(shares)


def _difference(there: PlannedGroup | None, here: Group | None, file: PlanFile, wiring: Wiring) -> str | None:
    """How a group of the file differs from the one in its place in the network; None if it does not."""
    if there is not None and here is not None and there.name == here.name:
        units = f"{there.channels} units there, {here.channels} here"
        return None if there.channels == here.channels else f"{here.name}, {units}"
    if here is not None and all(planned.name != here.name for planned in file.groups):
        instead = f" ({there.name} stands in its place)" if there is not None else ""
        return f"{here.name}, {here.channels} units here and none there{instead}"
    if there is not None and all(group.name != there.name for group in wiring.groups):
        return f"{there.name}, {there.channels} units there and none here"
    return f"{here.name if here else 'none'} here, {there.name if there else 'none'} there: the order is another"


def written(plan: Plan, wiring: Wiring) -> str:
    """The content of a plan file: all groups in order, one in a line, those that lose nothing too."""
    lines = []
    for group in wiring.groups:
        share = plan.shares.get(group.name, Share(group.channels, group.channels, ()))
        removed = None if share.removed is None else list(share.removed)
        entry = {"name": group.name, "channels": share.channels, "kept": share.kept, "removed": removed}
        lines.append("  " + json.dumps(entry))
    head = f'{{"format": {json.dumps(FORMAT)}, "version": {VERSION}, "groups": ['
    return "\n".join([head, ",\n".join(lines), "]}", ""])
