"""Which network a command works on, and where its result goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from greg_compress.sources.specs import Architecture


@dataclass(frozen=True)
class ModelOptions:
    """Which network a command works on."""

    model: str
    arch: Architecture | None = None
    """What this command names itself, and so may run."""
    input_shapes: tuple[tuple[int, ...], ...] | None = None
    allow_pickle: bool = False
    """Whether a whole pickled network may be opened, which runs code."""
    download: bool = False
    """Whether official weights may be fetched."""


@dataclass(frozen=True)
class Output:
    """Where a result goes."""

    path: Path
    force: bool = False
    resume: bool = False

    @property
    def partial(self) -> Path:
        """Unfinished work lives beside the output, never in it."""
        return self.path.with_name(self.path.name + ".partial")
