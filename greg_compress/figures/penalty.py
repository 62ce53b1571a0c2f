"""Lambda, and how far kept and picked filters are apart."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import FigureBase

from greg_compress.figures.style import BLUE, ORANGE, Curve, Moments, mark, plot


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

    height = 4.4
    wide = False

    def draw(self, space: FigureBase) -> None:
        space.suptitle("The growing penalty")
        strength, ratio = space.subplots(2, 1, sharex=True)
        plot(strength, self.strength, BLUE)
        plot(ratio, self.ratio, ORANGE)
        strength.set_ylabel("λ")
        strength.set_ylim(bottom=0)
        ratio.set_ylabel("kept / picked magnitude,\nweakest layer")
        if self.ratio:
            ratio.set_yscale("log")
        else:
            ratio.text(0.5, 0.5, "not measured yet", transform=ratio.transAxes, ha="center", va="center")
        ratio.set_xlabel("iterations of the phase")
        ratio.set_xlim(0, self.iterations)
        mark((strength, ratio), self.moments)
