"""What a person sees on stderr while a stage works: a live display, or a plain line every few seconds."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from greg_compress import reporting
from greg_compress.cli.words import clock, printable

LIVE_EVERY = 0.2
PLAIN_EVERY = 5.0
"""Seconds between two updates."""
PLAIN_WIDTH = 1000
"""Columns where there is no terminal, so that nothing is cut off or folded."""


def console(file: IO[str]) -> Console:
    found = Plain(file=file, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = PLAIN_WIDTH
    return found


class Plain(Console):
    """Shows texts as they are: nothing in them is markup, an emoji or a command."""

    def on_broken_pipe(self) -> None:
        """Raise the error on; what is left in the stream goes nowhere, or Python would complain at its end."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)
        raise

    def render_str(self, text: str, **how: Any) -> Text:  # type: ignore[override]
        return super().render_str("\n".join(map(printable, text.split("\n"))), **how)


class Unheard:
    """A stream whose reader may be gone, or whose disk full: what is said on the way is no reason to lose the work."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def is_lively(out: Console) -> bool:
    """Whether a line may be drawn again and again: on no dumb terminal, and where somebody looks at it."""
    return out.is_interactive and not os.environ.get("CI")


class Display(Progress):
    """A bar with pace and time to go, and below it lambda, weakest ratio, loss and accuracy."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(f"  {self.figures}", style="dim")


class Terminal(reporting.Reporter):
    """Speaks on stderr; stdout belongs to the result."""

    def __init__(self) -> None:
        self._console = console(cast(IO[str], Unheard(sys.stderr)))
        self._lively = is_lively(self._console)
        self._live: Display | None = None
        self._due = 0.0
        self._pace: tuple[float, int] | None = None

    def note(self, text: str) -> None:
        self._line(text, "dim")

    def warn(self, text: str) -> None:
        self._line(f"warning: {text}", "magenta")  # readable on black and on white

    def _line(self, text: str, style: str) -> None:
        """A line of a log is never broken; on a terminal it wraps between words."""
        self._console.print(text, style=style, soft_wrap=not self._console.is_terminal)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self._console.print(make_table(columns, rows, title))

    def progress(self, read: Callable[[], reporting.Progress]) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + (LIVE_EVERY if self._lively else PLAIN_EVERY)
        progress = read()
        started, first = self._pace = self._pace or (now, progress.iteration)
        speed = (progress.iteration - first) / (now - started) if now > started else 0.0
        figures, pace = _figures(progress), _pace(progress, speed)
        if not self._lively:
            text = f"{progress.phase} {progress.iteration}/{progress.total}  {figures}  {pace}"
            self._console.print(text.rstrip(), soft_wrap=True)
            return
        live = self._live = self._live or self._started(progress)
        live.figures = figures
        live.update(
            live.task_ids[0],
            description=progress.phase,
            completed=progress.iteration,
            total=progress.total,
            pace=pace,
        )

    def _started(self, progress: reporting.Progress) -> Display:
        live = Display(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[pace]}"),
            console=self._console,
            transient=True,
        )
        live.start()
        live.add_task(progress.phase, total=progress.total, pace="")
        return live

    def finish(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = self._pace = None


def _figures(progress: reporting.Progress) -> str:
    parts = []
    if "lambda" in progress.extra:
        parts.append(f"lambda {progress.extra['lambda']:.3g}")
    if "weakest_ratio" in progress.extra:
        parts.append(f"weakest ratio {progress.extra['weakest_ratio']:.3g}")
    return "  ".join([*parts, f"loss {progress.loss:.4f}", f"acc {progress.top1:.2f}%"])


def _pace(progress: reporting.Progress, speed: float) -> str:
    if speed <= 0:
        return ""
    return f"{speed:.1f} it/s  ETA {clock((progress.total - progress.iteration) / speed)}"


class Snug(Table):
    """A table whose columns move together where they would not fit otherwise; only then are cells folded."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if Measurement.get(console, options.update(max_width=PLAIN_WIDTH), self).maximum > options.max_width:
            self.padding = 0
        yield from super().__rich_console__(console, options)


def make_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None, words: Sequence[int] = (0,)
) -> Table:
    """A table of figures, but for the columns of words."""
    table = Snug(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number in words else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    return table
