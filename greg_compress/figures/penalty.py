"""Lambda, and how far kept and picked filters are apart."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import FigureBase
from matplotlib.ticker import FuncFormatter, NullFormatter

from greg_compress.figures.style import BLUE, ORANGE, THOUSANDS, Curve, Moments, mark, plot


@dataclass(frozen=True)
class Penalty:
    """One phase of growing regularization."""

    strength: Curve
    """lambda."""
    ratio: Curve
    """Mean magnitude of kept filters over that of picked ones, in the group where it is least; moving average."""
    iterations: int
    """Of the phase."""
    moments: Moments

    height = 2.9

    def draw(self, space: FigureBase) -> None:
        space.suptitle("The growing penalty")
        strength, ratio = panels = space.subplots(1, 2)
        plot(strength, self.strength, BLUE)
        plot(ratio, self.ratio, ORANGE)
        strength.set_ylabel("penalty λ")
        strength.set_ylim(bottom=0)
        ratio.set_ylabel("kept / picked magnitude,\nweakest layer")
        if self.ratio:
            ratio.set_yscale("log")
            ratio.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
            ratio.yaxis.set_minor_formatter(NullFormatter())
        else:
            ratio.text(0.5, 0.5, "not measured yet", transform=ratio.transAxes, ha="center", va="center")
        for axes in panels:
            axes.set_xlabel("iterations of the phase")
            axes.set_xlim(0, self.iterations)
            axes.xaxis.set_major_formatter(THOUSANDS)
            mark(axes, self.moments)
