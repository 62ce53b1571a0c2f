"""What an exported file must keep to, or it is not written. No torch: a typo answers at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from greg_compress.errors import RequestError

FEWEST_RUNS = 20
"""Fewer timed runs do not say how far the p50 can be trusted."""
BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Gates:
    """Limits; None where nobody set one."""

    max_latency: float | None = None
    """Milliseconds of one run (p50)."""
    min_speedup: float | None = None
    """Measured time of the baseline over that of the network."""
    max_size: int | None = None
    """Bytes of the file."""
    min_top1: float | None = None
    """Percent of the test images, as onnxruntime computes it from the file."""

    @property
    def of_time(self) -> str | None:
        """The first gate that is decided by timed runs."""
        given = {"--max-latency": self.max_latency, "--min-speedup": self.min_speedup}
        return next((option for option, limit in given.items() if limit is not None), None)


def parse_size(option: str, text: str) -> int:
    """Bytes, from `2MB` (millions), `1.5MiB`, `800kB` or `2000000`.

    Raises:
        RequestError: no size, or none of at least a byte.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*((?:[kmg]i?)?b|)", text.strip().lower(), re.ASCII)
    size = int(Decimal(found[1]) * BYTES[found[2]]) if found else 0
    if size < 1:
        raise RequestError(f"{option} {text[:40]}: write a size, as 2MB, 800kB or 1.5MiB")
    return size


def parse_least_speedup(option: str, text: str) -> float:
    """How many times faster at least, from `2x` or `2`; below 1 is how much slower at most.

    Raises:
        RequestError: no number above 0.
    """
    factor = _number(text.strip().removesuffix("x"))
    if not 0 < factor < 1000:
        raise RequestError(f"{option} {text[:40]}: write how many times faster than the baseline, as 2x or 1.5")
    return factor


def parse_accuracy(option: str, text: str) -> float:
    """Percent, from `90`, `90.5%`.

    Raises:
        RequestError: not from 1 to 100; below 1 a share of 1 was meant.
    """
    percent = _number(text.strip().removesuffix("%"))
    if not 1 <= percent <= 100:
        raise RequestError(f"{option} {text[:40]}: write percent, from 1 to 100, as 90 or 98.5")
    return percent


def _number(text: str) -> float:
    """A plain decimal number; 0 for anything else."""
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) else 0.0
