"""What an exported program of PyTorch's (.pt2) says of itself. It is not loaded: loading one can run what is in it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from greg_compress.contents.contents import Contents
from greg_compress.contents.metadata import said, told
from greg_compress.deploy.metadata import ENTRY
from greg_compress.errors import InputError, input_fault
from greg_compress.small_files import parsed

LARGEST = 2**20
WHAT = {
    True: "a program of PyTorch's (ExportedProgram) that greg exported",
    False: "a program of PyTorch's (ExportedProgram) that greg did not export",
}


def contents(path: Path) -> Contents:
    """Its metadata.

    Raises:
        InputError: no archive, or a damaged one.
    """
    with input_fault(f"{path} is damaged or truncated"):
        found = said(_entries(path))
        shapes = [list(map(int, shape)) for shape in found.get("input_shapes") or ()]
        by = f"greg {found['version']}" if "version" in found else None
        return Contents("program", WHAT[by is not None], {"by": by, "input_shapes": shapes, **told(found)})


def _entries(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.partition("/")[2] == f"extra/{ENTRY}"]
        if not names:
            return {}
        with archive.open(names[0]) as entry:
            content = entry.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise InputError(f"{path} says more of itself than {LARGEST:,} bytes")
    read: Any = parsed(content)
    return {str(name): str(text) for name, text in read.items()}
