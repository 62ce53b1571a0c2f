"""Targets and caps as text. No torch: a typo answers at once."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from greg_compress.errors import RequestError

LEAST = Decimal("0.0001")
"""Of a network: less is left of none."""


def parse_target(option: str, text: str) -> Decimal:
    """What of the dense network is to be left, as a share of 1: from `50%` or `0.5`.

    Raises:
        RequestError: no number, or not from 0.01 % to below 100 %.
    """
    share = _number(text.strip().removesuffix("%"))
    if share is not None and text.strip().endswith("%"):
        share = share / 100
    if share is None or not LEAST <= share < 1:
        raise RequestError(f"{option} {text[:40]}: write what is to be left, from 0.01% to below 100%, as 50% or 0.5")
    return share.normalize()


def parse_cap(option: str, text: str) -> Decimal:
    """What a group may lose at most, as a share of its units.

    Raises:
        RequestError: no number, or not above 0 and at most 1.
    """
    share = _number(text.strip())
    if share is None or not 0 < share <= 1:
        raise RequestError(
            f"{option} {text[:40]}: write the largest share that a group may lose, above 0 and at most 1"
        )
    return share.normalize()


UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def parse_time(option: str, text: str) -> float:
    """A time in milliseconds, from `12ms`, `0.5s`, `800us` or `12`.

    Raises:
        RequestError: no time, or none above 0.
    """
    found = re.fullmatch(r"([0-9.]{1,20})\s*(us|ms|s|)", text.strip())
    number = _number(found[1]) if found else None
    if found is None or number is None or number <= 0:
        raise RequestError(f"{option} {text[:40]}: write a time, as 12ms, 800us or 0.5s")
    return float(number) * UNITS[found[2] or "ms"]


def parse_factor(option: str, text: str) -> float:
    """How many times faster, from `2x` or `2`.

    Raises:
        RequestError: no number, or none above 1.
    """
    number = _number(text.strip().removesuffix("x"))
    if number is None or not 1 < number < 1000:
        raise RequestError(f"{option} {text[:40]}: write how many times faster, above 1, as 2x or 1.5")
    return float(number)


def percent(share: Decimal | float) -> str:
    """A share of 1 in words: 49.87%."""
    return f"{round(100 * float(share), 2):g}%"


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
