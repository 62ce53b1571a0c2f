"""How long timed runs took: of each file the share of runs that were done within a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import FigureBase
from matplotlib.ticker import PercentFormatter

from greg_compress.figures.style import BLUE, GREEN, ORANGE, number

LOOKS: tuple[tuple[str, str], ...] = ((BLUE, "-"), (ORANGE, "--"), (GREEN, ":"))
SHOWN = 0.975
"""Share of the runs in the picture: the slowest of them would squeeze the rest."""


@dataclass(frozen=True)
class Runs:
    """One file's timed runs."""

    name: str
    quantiles: Sequence[float]
    """Milliseconds, evenly spaced from the least to the greatest; at least two."""
    p50: float
    interval: tuple[float, float] | None
    """Of the p50."""


@dataclass(frozen=True)
class Latencies:
    """Files that were timed in turn."""

    files: Sequence[Runs]

    height = 3.4

    def draw(self, space: FigureBase) -> None:
        space.suptitle("Runs that were done within a time")
        axes = space.subplots()
        for (color, style), runs in zip(LOOKS, self.files, strict=False):
            shares = np.linspace(0, 100, len(runs.quantiles))
            axes.plot(runs.quantiles, shares, style, color=color, label=f"{runs.name}, p50 {number(runs.p50)} ms")
            axes.plot([runs.p50], [50], "D", color=color, markersize=5, zorder=4)
            if runs.interval is not None:
                axes.plot(runs.interval, [50, 50], "|-", color=color, markersize=11, linewidth=2.4, zorder=3)
        ends = [float(np.interp(SHOWN, np.linspace(0, 1, len(each.quantiles)), each.quantiles)) for each in self.files]
        starts = [each.quantiles[0] for each in self.files]
        room = 0.06 * (max(ends) - min(starts)) or 0.1 * max(ends)
        axes.set_xlim(min(starts) - room, max(ends) + room)
        axes.set_ylim(-2, 102)
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
        axes.set_ylabel("runs")
        axes.set_xlabel("milliseconds; the bar at 50 % is the interval of the p50")
        space.legend(loc="outside right center")
