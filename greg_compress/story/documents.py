"""Any file of ours: a state, an ONNX file, or a JSON document that a command printed. Nothing in them is run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from greg_compress.deploy.metadata import OURS
from greg_compress.deploy.opening import MOST_FILE, MOST_OPENING, bounded, loaded
from greg_compress.errors import InputError
from greg_compress.small_files import parsed, read_small
from greg_compress.state import files
from greg_compress.state.format import State
from greg_compress.whole_files import require_file

MOST_DOCUMENT = 16 * 2**20
"""Bytes of a JSON document; those of networks with hundreds of layers have less than one MiB."""
ZIP, BRACE = b"PK", b"{"


class Kind(StrEnum):
    """What a file is, in words."""

    STATE = "state"
    ONNX = "ONNX file"
    EXPORTED = "greg export --json"
    PROGRAM = "greg export --format pt2 --json"
    COMPRESSED = "greg compress --json"
    EVALUATED = "greg evaluate --json"
    ANALYZED = "greg analyze --json"
    PRUNED = "greg prune --json"
    TRAINED = "a training's --json"
    RESULTS = "results.json of greg run"
    FAILED = "a failed check's --json"
    UNFINISHED = "record of a step of greg run, unfinished"


KEYS = {
    Kind.RESULTS: {"recipe", "cells", "results"},
    Kind.EXPORTED: {"onnx", "parity", "latency"},
    Kind.PROGRAM: {"program", "parity"},
    Kind.COMPRESSED: {"dense", "pruned", "macs_speedup"},
    Kind.ANALYZED: {"layers", "uncalled", "params"},
    Kind.PRUNED: {"self_check", "groups", "params"},
    Kind.EVALUATED: {"top1", "top5", "loss", "samples"},
    Kind.TRAINED: {"top1_before", "top1_after", "iterations"},
    Kind.FAILED: {"passed", "reason"},
}
"""Keys by which a document is told; the first kind that has all of them."""


@dataclass(frozen=True)
class File:
    """A file that was given."""

    name: str
    kind: Kind
    size: int
    """Bytes."""
    sha256: str
    said: Mapping[str, Any] = field(default_factory=dict)
    """The document; of an ONNX file its metadata of ours, and `opset`."""
    state: State | None = None
    """Without its weights."""


def opened(path: Path) -> File:
    """Read one of FILES.

    Raises:
        InputError: it is none of ours, damaged, or larger than such files are.
    """
    require_file(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if start.startswith(ZIP):
        state, digest = files.load(path)
        return File(str(path), Kind.STATE, size, digest, state=replace(state, weights={}, masks={}))
    if start.startswith(BRACE):
        return _document(path)
    return _onnx(path, size)


def _document(path: Path) -> File:
    content = read_small(path, MOST_DOCUMENT)
    try:
        said = parsed(content)
    except ValueError as error:
        raise InputError(f"{path} is no JSON document, or a truncated one") from error
    digest = hashlib.sha256(content).hexdigest()
    if {"step", "argv", "result"} <= said.keys():  # a record of greg run, around what the command returned
        if said["result"] is None and isinstance(said["step"], str):
            return File(str(path), Kind.UNFINISHED, len(content), digest, said)
        said = said["result"]
    known = said.keys() if isinstance(said, dict) else set()
    kind = next((kind for kind, keys in KEYS.items() if keys <= known), None)
    if kind is None:
        raise InputError(f"{path} is JSON, but nothing that greg prints with --json or writes as results.json")
    return File(str(path), kind, len(content), digest, said)


def _onnx(path: Path, size: int) -> File:
    """What an ONNX file says of itself; neither its weights' arithmetic nor its graph is looked at."""
    strange = f"{path} is none of greg's files: no state, no document of --json, no ONNX file that greg exported"
    if size > MOST_FILE:
        raise InputError(strange)
    with bounded(2 * size + MOST_OPENING, path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            model = loaded(path)
        except InputError as error:
            raise InputError(strange) from error
    said: dict[str, Any] = {held.key: held.value for held in model.metadata_props if held.key.startswith(OURS)}
    if not said:
        raise InputError(strange)
    opsets = [held.version for held in model.opset_import if held.domain == ""]
    return File(str(path), Kind.ONNX, size, digest, {**said, "opset": opsets[0] if opsets else None})
