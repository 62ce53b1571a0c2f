"""Run a user's FILE.py, and return what it defines."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from greg_compress.errors import InputError, input_fault


def contents(path: Path) -> bytes:
    """The bytes of a FILE.py.

    Raises:
        InputError: no ordinary file, or it cannot be read.
    """
    try:
        if path.is_file():
            return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    raise InputError(f"{path} is no file")


def sha256(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()


def defined(path: Path, source: bytes, name: str) -> Any:
    """Run the very bytes that were looked at, and return the callable that they define.

    Not Python's import: it would take a cached .pyc beside the file for the file, and read it a second time.

    Raises:
        InputError: it breaks, or does not define the callable itself (an import does not count).
    """
    module = ModuleType(f"greg_user_{sha256(str(path.resolve()).encode())[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # for pickling, dataclasses and the like
    with input_fault(f"{path} cannot be run"):
        exec(compile(source, str(path), "exec"), module.__dict__)
    found = getattr(module, name, None)
    if not callable(found) or getattr(found, "__module__", None) != module.__name__:
        raise InputError(f"{path} does not define a callable {name!r} itself")
    return found
