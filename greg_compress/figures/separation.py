"""Filters separate while lambda grows: the paper's Figure 1, row 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from greg_compress.figures.style import Curve, Moments, depth_colors, mark, number, plot, short

MOST_NAMED = 10
"""Layers that get a line in a legend; more get a colour bar."""
BAR_NAMES = 8


@dataclass(frozen=True)
class Separation:
    """Standard deviation of filter norms over their mean, of each layer."""

    iterations: Sequence[int]
    lambdas: Sequence[float]
    spread: Mapping[str, Sequence[float]]
    """By layer, in order of execution."""
    moments: Moments

    height = 3.9

    def draw(self, space: FigureBase) -> None:
        space.suptitle("Filters separate as λ grows")
        growing = self.until_picked()
        axes = list(space.subplots(1, 2 if growing else 1, squeeze=False)[0])
        if growing is not None:
            growing.curves(axes[0])
            axes[0].set_title("GReg-2 before it picks: λ on every filter", loc="center", pad=10)
            axes[-1].set_title("the whole phase", loc="center", pad=18)
        self.curves(axes[-1])
        mark(axes[-1], self.moments)
        axes[0].set_ylabel("filter L1 norms:\nstandard deviation / mean")
        self._name(space, axes)

    def until_picked(self) -> Separation | None:
        """The part in which the penalty is the same on all; None where there is none to speak of."""
        looks = [at for at, k in enumerate(self.iterations) if k <= (self.moments.picked or -1)]
        if len(looks) < 3:
            return None
        return replace(
            self,
            iterations=[self.iterations[at] for at in looks],
            lambdas=[self.lambdas[at] for at in looks],
            spread={name: [values[at] for at in looks] for name, values in self.spread.items()},
        )

    def curves(self, axes: Axes) -> None:
        for color, values in zip(depth_colors(len(self.spread)), self.spread.values(), strict=True):
            plot(axes, Curve(self.iterations, values), color, dots=len(self.spread) <= MOST_NAMED)
        last = max(1, self.iterations[-1])
        axes.set_xlim(0, last)
        ticks = [tick for tick in MaxNLocator(5, integer=True).tick_values(0, last) if 0 <= tick <= last]
        # Below each iteration the lambda that it had.
        strengths = np.interp(ticks, self.iterations, self.lambdas)
        labels = [f"{tick:,.0f}\n{number(strength)}" for tick, strength in zip(ticks, strengths, strict=True)]
        axes.set_xticks(ticks, labels)
        axes.set_xlabel("iterations, and below them λ")

    def _name(self, space: FigureBase, axes: Sequence[Axes]) -> None:
        colors, names = depth_colors(len(self.spread)), short(self.spread)
        if len(names) <= MOST_NAMED:
            space.legend(axes[-1].get_lines()[: len(names)], names, loc="outside right center", title="layer")
            return
        scale = ScalarMappable(BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names)), ListedColormap(colors))
        at = np.linspace(0, len(names) - 1, BAR_NAMES).round().astype(int)
        bar = space.colorbar(scale, ax=list(axes), ticks=at, label=f"{len(names)} layers, in order of execution")
        bar.ax.set_yticklabels([names[index] for index in at])
        bar.ax.tick_params(length=2, which="both")
        bar.ax.minorticks_off()
        bar.ax.invert_yaxis()
