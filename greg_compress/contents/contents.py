"""One answer for all kinds of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from greg_compress.following import Way


def number(value: Any) -> float | int | None:
    """A figure of a file that may hold anything; None where there is none.

    Raises:
        ValueError: it is no number.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError("a figure that is none")
    return value


def normalization(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How images are normalised: `scale`, `mean` and `std`.

    Raises:
        ValueError: that is not what it says.
    """
    if said is None:
        return None
    found = {key: [number(value) for value in said[key]] for key in ("mean", "std")}
    return {"scale": number(said["scale"]), **found}


@dataclass(frozen=True)
class Entry:
    """One command of a history."""

    command: str | None
    """To be typed in a shell; None for what was no command of ours."""
    text: str
    """What happened, where there is no command."""
    versions: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    finished: str | None = None
    digest: str | None = None
    """SHA-256 of the file that it read."""
    figures: dict[str, Any] = field(default_factory=dict)
    """The main ones, as JSON values."""


@dataclass(frozen=True)
class Contents:
    """What is known of a file."""

    kind: str
    what: str
    """In words, after the file's name."""
    holds: dict[str, Any]
    """JSON values by name; the same names for every file of a kind."""
    history: Sequence[Entry] = ()
    following: Sequence[Way] = ()
