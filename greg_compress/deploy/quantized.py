"""Write a file's int8 twin, by onnxruntime's own static quantization.

Weights are integers of each output channel's own scale, activations are bytes whose ranges were seen on training images
(MinMax; Entropy and Percentile ended within 0.05 points of it on Fashion-MNIST). Weights get 7 of their 8 bits: then no
sum of two products overflows the 16 bits that processors without VNNI add them in (2 * 255 * 64 < 2^15), so that the
accuracy that is measured here holds on every processor. It costs 0.02 to 0.12 points there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from greg_compress.deploy.metadata import carry
from greg_compress.errors import CheckFailed, GregError, first_line, is_out_of_memory
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Samples, evenly

IMAGES, BATCH_SIZE = 512, 4
"""Twice as many change nothing; the activations of a batch lie in memory together."""
WARNINGS, NOTHING = 2, 4
"""onnxruntime's severities: its default, and fatal errors alone."""


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Training images as the network reads them, evenly spread and not augmented: the same in every run."""

    def __init__(self, name: str, samples: Samples, normalization: Normalization | None) -> None:
        count = min(IMAGES, len(samples))
        self.name, self.normalization = name, normalization
        self.batches = evenly(samples, count).batches(torch.arange(count), BATCH_SIZE)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        if batch is None:
            return None
        images = batch[0] if self.normalization is None else self.normalization(batch[0])
        return {self.name: images.numpy()}


def quantize(source: Path, target: Path, samples: Samples, normalization: Normalization | None) -> dict[str, Any]:
    """Write `target`, the int8 twin of an fp32 file of one image input; its metadata are those of `source`.

    Args:
        samples: training images, of which :data:`IMAGES` at most calibrate.
        normalization: None for a file that takes images as they are.

    Returns:
        How it was calibrated: `images`, `method`, `per_channel`, `weight_bits`.

    Raises:
        GregError: onnxruntime cannot quantize it.
        CheckFailed: nothing in it can be quantized.
    """
    prepared = source.with_name(f"{source.name}.prepared")
    name = onnx.load(str(source)).graph.input[0].name
    with _quiet(), _fault():
        try:
            # Of symbols only the batch is one, which onnx's own inference of shapes follows as well.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                _Images(name, samples, normalization),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        finally:
            prepared.unlink(missing_ok=True)
        carry(source, target)
        onnx.checker.check_model(str(target), full_check=True)
    if not integers(target):
        raise CheckFailed(
            "nothing in the network can be quantized: it has no convolution or matrix product; leave --int8 out"
        )
    return {"images": min(IMAGES, len(samples)), "method": "minmax", "per_channel": True, "weight_bits": 7}


def integers(path: Path) -> int:
    """How many of a file's weights are 8-bit integers."""
    held = onnx.load(str(path)).graph.initializer
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in held if tensor.data_type == onnx.TensorProto.INT8]
    return sum(array.size for array in arrays if array.ndim > 1)


@contextmanager
def _fault() -> Iterator[None]:
    """What quantization raises has no common type; what reading images raises is ours already."""
    try:
        yield
    except (GregError, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise GregError(f"onnxruntime cannot quantize the network ({first_line(error)}); leave --int8 out") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """It warns about its own insides, in Python and in C++."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(NOTHING)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)
        logging.disable(before)
