"""`--log FILE`: what a run shows, as JSON lines that can be read while it goes on.

A line comes every 20 iterations, at the end of each epoch, and before and after the whole. A resumed run drops the
lines of iterations that it repeats, so that the file is that of an undisturbed run but for `clock`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from greg_compress.errors import GregError, RequestError
from greg_compress.whole_files import written_whole

EVERY = 20
"""Iterations between two lines."""
KEYS = ("iteration", "phase", "epoch", "loss", "top1", "lr", "lambda", "weakest_ratio", "val_top1", "test_top1")


class MetricsLog:
    """Nothing is written without a path.

    Args:
        iteration: where the run goes on; later lines of an older log are dropped.
    """

    def __init__(self, path: Path | None, iteration: int) -> None:
        self._path = path
        if path is not None:
            kept = [line for line in _lines(path) if _iteration(line, path) <= iteration] if iteration else []
            with written_whole(path, replace=True) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept))

    def write(self, seconds: float, **figures: Any) -> None:
        """Append a line; what has no figure is null."""
        if self._path is None:
            return
        found = {key: figures.get(key) for key in KEYS} | {"clock": {"seconds": round(seconds, 3)}}
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(plain) + "\n")
        except OSError as error:
            raise GregError(f"--log {self._path} cannot be written ({error.strerror}); choose another name") from error


def require_log(path: Path, taken: set[Path], *, replace: bool) -> None:
    """Refuse a log that would replace something else.

    Raises:
        RequestError: it is one of the files that the command reads or writes, or exists and is not to be replaced, or
            is no log.
    """
    if path.resolve() in {other.resolve() for other in taken}:
        raise RequestError(f"--log {path} is a file of this command's own; choose another name")
    if path.exists() and not path.is_file():
        raise RequestError(f"--log {path} is no ordinary file; choose another name")
    if path.exists() and not replace:
        raise RequestError(f"--log {path} exists; add --force to replace it, or choose another name")
    for line in _lines(path)[:1]:
        _iteration(line, path)


def _lines(path: Path) -> list[str]:
    """Whole lines; a process that was killed may leave a half one."""
    try:
        text = path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--log {path} is no log of greg's; choose another name") from error
    return text.split("\n")[:-1]


def _iteration(line: str, path: Path) -> int:
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, TypeError, KeyError) as error:
        raise RequestError(f"--log {path} is no log of greg's; choose another name") from error
