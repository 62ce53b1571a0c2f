"""What an ONNX file says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greg_compress.contents.contents import Contents
from greg_compress.contents.metadata import said, told
from greg_compress.deploy.describing import Description, description
from greg_compress.errors import input_fault
from greg_compress.following import Standing, Way, ways

WHAT = {True: "an ONNX network that greg exported", False: "an ONNX network that greg did not export"}


def contents(path: Path) -> Contents:
    """Its metadata and what goes in and out; no weights are run.

    Raises:
        InputError: no ONNX file, or a damaged one.
    """
    found = description(path)
    ours = said(found.said)
    with input_fault(f"{path} is damaged"):
        return Contents("onnx", WHAT["version" in ours], _holds(found, ours), (), _follows(path))


def _holds(found: Description, ours: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "by": f"greg {ours['version']}" if "version" in ours else found.producer,
        "opset": found.opset,
        "inputs": found.inputs,
        "outputs": found.outputs,
        "nodes": found.nodes,
        "weights": found.weights,
        "zeros": found.zeros,
        "precision": found.precision,
        **told(ours),
    }


def _follows(path: Path) -> tuple[Way, ...]:
    return ways(Standing("onnx", (str(path),)), typed="show")
