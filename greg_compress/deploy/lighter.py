"""The exported file and its baseline in a lower precision, and what each of the four costs and gives."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from greg_compress.deploy.accuracy import evaluate_file
from greg_compress.deploy.half import halve
from greg_compress.deploy.latency import Latency
from greg_compress.deploy.quantized import quantize
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.normalization import Normalization

FP32 = "fp32"


@dataclass(frozen=True)
class Exported:
    """One of the networks as a file."""

    network: str
    """`exported` or `baseline`."""
    precision: str
    path: Path
    normalization: Normalization | None
    """None for a file that takes images as they are."""


@dataclass(frozen=True)
class Lighter:
    """The networks in float32 and in the lower precision, in the order of the table."""

    files: list[Exported]
    calibration: dict[str, Any] | None
    """How :func:`~.quantized.quantize` calibrated it; None for fp16."""

    def table(self, times: Mapping[Path, Latency], data: Dataset | None, threads: int) -> list[dict[str, Any]]:
        """`network`, `precision`, `size`, `p50_ms`, `p95_ms` and `top1` (None without data) of each file."""
        return [
            {
                "network": file.network,
                "precision": file.precision,
                "size": file.path.stat().st_size,
                "p50_ms": times[file.path].p50_ms,
                "p95_ms": times[file.path].p95_ms,
                "top1": data and evaluate_file(file.path, data.test, file.normalization, threads).top1,
            }
            for file in self.files
        ]


def lighten(precision: str, networks: list[Exported], data: Dataset | None, folder: Path) -> Lighter:
    """Put the first network's file into a lower precision, in place, and make the twins of all in a folder.

    Args:
        precision: `int8` or `fp16`.
        networks: in float32; the one that is exported first.
        data: calibrates int8.

    Raises:
        GregError: one of them cannot be converted.
    """
    first, *others = networks
    whole = replace(first, path=folder / "exported.onnx")
    shutil.copyfile(first.path, whole.path)
    light = [replace(first, precision=precision)]
    light += [replace(other, precision=precision, path=folder / f"{other.network}.light.onnx") for other in others]
    calibration = None
    for source, target in zip((whole, *others), light, strict=True):
        if precision == "int8":
            assert data is not None
            calibration = quantize(source.path, target.path, data.train, source.normalization)
        else:
            halve(source.path, target.path)
    return Lighter([*others, whole, *reversed(light)], calibration)
