"""The norms of one layer's filters at several iterations: the paper's Figure 1, row 2, and Figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from greg_compress.figures.style import BLUE, LONGEST_NAME, ORANGE, number, short

MANY = 150
"""Filters; beyond them their marks are smaller."""


@dataclass(frozen=True)
class Snapshot:
    """Norms after so many iterations."""

    iteration: int
    strength: float
    norms: Sequence[float]


@dataclass(frozen=True)
class Norms:
    """One layer's filters, largest first in each panel."""

    layer: str
    units: int
    """Of the layer; snapshots may show fewer."""
    snapshots: Sequence[Snapshot]
    picked: Sequence[bool] | None
    """Of the norms in a snapshot, those of units that were picked; None where that is not known."""

    height = 3.1

    def draw(self, space: FigureBase) -> None:
        some = len(self.snapshots[0].norms)
        less = "" if some == self.units else f", {some} of {self.units:,} evenly chosen"
        space.suptitle(f"Filter norms of {short([self.layer], longest=2 * LONGEST_NAME)[0]}{less}")
        panels = space.subplots(1, len(self.snapshots), sharex=True, sharey=True, squeeze=False)[0]
        for axes, snapshot in zip(panels, self.snapshots, strict=True):
            order = sorted(range(some), key=lambda unit: -snapshot.norms[unit])
            largest = max(snapshot.norms) or 1.0
            heights = [snapshot.norms[unit] / largest for unit in order]
            for label, color, marker, wanted in self._kinds():
                chosen = [rank for rank, unit in enumerate(order) if wanted is None or wanted[unit]]
                axes.plot(
                    [rank + 1 for rank in chosen], [heights[rank] for rank in chosen], marker, color=color, label=label,
                    markersize=3 if some <= MANY else 1.8, linestyle="none",
                )  # fmt: skip
            axes.set_title(f"iteration {snapshot.iteration:,}\nλ = {number(snapshot.strength)}")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, prune="lower"))
        panels[0].set_ylim(-0.03, 1.05)
        panels[0].set_ylabel("L1 norm / the largest")
        space.supxlabel("filters, the largest first", fontsize=9)
        if self.picked is not None:
            space.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", markerscale=1.6)

    def _kinds(self) -> list[tuple[str, str, str, Sequence[bool] | None]]:
        if self.picked is None:
            return [("", BLUE, "o", None)]
        return [("kept", BLUE, "o", [not gone for gone in self.picked]), ("picked", ORANGE, "v", self.picked)]
