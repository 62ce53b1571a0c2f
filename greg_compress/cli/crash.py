"""A fault of ours: its traceback goes into a file, and one line says where."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import traceback
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from greg_compress.errors import GregError, first_line
from greg_compress.processes.place import place

TOLD = ("greg-compress", "torch", "torchvision", "timm", "onnx", "onnxruntime", "typer", "numpy")
INTERNAL = "internal error"
"""How the line begins."""


def reported(error: BaseException) -> str:
    """Write all that is known of a crash to a new file, to stderr if that cannot be; return what there is to say.

    The file can be read by its owner alone. It holds the command line, versions and the traceback, nothing of the
    environment.
    """
    text = _report(error)
    try:
        where = _written(text)
    except OSError:
        with suppress(OSError):
            print(text, file=sys.stderr)
        where = "the lines above"
    return f"{INTERNAL} ({first_line(error)}); please report it with {where}"


def _written(text: str) -> str:
    folder = tempfile.gettempdir()
    if folder == _here() and folder not in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp"):
        raise OSError("what is left is a folder of the user's own")
    descriptor, path = tempfile.mkstemp(prefix="greg-crash-", suffix=".txt", dir=folder, text=True)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        Path(path).unlink(missing_ok=True)
        raise
    return path


def _report(error: BaseException) -> str:
    lines = [f"greg {shlex.join(sys.argv[1:])}", f"in {_here()}", _process(), *_versions(), ""]
    return "\n".join(line for line in lines if line is not None) + "\n" + "".join(traceback.format_exception(error))


def _here() -> str:
    try:
        return str(Path.cwd())
    except OSError as error:
        return f"no folder ({error.strerror})"


def _process() -> str | None:
    try:
        here = place()
    except GregError:
        return None
    return None if here.alone else f"process {here.rank} of {here.size}"


def _versions() -> list[str]:
    """Of what is installed, without importing it."""
    found = [f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    for name in TOLD:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found
