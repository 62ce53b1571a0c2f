"""Loss and top-1 over the whole chain: train, regularize, finetune one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import FixedLocator, MaxNLocator

from greg_compress.figures.style import BLACK, BLUE, GREEN, ORANGE, THOUSANDS, Curve, plot

NARROWEST = 0.11
"""Of the page: what the shortest command gets, so that its name and its curve can be read."""
MOST = 8
"""Commands side by side."""


@dataclass(frozen=True)
class Part:
    """What one command that trains did."""

    command: str
    """Its name, below those of the commands before it that do not train."""
    first: int
    """Iterations of the chain before it."""
    length: int
    """Its own."""
    top1: Curve
    """Of the training images, in percent; iterations are those of the whole chain."""
    loss: Curve
    held_out: Curve
    """Top-1 of held-out training images."""
    before: float | None = None
    after: float | None = None
    """Top-1 of the test images."""


@dataclass(frozen=True)
class Accuracy:
    """The chain so far, in order."""

    parts: Sequence[Part]

    height = 4.3

    def draw(self, space: FigureBase) -> None:
        parts = self.parts[-MOST:]
        which = "the chain" if len(parts) == len(self.parts) else f"the last {MOST} trainings"
        space.suptitle(f"Accuracy over {which}, and top-1 of the test images before → after each")
        total = sum(part.length for part in parts)
        widths = [max(NARROWEST, part.length / total) for part in parts]
        panels = space.subplots(
            2, len(parts), sharex="col", sharey="row", squeeze=False, width_ratios=widths, height_ratios=(3, 2)
        )
        for part, (top1, loss) in zip(parts, panels.T, strict=True):
            _top1(top1, part)
            plot(loss, part.loss, ORANGE)
            top1.set_title(f"{part.command}\n{_tested(part)}", fontsize=8.5)
            loss.set_xlim(part.first, part.first + part.length)
            end = FixedLocator([part.first + part.length])
            ticks = round(7 * part.length / total)  # where there is no room for two, one says where it ends
            loss.xaxis.set_major_locator(MaxNLocator(ticks, integer=True) if ticks > 1 else end)
            loss.xaxis.set_major_formatter(THOUSANDS)
        panels[0, 0].set_ylabel("top-1 (%)")
        panels[1, 0].set_ylabel("training loss")
        panels[1, 0].set_ylim(bottom=0)
        space.supxlabel("iterations of all commands together", fontsize=9)
        named = {text: line for axes in panels[0] for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        space.legend(list(named.values()), list(named), loc="outside right center")


def _top1(axes: Axes, part: Part) -> None:
    plot(axes, part.top1, BLUE, "training")
    plot(axes, part.held_out, GREEN, "held out", "--")
    for label, fill, at, value in (
        ("test, before", "white", part.first, part.before),
        ("test, after", BLACK, part.first + part.length, part.after),
    ):
        if value is not None:
            axes.plot(
                [at], [value], "D", color=BLACK, markerfacecolor=fill, markersize=4.5, label=label, zorder=4,
                clip_on=False,
            )  # fmt: skip


def _tested(part: Part) -> str:
    """Top-1 of the test images in figures: too close to be read off a curve."""
    before, after = ("?" if value is None else f"{value:.2f}" for value in (part.before, part.after))
    return f"{before} → {after}"
