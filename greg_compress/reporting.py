"""What a stage tells while it works. The default says nothing; the command line shows it on stderr."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """Where a long run stands."""

    phase: str
    iteration: int
    total: int
    epoch: int
    loss: float
    top1: float
    """Percent of the training images of this epoch so far."""
    lr: float
    extra: dict[str, float] = field(default_factory=dict)


class Reporter:
    """A stage's way to speak; this one is silent."""

    def note(self, text: str) -> None:
        """One line about what is going on."""

    def warn(self, text: str) -> None:
        """One line that the user should not miss."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table that is known before the work begins, such as the resolved plan."""

    def progress(self, read: Callable[[], Progress]) -> None:
        """A step is done; `read` costs something, so call it only when the display is due."""

    def finish(self) -> None:
        """The long run is over, well or not."""
