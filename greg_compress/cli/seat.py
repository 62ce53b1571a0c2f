"""Where a command sits that was not typed by a person: in a recipe, which takes its result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass
class Seat:
    """What becomes of a command."""

    rehearses: bool = False
    """Whether it ends before its stage begins."""
    result: dict[str, Any] | None = None

    def take(self, result: dict[str, Any]) -> None:
        self.result = result


class Rehearsed(Exception):
    """All that a command line says was understood."""


_seat: ContextVar[Seat | None] = ContextVar("seat", default=None)


def current() -> Seat | None:
    """The seat of the command that runs; None for a command that was typed."""
    return _seat.get()


@contextmanager
def seated(seat: Seat) -> Iterator[None]:
    token = _seat.set(seat)
    try:
        yield
    finally:
        _seat.reset(token)
