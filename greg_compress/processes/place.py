"""Which of several processes this one is, as torchrun says it in the environment. No torch here."""

from __future__ import annotations

import os
from dataclasses import dataclass

from greg_compress.errors import RequestError


@dataclass(frozen=True)
class Place:
    """A process among all those that work on one command, and on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether it is the one that speaks and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1


def place() -> Place:
    """RANK, WORLD_SIZE and LOCAL_RANK; alone where nobody says.

    Raises:
        RequestError: they are no such numbers.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    given = {name: os.environ[name] for name in names if name in os.environ}
    if "WORLD_SIZE" not in given:
        return Place()
    try:
        found = Place(int(given.get("RANK", "")), int(given["WORLD_SIZE"]), int(given.get("LOCAL_RANK", "0")))
        if not 0 <= found.rank < found.size or found.local < 0:
            raise ValueError("impossible")
    except ValueError:
        said = " ".join(f"{name}={value[:20]}" for name, value in given.items())
        raise RequestError(f"the environment says {said}; start several processes with torchrun") from None
    return found
