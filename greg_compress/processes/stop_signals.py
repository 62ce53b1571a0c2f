"""SIGINT, SIGTERM and SIGHUP as a flag, so that a long run stops between two steps."""

from __future__ import annotations

import signal
from types import FrameType

from greg_compress.errors import Interrupted
from greg_compress.processes.stops import stops
from greg_compress.training.world import LateMaximum, World


class StopSignals:
    """Turns these signals into a flag that all processes share; a second signal does what it always did.

    Of several processes torchrun tells each twice; there a second one changes nothing.
    """

    def __init__(self, world: World) -> None:
        self._alone = world.size == 1
        self._heard = LateMaximum(world)

    def __enter__(self) -> StopSignals:
        self.number: int | None = None
        self._before = {number: signal.signal(number, self._hear) for number in stops()}
        return self

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
        if self._alone:
            self._restore()

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted when a signal was heard, by all processes at the same step."""
        if number := self._heard.of(self.number or 0):
            raise Interrupted(number, agreed=True)
