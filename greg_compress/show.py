"""Stage `show`: what a file of ours is, how it was made, and what to do with it next. Reading runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from greg_compress.contents import documents
from greg_compress.contents.contents import Contents
from greg_compress.errors import InputError
from greg_compress.recipes.recipe import Words
from greg_compress.whole_files import require_file

TENSORS = (b"PK\x03\x04", b"\x80")
"""How files begin that torch writes; safetensors and ONNX are known by their names."""
PROGRAM = ".pt2"
LOOK = 4096


def run(path: Path, commands: Mapping[str, Words]) -> dict[str, Any]:
    """Say what a file is, by its first bytes or its name.

    Args:
        commands: what each command takes, for recipes.

    Returns:
        `file`, `size` in bytes, `kind`, `what` in words, `holds`, `history` and `next`, each command as it is typed.

    Raises:
        InputError: it cannot be read, is damaged, or no kind of file that is known here.
    """
    require_file(path)
    found = _contents(path, commands)
    return {
        "file": str(path),
        "size": path.stat().st_size,
        "kind": found.kind,
        "what": found.what,
        "holds": found.holds,
        "history": [asdict(entry) for entry in found.history],
        "next": [way.to_json() for way in found.following],
    }


def _contents(path: Path, commands: Mapping[str, Words]) -> Contents:
    try:
        with path.open("rb") as file:
            begins = file.read(LOOK)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if path.suffix.lower() == ".onnx":
        from greg_compress.contents import onnx_files

        return onnx_files.contents(path)
    if path.suffix.lower() == PROGRAM:
        from greg_compress.contents import programs

        return programs.contents(path)
    if begins.startswith(TENSORS) or path.suffix == ".safetensors":
        from greg_compress.contents import networks  # torch takes seconds, and the others need none

        return networks.contents(path)
    if path.suffix.lower() == ".toml":
        return documents.of_recipe(path, commands)
    if begins.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return documents.of_json(path)
    raise InputError(f"{path} is none of greg's files: no state, weights, ONNX, plan, recipe or result of a run")
