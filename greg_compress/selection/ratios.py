"""RATIOS as text: the paper's own notations and a few more (design section 7). No torch: a typo answers at once.

0.5                            every group, the first convolution excepted
[0, 0.75, 0.75, 0.32]          one number per stage
[0:0, 1-15:0.7]                by layer index, in order of execution
layer1.*.conv1=0.3,layer2=0.5  by name
@FILE.json                     a number, a list, an object {name: ratio}, or any of these texts
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

from greg_compress.errors import InputError, RequestError, first_line
from greg_compress.small_files import read_small

LARGEST_FILE = 2**20
"""Bytes of a ratios file: enough for 10,000 names."""


@dataclass(frozen=True)
class IndexRange:
    """Layers `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


Where = str | IndexRange
"""A name (`*` crosses dots, and a module stands for all below it), or a range of indices."""


@dataclass(frozen=True)
class Ratios:
    """The share of units to remove: one of three ways. Decimals, since 0.07 of 100 units are 7, not 8."""

    text: str
    """As it can be typed again, without a file."""
    uniform: Decimal | None = None
    stages: tuple[Decimal, ...] = ()
    entries: tuple[tuple[Where, Decimal], ...] = ()
    """The last match wins."""


def parse_ratios(text: str) -> Ratios:
    """Read RATIOS in any notation.

    Raises:
        RequestError: no notation, or a ratio outside 0 <= ratio < 1.
        InputError: the file cannot be read, or is no JSON.
    """
    stripped = text.strip()
    if stripped.startswith("@"):
        return _file(stripped[1:], text)
    if stripped.startswith("[") and stripped.endswith("]"):
        parts = _parts(stripped[1:-1])
        if any(":" in part for part in parts):
            return Ratios(stripped, entries=tuple(_indexed(part, text) for part in parts))
        return Ratios(stripped, stages=tuple(_ratio(part, text) for part in parts))
    if "=" in stripped:
        return Ratios(stripped, entries=tuple(_named(part, text) for part in _parts(stripped)))
    return Ratios(stripped, uniform=_ratio(stripped, text))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _indexed(part: str, text: str) -> tuple[IndexRange, Decimal]:
    where, colon, ratio = part.partition(":")
    ends = [end.strip() for end in where.split("-")]
    if not colon or len(ends) > 2 or not all(end.isdecimal() and len(end) < 7 for end in ends):
        _refuse(text, f"{part!r} is no index range; write [0:0, 1-15:0.7]")
    first, last = int(ends[0]), int(ends[-1])
    if last < first:
        _refuse(text, f"range {where.strip()} ends before it begins")
    return IndexRange(first, last), _ratio(ratio.strip(), text)


def _named(part: str, text: str) -> tuple[str, Decimal]:
    name, equals, ratio = part.rpartition("=")
    if not equals or not name.strip() or "=" in name:
        _refuse(text, f"{part!r} is not NAME=RATIO; write layer1.*.conv1=0.3,layer2=0.5")
    return name.strip(), _ratio(ratio.strip(), text)


def _ratio(part: str, text: str) -> Decimal:
    try:
        ratio = Decimal(part)
    except InvalidOperation:
        _refuse(
            text,
            f"{part!r} is not a number; write 0.5, one per stage like [0, 0.5, 0.5], by index like [0:0, 1-15:0.7],"
            " by name like layer1=0.3,layer2=0.5, or @FILE.json",
        )
    if not (ratio.is_finite() and 0 <= ratio < 1):
        _refuse(text, f"{part} is not a ratio; it must be at least 0 and below 1, since a layer keeps a unit")
    return ratio


def whole_units(ratio: Decimal, count: int) -> int:
    """ceil(ratio * n), on the decimal literal."""
    exact = ratio * count
    return int(exact) + (exact != int(exact))


def _refuse(text: str, problem: str) -> NoReturn:
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    raise RequestError(f"--ratios {shown}: {problem}")


def _file(path: str, text: str) -> Ratios:
    """Read a JSON file; its content comes back as the text that says the same."""
    try:
        content = json.loads(
            read_small(Path(path), LARGEST_FILE).decode("utf-8-sig"),
            object_pairs_hook=Pairs,
            parse_float=Decimal,
            parse_int=Decimal,
        )
    except InputError as error:
        raise InputError(f"--ratios {text[:80]}: {error}") from error
    except (ValueError, RecursionError, InvalidOperation) as error:
        hint = "text like [0:0.5] goes in double quotes there"
        raise InputError(f"--ratios {text}: the file is no JSON ({first_line(error)}); {hint}") from error
    written = _typed(content, text)
    if written.startswith("@"):
        _refuse(text, "a ratios file cannot name another")
    return parse_ratios(written)


class Pairs(list[tuple[str, Any]]):
    """A JSON object in order, with every entry of a name that is given twice."""


def _typed(content: Any, text: str) -> str:
    """What a user would have typed instead of the file."""
    if isinstance(content, Pairs):
        if not content or not all("," not in name and "=" not in name for name, _ in content):
            _refuse(text, "an object maps names of layers to ratios")
        return ",".join(f"{name}={_number(ratio, text)}" for name, ratio in content)
    if isinstance(content, list):
        return f"[{', '.join(_number(ratio, text) for ratio in content)}]"
    return content if isinstance(content, str) else _number(content, text)


def _number(value: Any, text: str) -> str:
    if not isinstance(value, Decimal):
        _refuse(text, f"{json.dumps(value, default=str)[:40]} is not a number")
    return str(value)


def units_to_remove(ratio: Decimal, channels: int) -> int:
    """min(ceil(ratio * n), n - 1), on the decimal literal (design section 5)."""
    return min(whole_units(ratio, channels), channels - 1)
