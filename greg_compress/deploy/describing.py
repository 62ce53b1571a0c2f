"""What an ONNX file is, without opening it in onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from greg_compress.deploy.opening import MOST_OPENING, bounded, examined, length, loaded


@dataclass(frozen=True)
class Description:
    """What stands in an ONNX file beside its numbers."""

    producer: str
    opset: int
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    """`name`, `type` and `shape` of each; a size that is free has a name, or is None."""
    nodes: int
    weights: int
    """Floating-point ones."""
    zeros: int | None
    precision: str
    said: dict[str, str]
    """Its metadata."""


def description(path: Path) -> Description:
    """Read an ONNX file without opening it in onnxruntime.

    Raises:
        InputError: no ONNX file, damaged, its external data missing, or too large for the declared memory.
    """
    with bounded(2 * length(path) + MOST_OPENING, path):
        model = loaded(path)
        _, zeros, weights = examined(path, model)
    kinds = {held.data_type for held in model.graph.initializer}
    half = onnx.TensorProto.FLOAT16 in kinds and onnx.TensorProto.FLOAT not in kinds
    held = {initializer.name for initializer in model.graph.initializer}
    return Description(
        " ".join(filter(None, (model.producer_name, model.producer_version))),
        max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0),
        [_port(each) for each in model.graph.input if each.name not in held],
        [_port(each) for each in model.graph.output],
        len(model.graph.node),
        weights,
        zeros,
        "int8" if zeros is None else "fp16" if half else "fp32",
        {each.key: each.value for each in model.metadata_props},
    )


def _port(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    sizes = [side.dim_value if side.HasField("dim_value") else side.dim_param or None for side in tensor.shape.dim]
    known = tensor.elem_type in onnx.TensorProto.DataType.values()
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if known else "unknown"
    return {"name": value.name, "type": kind, "shape": sizes}
