"""Write a file's fp16 twin: half the bytes, images and outputs in float32 as before.

On CPUs that is all: onnxruntime has no float16 convolution for them and calculates in float32 between casts.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from greg_compress.deploy.metadata import carry
from greg_compress.errors import GregError, first_line, is_out_of_memory

TOLERANCE = 1e-2
"""Of the largest output. A rounding to float16 errs by 2^-11; those of fifty layers add up to some of them."""


def halve(source: Path, target: Path) -> None:
    """Write `target`, the fp16 twin of an fp32 file.

    Raises:
        GregError: the converter refuses the network.
    """
    try:
        model = ONNXModel(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True))
        model.topological_sort()  # the converter puts its casts at the end
        model.save_model_to_file(str(target))
        carry(source, target)
        onnx.checker.check_model(str(target), full_check=True)
    except OSError:
        raise
    except Exception as error:
        # The converter has no common error type.
        if is_out_of_memory(error):
            raise
        raise GregError(f"the network cannot be written in float16 ({first_line(error)}); leave --fp16 out") from error
