"""Loss and top-1 over the whole chain: train, regularize, finetune one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from greg_compress.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, Curve, plot


@dataclass(frozen=True)
class Part:
    """What one command did."""

    command: str
    first: int
    """Iterations of the commands before it."""
    length: int
    """Its own; 0 for one that does not train."""
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

    height = 4.4
    wide = False

    def draw(self, space: FigureBase) -> None:
        space.suptitle("Accuracy over the chain")
        top1, loss = space.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for part in self.parts:
            first = part is self.parts[0]
            plot(top1, part.top1, BLUE, "training" if first else "")
            plot(loss, part.loss, ORANGE)
        self._held_out(top1)
        self._tested(top1)
        self._name(top1, loss)
        top1.set_ylabel("top-1 (%)")
        loss.set_ylabel("training loss")
        loss.set_xlabel("iterations")
        loss.set_ylim(bottom=0)
        space.legend(*top1.get_legend_handles_labels(), loc="outside lower center", ncols=4)

    def _held_out(self, axes: Axes) -> None:
        shown = [part for part in self.parts if part.held_out]
        for part in shown:
            plot(axes, part.held_out, GREEN, "held out" if part is shown[0] else "", "--")

    def _tested(self, axes: Axes) -> None:
        """Hollow before a command, full after it: between two of them lies what a cut did."""
        for label, fill, points in (
            ("test, before a command", "white", [(p.first, p.before) for p in self.parts if p.before is not None]),
            ("after", BLACK, [(p.first + p.length, p.after) for p in self.parts if p.after is not None]),
        ):
            if points:
                axes.plot(
                    *zip(*points, strict=True), "D", color=BLACK, markerfacecolor=fill, markersize=5, label=label,
                    zorder=4, clip_on=False,
                )  # fmt: skip

    def _name(self, top1: Axes, loss: Axes) -> None:
        """The command above its part of the axis, or along a line where it took no iterations."""
        total = max(1, self.parts[-1].first + self.parts[-1].length)
        for axes in (top1, loss):
            axes.set_xlim(0, total)
        for part in self.parts:
            for axes in (top1, loss):
                if part.first:
                    axes.axvline(part.first, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
            narrow = part.length < 0.12 * total
            top1.text(
                part.first if not part.length else part.first + part.length / 2,
                0.03 if narrow else 1.02,
                part.command,
                transform=top1.get_xaxis_transform(),
                rotation=90 if narrow else 0,
                ha="right" if not part.length else "center",
                va="bottom",
                fontsize=8,
                color=GREY,
            )
