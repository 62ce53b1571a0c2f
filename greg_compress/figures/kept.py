"""What a plan leaves of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import FigureBase
from matplotlib.patches import Patch

from greg_compress.figures.style import BLUE, PALE, short

MOST_LABELS, MOST_COUNTS = 80, 40


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

    wide = True

    @property
    def height(self) -> float:
        """Names stand upright below their bars."""
        return 2.6 + 0.055 * max(len(short(layer.name)) for layer in self.layers)

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
        axes.set_xticks(shown, [short(self.layers[index].name) for index in shown], rotation=90, fontsize=small)
        axes.set_xlim(-0.7, max(len(self.layers) - 0.3, 5.7))
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("channels")
        axes.tick_params(axis="x", length=0)
        space.legend(
            [Patch(color=BLUE), Patch(color=PALE)], ["kept", "all, before the cut"], loc="outside right center"
        )
