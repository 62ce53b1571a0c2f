"""RATIOS as text, in the paper's notations (design section 7). No torch here: a typo answers at once.

`0.5` is for every group, the first convolution excepted; `[0, 0.75, 0.75, 0.32]` has one number per stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from greg_compress.errors import RequestError


@dataclass(frozen=True)
class Ratios:
    """The share of units to remove. Decimals, since 0.07 of 100 units are 7, not 8."""

    text: str
    uniform: Decimal | None = None
    stages: tuple[Decimal, ...] = ()


def parse_ratios(text: str) -> Ratios:
    """Read `0.5` or `[0, 0.75, 0.32]`.

    Raises:
        RequestError: not a number, or outside 0 <= ratio < 1.
    """
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")):
        return Ratios(text, uniform=_ratio(stripped, text))
    parts = [part.strip() for part in stripped[1:-1].split(",")]
    return Ratios(text, stages=tuple(_ratio(part, text) for part in parts))


def _ratio(part: str, text: str) -> Decimal:
    try:
        ratio = Decimal(part)
    except InvalidOperation:
        raise RequestError(
            f"--ratios {text}: {part!r} is not a number; write 0.5, or one number per stage like [0, 0.5, 0.5]"
        ) from None
    if not (ratio.is_finite() and 0 <= ratio < 1):
        raise RequestError(
            f"--ratios {text}: {part} is not a ratio; it must be at least 0 and below 1, since a layer keeps a unit"
        )
    return ratio


def units_to_remove(ratio: Decimal, channels: int) -> int:
    """min(ceil(ratio * n), n - 1), on the decimal literal (design section 5)."""
    exact = ratio * channels
    return min(int(exact) + (exact != int(exact)), channels - 1)
