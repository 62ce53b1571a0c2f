"""No command writes over a file that it reads, with --force neither: nobody wants to lose their own code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from greg_compress.whole_files import require_apart

OUTPUTS = {"out": "-o", "plan_out": "--plan-out", "log": "--log"}
"""Parameters that name what is written."""
MODEL = "model"
"""A state that a state of the next stage may replace; where it is a file of another kind the command itself knows."""


def require_inputs_stay(given: Mapping[str, Any]) -> None:
    """Look at all that was typed, by parameter.

    Raises:
        RequestError: an output is a file that something else names, as it is, as FILE.py:CALLABLE or as @FILE.
    """
    for output, option in OUTPUTS.items():
        if given.get(output) is not None:
            inputs = (name for key, value in given.items() if key not in OUTPUTS for name in _files(key, value))
            require_apart(Path(given[output]), inputs, option)


def _files(key: str, value: Any) -> Iterator[str]:
    for text in map(str, value if isinstance(value, (list, tuple)) else [value]):
        source, _, _ = text.rpartition(":")
        yield from filter(None, (source, text.removeprefix("@") if key != MODEL else ""))
