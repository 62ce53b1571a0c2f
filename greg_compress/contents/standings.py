"""Where a network stands, from its state or from what a command says of MODEL."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from greg_compress.errors import GregError
from greg_compress.following import Standing, Words
from greg_compress.options.network import ModelOptions
from greg_compress.retyping import model_words
from greg_compress.sources import models, user_files
from greg_compress.sources.specs import (
    DATA_KINDS,
    LIBRARIES,
    PICKLE,
    Architecture,
    is_architecture,
    is_onnx,
    parse_data,
)
from greg_compress.state import files
from greg_compress.state.format import State
from greg_compress.tensor_files.reader import read
from greg_compress.whole_files import require_file


def of_model(model: ModelOptions) -> Standing:
    """Where MODEL stands, of whatever kind it is.

    Raises:
        InputError: it cannot be read.
    """
    words, path = model_words(model), Path(model.model)
    if is_architecture(model.model):
        return Standing("dense", words, trained=model.arch is not None and model.arch.has_weights)
    if is_onnx(model.model):
        return Standing("onnx", words)
    require_file(path)
    data, _ = read(path)
    if not files.is_state(data):
        return Standing("dense", words)
    found = of_state(files.state_of(data, path), path)
    return found if model.arch is None else replace(found, model=words, complete=True)


def of_file(path: Path) -> Standing:
    """Where the network of a state file stands.

    Raises:
        InputError: it cannot be read.
    """
    return of_state(files.load(path)[0], path)


def of_state(state: State, path: Path) -> Standing:
    """Where the network of a state stands that lies at `path`."""
    beside, complete = _beside(state.architecture)
    name = str(path)
    return Standing(
        state.stage,
        (f"./{name}" if name.startswith("-") else name, *beside),
        data=readable(state.data),
        batch_size=_batch_size(state.history),
        baseline=_baseline(state),
        complete=complete,
    )


def readable(data: str | None) -> str | None:
    """A data spec, if its folder or file is there from here."""
    if data is None:
        return None
    try:
        spec = parse_data(data)
    except GregError:
        return None
    there = spec.kind not in DATA_KINDS or spec.root is None or Path(spec.root).is_dir()
    return data if there else None


def _beside(architecture: Architecture) -> tuple[Words, bool]:
    """What opening a state takes beside it, and whether that is known: a FILE.py that is not found by itself."""
    if architecture.source in LIBRARIES:
        return (), True
    if architecture.source == PICKLE:
        return ("--allow-pickle",), models.recorded_file(architecture) is not None
    found, there = models.recorded_file(architecture), Path(architecture.source)
    if found is not None and not _takes_neighbours(*found):
        return (), True
    if found is None and there.is_file() and user_files.sha256(user_files.contents(there)) == architecture.sha256:
        found = there, b""
    return ("--arch", f"{found[0] if found else 'FILE.py'}:{architecture.name}"), found is not None


def _takes_neighbours(path: Path, content: bytes) -> bool:
    """Whether a FILE.py imports what lies beside it, which only a file that is named may."""
    try:
        nodes = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    firsts = {name.partition(".")[0] for name in named} - {""}
    return any((path.parent / f"{name}.py").is_file() or (path.parent / name).is_dir() for name in firsts)


def _batch_size(history: list[dict[str, Any]]) -> int | None:
    sizes = [_within(entry, "options", "batch_size") for entry in history]
    return next((size for size in reversed(sizes) if type(size) is int), None)


def _baseline(state: State) -> str | None:
    """The dense network that was cut or regularized first, if it is still the same file."""
    for entry in state.history:
        if entry.get("command") not in ("regularize", "prune"):
            continue
        name, digest = (_within(entry, "input", key) for key in ("model", "sha256"))
        if not isinstance(name, str):
            return None
        if is_architecture(name):
            return None if state.architecture.kwargs or not _is_library(name) else name
        same = digest is not None and Path(name).is_file() and _sha256(Path(name)) == digest
        return name if same and not name.startswith("-") else None
    return None


def _is_library(spec: str) -> bool:
    named = Architecture(spec)
    return named.source in LIBRARIES and not named.has_weights


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _within(entry: Mapping[str, Any], *keys: str) -> Any:
    """A value of a history, which may hold anything."""
    found: Any = entry
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found
