"""SIGINT and SIGTERM as a flag, so that a long run stops between two steps."""

from __future__ import annotations

import signal
from types import FrameType

from greg_compress.errors import Interrupted


class StopSignals:
    """Turns SIGINT and SIGTERM into a flag; a second signal does what it always did."""

    def __enter__(self) -> StopSignals:
        self.number: int | None = None
        self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted when a signal was heard."""
        if self.number is not None:
            raise Interrupted(self.number)
