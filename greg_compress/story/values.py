"""Values out of a document that anybody may have written: of the kind that is wanted, or None."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LARGEST = 1e18
"""Of a figure that is one."""
LONGEST = 400
"""Letters of a name or a reason on the page."""


@dataclass(frozen=True)
class Told:
    """A figure, and the file that tells it."""

    value: float | int | None = None
    by: str = ""

    def __bool__(self) -> bool:
        return self.value is not None


def at(value: Any, *keys: str) -> Any:
    """What stands below these keys; None where nothing does."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def number(value: Any, *keys: str) -> float | int | None:
    """A finite figure."""
    found = at(value, *keys)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not abs(found) < LARGEST:
        return None
    return found if math.isfinite(found) else None


def text(value: Any, *keys: str) -> str | None:
    """Words, cut where they are longer than any name."""
    found = at(value, *keys)
    if not isinstance(found, str) or not found:
        return None
    return found if len(found) <= LONGEST else found[:LONGEST] + "…"


def entries(value: Any, *keys: str) -> list[Mapping[str, Any]]:
    """Dictionaries of a list."""
    found = at(value, *keys)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def under(value: Any, *keys: str) -> Mapping[str, Any]:
    """What stands there by name; nothing where something else does."""
    found = at(value, *keys)
    return found if isinstance(found, Mapping) else {}


def interval(value: Any, *keys: str) -> tuple[float, float] | None:
    """From, to."""
    found = at(value, *keys)
    ends = [number({"": end}, "") for end in found] if isinstance(found, list) and len(found) == 2 else []
    low, high = ends or (None, None)
    return None if low is None or high is None else (low, high)


def numbers(value: Any, *keys: str) -> list[float]:
    """A list of figures; empty where one of them is none."""
    found = at(value, *keys)
    known = [number({"": each}, "") for each in found] if isinstance(found, list) else []
    return [] if None in known else [each for each in known if each is not None]


def first(*found: Told) -> Told:
    """The first that is known."""
    return next(filter(None, found), Told())
