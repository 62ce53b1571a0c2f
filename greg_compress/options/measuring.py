"""How a network is exported and timed, and its groups' sensitivity measured."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from greg_compress.errors import RequestError
from greg_compress.options.limits import MANY, require_between, require_device
from greg_compress.sources.specs import DataSpec

SAMPLES = 2000
"""Test images that show a sensitivity: a quarter of a point is 5 of them, and a point takes seconds."""
OLDEST_OPSET = 18
"""The dynamo exporter's own; older ones need a conversion that it does not always manage."""


@dataclass(frozen=True)
class ImageOptions:
    """Training images that a stage reads without training."""

    data: DataSpec
    download: bool = False
    workers: int | None = None
    recalibrate: int | None = None
    """Batches on which BatchNorm's statistics are measured anew."""

    def __post_init__(self) -> None:
        require_between("recalibrate", self.recalibrate, 0, MANY)


class Format(StrEnum):
    """What kind of file is exported; the names that such files end in, by which all commands know them."""

    ONNX = "onnx"
    PT2 = "pt2"

    def require_name(self, path: Path) -> None:
        """Refuse a name that no command would know such a file by.

        Raises:
            RequestError: `path` is one.
        """
        if path.suffix.lower() != f".{self}":
            kind = "an ONNX file" if self is Format.ONNX else "a program of PyTorch's"
            raise RequestError(f"{path} is no name for {kind}; end it in .{self}")


@dataclass(frozen=True)
class ExportOptions:
    """How the network is exported, checked and timed."""

    baseline: str | None = None
    opset: int | None = None
    threads: int = 1
    runs: int = 200
    tolerance: float = 1e-4
    batch: int = 1
    """Samples of a timed run."""
    preprocessing: bool = False
    """Whether the file normalises its images by itself."""
    precision: Literal["fp32", "int8", "fp16"] = "fp32"
    images: ImageOptions | None = None
    """Its training images calibrate int8, its test images say how accurate the file is."""
    format: Format = Format.ONNX

    def __post_init__(self) -> None:
        require_between("threads", self.threads, 0, 1025)
        require_between("runs", self.runs, 0, 10**7)
        require_between("tolerance", self.tolerance, 0, 1)
        require_between("batch", self.batch, 0, MANY)
        if self.opset is not None and not OLDEST_OPSET <= self.opset < 100:
            raise RequestError(f"--opset {self.opset}: write {OLDEST_OPSET} or a newer one")


@dataclass(frozen=True)
class SensitivityOptions:
    """What the sensitivity of each group is measured on."""

    data: DataSpec
    samples: int
    """Test images at most."""
    device: str
    download: bool
    workers: int | None

    def __post_init__(self) -> None:
        require_between("samples", self.samples, 0, MANY)
        require_device(self.device)
