"""What all pictures share: colours that colour-blind readers can tell apart and that survive print, marks and words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#222222"
"""Of Okabe and Ito."""
GREY, PALE = "#666666", "#d9d9d9"

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "savefig.dpi": 150,
    "svg.hashsalt": "greg",
    "text.parse_math": False,  # a layer may be named as its author likes
}
"""On top of matplotlib's own defaults, whatever the user's matplotlibrc says: the same bytes everywhere."""

THOUSANDS = StrMethodFormatter("{x:,.0f}")
LONGEST_NAME = 36
MOST_MARKED = 40
"""Points of a curve that get a dot each: between few of them a line alone would hide where they lie."""


@dataclass(frozen=True)
class Curve:
    """Values over iterations; both of the same length."""

    iterations: Sequence[float]
    values: Sequence[float]

    def __bool__(self) -> bool:
        return bool(self.iterations)


@dataclass(frozen=True)
class Moments:
    """Iterations of a phase at which something changes; None where it does not."""

    picked: int | None
    stabilizing: int | None


def plot(axes: Axes, curve: Curve, color: object, label: str = "", style: str = "-", dots: bool = True) -> None:
    if not curve:
        return
    marker = "o" if dots and len(curve.iterations) <= MOST_MARKED else ""
    axes.plot(curve.iterations, curve.values, style, color=color, label=label or "_", marker=marker, markersize=2.5)


def depth_colors(count: int) -> list[tuple[float, float, float, float]]:
    """A colour for each layer by its depth: dark at the input, bright at the output."""
    colors = matplotlib.colormaps["viridis"]
    return [colors(0.92 * at / max(1, count - 1)) for at in range(count)]


def mark(axes: Axes, moments: Moments) -> None:
    """A line at each moment, and its word above it."""
    low, high = axes.get_xlim()
    words = {"picked": moments.picked, "stabilizing": moments.stabilizing}
    found = [(at, word) for word, at in words.items() if at is not None and low <= at <= high]
    places = [(at - low) / (high - low) for at, _ in found]
    close = len(found) == 2 and places[1] - places[0] < 0.25
    sides = ["left" if place < 0.1 else "right" if place > 0.9 else "center" for place in places]
    for (at, word), side in zip(found, ("right", "left") if close else sides, strict=False):
        axes.axvline(at, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        above = axes.get_xaxis_transform()
        axes.text(at, 1.02, word, transform=above, ha=side, va="bottom", fontsize=8, color=GREY)


def short(names: Iterable[str], longest: int = LONGEST_NAME) -> list[str]:
    """Layers' names that leave room for the picture: without what they all begin with, and none too long."""
    paths = ["".join(letter if letter.isprintable() else "?" for letter in name).split(".") for name in names]
    columns = zip(*(path[:-1] for path in paths), strict=False) if len(paths) > 1 else ()
    shared = len(list(takewhile(lambda column: len(set(column)) == 1, columns)))
    return [_cut(".".join(path[shared:]), longest) for path in paths]


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest // 3]}…{name[1 - 2 * longest // 3 :]}"


def number(value: float) -> str:
    return f"{value:.3g}"
