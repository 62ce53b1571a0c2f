"""Show the resolved plan before anything is done."""

from __future__ import annotations

from torch import nn

from greg_compress.reporting import Reporter
from greg_compress.selection.plan import Plan
from greg_compress.surgery.effect import cost_after, cost_of, reduction
from greg_compress.wiring.groups import Wiring


def show_plan(model: nn.Module, wiring: Wiring, plan: Plan, ui: Reporter) -> None:
    """Print channels and kept channels of every group that loses some, and what the cut would leave."""
    _show_counts(plan, ui)
    left = [group for group in wiring.groups if group.name not in plan.shares]
    effect = reduction(cost_of(model, wiring), cost_after(model, wiring, plan.removed_units(wiring)))
    ui.note(
        f"groups that lose units: {len(plan.shares)}, left alone: {len(left)};"
        f" {effect['macs_speedup']:.2f}x fewer MACs, sparsity {effect['sparsity']:.2f}% after the cut"
    )
    if plan.solution is not None:
        ui.note(str(plan.solution))


def _show_counts(plan: Plan, ui: Reporter) -> None:
    """A row for each group that loses units; where --align rounded, for each that was asked to."""
    if plan.asked is None:
        rows = [(name, share.channels, share.kept) for name, share in plan.shares.items()]
        ui.table("plan", ("group", "units", "kept"), rows)
        return
    kept = plan.counts
    rounded = [
        (name, share.channels, share.kept, kept.get(name, share.channels)) for name, share in plan.asked.shares.items()
    ]
    ui.table("plan", ("group", "units", "asked", "kept"), rounded)
