"""Small files of text that anybody may have written: read whole, or refused before they hang or fill the memory."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from greg_compress.errors import InputError

LARGEST_COUNT = 2**63
"""No whole number in a file of ours comes near; Python would go on to any length, and fail where it becomes a float."""


def read_small(path: Path, most: int) -> bytes:
    """The bytes of an ordinary file.

    Raises:
        InputError: missing, a folder, a pipe or a device, unreadable, or larger than `most` bytes.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # no wait for a pipe
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{path} is no ordinary file")
            content = file.read(most + 1)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a directory, and so no ordinary file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(content) > most:
        raise InputError(f"{path} is larger than {most:,} bytes; is it the right file?")
    return content


def parsed(content: bytes) -> Any:
    """JSON as its standard has it, with numbers that fit.

    Raises:
        ValueError: no JSON; NaN, an infinity (1e999 is one) or a number of more than 63 bits; a key that an object has
            twice, of which nobody knows which one counts; or more brackets in each other than Python can follow.
    """
    try:
        return json.loads(
            content.decode("utf-8-sig"),
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word[:20]} is no number")


def _finite(word: str) -> float:
    return number if math.isfinite(number := float(word)) else _refuse(word)


def _whole(word: str) -> int:
    return number if len(word) <= 20 and abs(number := int(word)) < LARGEST_COUNT else _refuse(word)
