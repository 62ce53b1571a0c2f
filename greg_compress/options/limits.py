"""What values an option may take."""

from __future__ import annotations

import re

from greg_compress.errors import RequestError

MANY = 10**9


def require_device(name: str) -> None:
    """Raise RequestError unless `name` is auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise RequestError(f"--device {name}: write auto, cpu, cuda or cuda:N")


def require_between(name: str, value: float | None, above: float, below: float) -> None:
    """Raise RequestError unless a given value lies between two others."""
    if value is not None and not above < value < below:
        raise RequestError(f"--{name} {str(value)[:20]}: it must be above {above:g} and below {below:g}")
