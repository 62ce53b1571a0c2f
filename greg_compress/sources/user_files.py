"""Run a user's FILE.py, and return what it defines."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from greg_compress.errors import InputError, input_fault, nearest


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


def named(path: Path, name: str) -> tuple[Any, str]:
    """What a FILE.py defines that this command names itself, and its digest.

    It may import what lies beside it, as a script may. A file that only a state names may not: nobody looked at
    what lies beside it, and the digest is of one file.

    Raises:
        InputError: as :func:`contents` and :func:`defined`.
    """
    source = contents(path)
    beside = str(path.resolve().parent)
    if beside not in sys.path:
        sys.path.insert(0, beside)
    return defined(path, source, name), sha256(source)


def defined(path: Path, source: bytes, name: str) -> Any:
    """Run the very bytes that were looked at, and return the callable that they define.

    Not Python's import: it would take a cached .pyc beside the file for the file, and read it a second time.

    Raises:
        InputError: it breaks, or does not define the callable itself (an import does not count).
    """
    module = ModuleType(f"greg_user_{sha256(os.fsencode(path.resolve()))[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # for pickling, dataclasses and the like
    with input_fault(f"{path} cannot be run"):
        exec(compile(source, str(path), "exec"), module.__dict__)
        found = getattr(module, name, None)
        home = getattr(found, "__module__", None)
    if not callable(found):
        own = [each for each, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise InputError(f"{path} does not define a callable {name!r}{nearest(name, own)}")
    if home != module.__name__:
        raise InputError(
            f"{path} does not define a callable {name!r} itself, but imports it; define a function there that calls it"
        )
    return found
