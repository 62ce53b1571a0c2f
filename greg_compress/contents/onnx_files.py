"""What an ONNX file says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greg_compress.contents.contents import Contents, normalization
from greg_compress.deploy.describing import Description, description
from greg_compress.deploy.metadata import OURS
from greg_compress.errors import input_fault
from greg_compress.following import Standing, Way, ways

WHAT = {True: "an ONNX network that greg exported", False: "an ONNX network that greg did not export"}


def contents(path: Path) -> Contents:
    """Its metadata and what goes in and out; no weights are run.

    Raises:
        InputError: no ONNX file, or a damaged one.
    """
    found = description(path)
    said = {name.removeprefix(OURS): _value(text) for name, text in found.said.items() if name.startswith(OURS)}
    ours = "version" in said
    with input_fault(f"{path} is damaged"):
        return Contents("onnx", WHAT[ours], _holds(found, said, ours), (), _follows(path))


def _holds(found: Description, said: Mapping[str, Any], ours: bool) -> dict[str, Any]:
    kept = {str(name): int(left) for name, left in dict(said.get("ratios") or {}).items()}
    return {
        "by": f"greg {said['version']}" if ours else found.producer,
        "opset": found.opset,
        "inputs": found.inputs,
        "outputs": found.outputs,
        "nodes": found.nodes,
        "weights": found.weights,
        "zeros": found.zeros,
        "precision": found.precision,
        "classes": said.get("classes"),
        "normalization": normalization(said if "mean" in said else None),
        "preprocessing": said.get("preprocessing"),
        "groups_cut": len(kept),
        "kept": kept or None,
        "history_sha256": said.get("history"),
    }


def _follows(path: Path) -> tuple[Way, ...]:
    return ways(Standing("onnx", (str(path),)), typed="show")


def _value(text: str) -> Any:
    """What a text of the metadata says; versions and digests are no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
