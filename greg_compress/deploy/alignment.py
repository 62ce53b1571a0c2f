"""Whether convolutions read as many channels as the runtime's fast kernels want.

onnxruntime runs a convolution in its blocked layout (8 or 16 channels together) only where its input channels are a
multiple of 4 (microsoft/onnxruntime#14392); within a block, channels up to the next multiple of it cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

MULTIPLES = (4, 8, 16)
NEEDED = MULTIPLES[0]
FEW = 8
"""Convolutions that read less than a block, images above all, are run as they are."""


def alignment(path: Path, kept: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The share of a file's convolutions whose input channels are multiples of 4, 8 and 16, and a hint.

    Args:
        kept: of each group that was cut, the units that it keeps, and that it had.

    Returns:
        `convolutions` (those that read 8 channels at least), `multiple_of_4`, `_8`, `_16` (None without any), and
        `hint`: None unless a cut made it so.
    """
    channels = [count for count in _input_channels(path) if count >= FEW]
    share = {
        f"multiple_of_{multiple}": sum(count % multiple == 0 for count in channels) / len(channels)
        if channels
        else None
        for multiple in MULTIPLES
    }
    return {"convolutions": len(channels), **share, "hint": _hint(channels, kept)}


def _hint(channels: list[int], kept: Mapping[str, tuple[int, int]]) -> str | None:
    odd = sum(count % NEEDED != 0 for count in channels)
    made = [name for name, (left, had) in kept.items() if left < had and left % NEEDED]
    if not odd or not made:
        return None
    return (
        f"{odd} of {len(channels)} convolutions read a number of channels that is no multiple of {NEEDED}, which"
        f" onnxruntime runs outside of its fast kernels: prune with --align (8 or 16, or auto to measure which), for"
        f" {made[0]} keeps {kept[made[0]][0]}"
    )


def _input_channels(path: Path) -> list[int]:
    """Of every convolution, all of its groups together."""
    graph = onnx.load(str(path), load_external_data=False).graph
    shapes = {held.name: list(held.dims) for held in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "Conv" and (shape := shapes.get(node.input[1])) is not None:
            groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
            found.append(shape[1] * groups)
    return found
