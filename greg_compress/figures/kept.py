"""What a plan leaves of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import FigureBase
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from greg_compress.figures.style import BLUE, PALE, THOUSANDS, short

MOST_LABELS, MOST_COUNTS = 80, 40
"""Bars that each have a name, and a count; of more every other one, or fewer, has a name."""
FEWEST = 8
"""Bars for which there is room: one alone would be as broad as the page."""


@dataclass(frozen=True)
class Layer:
    """A layer before and after."""

    name: str
    channels: int
    kept: int


@dataclass(frozen=True)
class Kept:
    """Layers in order of execution."""

    layers: Sequence[Layer]

    @property
    def height(self) -> float:
        """Names stand upright below their bars."""
        return 2.6 + 0.055 * max(map(len, self._names))

    @property
    def _names(self) -> list[str]:
        return short(layer.name for layer in self.layers)

    def draw(self, space: FigureBase) -> None:
        kept, channels = (sum(getattr(layer, name) for layer in self.layers) for name in ("kept", "channels"))
        space.suptitle(f"Kept channels: {kept:,} of {channels:,}")
        axes = space.subplots()
        at = range(len(self.layers))
        axes.bar(at, [layer.channels for layer in self.layers], 0.78, color=PALE)
        bars = axes.bar(at, [layer.kept for layer in self.layers], 0.78, color=BLUE)
        if len(self.layers) <= MOST_COUNTS:
            axes.bar_label(bars, [f"{layer.kept}" for layer in self.layers], fontsize=7.5, padding=1)
        every = -(-len(self.layers) // MOST_LABELS)
        shown = list(at)[::every]
        small = 8 if len(self.layers) <= MOST_COUNTS else 6.5
        axes.set_xticks(shown, self._names[::every], rotation=90, fontsize=small)
        middle, half = (len(self.layers) - 1) / 2, max(len(self.layers), FEWEST) / 2 + 0.2
        axes.set_xlim(middle - half, middle + half)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_formatter(THOUSANDS)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("channels")
        axes.tick_params(axis="x", length=0)
        space.legend(
            [Patch(color=BLUE), Patch(color=PALE)], ["kept", "all, before the cut"], loc="outside right center"
        )
