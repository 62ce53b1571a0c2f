"""Write a network as one ONNX file, and open it in onnxruntime."""

from __future__ import annotations

import contextlib
import copy
import sys
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy
import onnx
import onnxruntime
import torch
from torch import nn

from greg_compress.deploy.opening import lacking, short
from greg_compress.deploy.parity import Runtime
from greg_compress.deploy.preprocessing import examples
from greg_compress.errors import CheckFailed, GregError, RequestError, first_line, is_out_of_memory
from greg_compress.wiring.skeleton import Shapes

COMPRESSION = 6
"""Of zlib: its own default."""
ALL = "all"
LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ALL: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""How much of the graph onnxruntime may rewrite. A fused kernel can be wrong where the plain ones are right."""


def flushed(model: nn.Module) -> tuple[nn.Module, int]:
    """A copy in eval mode, on the CPU and contiguous, its denormal weights set to 0; how many."""
    ready = copy.deepcopy(model)
    ready.cpu()
    ready.eval()
    ready.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    count = 0
    for tensor in [*ready.parameters(), *ready.buffers()]:
        if tensor.is_floating_point():
            denormal = (tensor != 0) & (tensor.abs() < torch.finfo(tensor.dtype).tiny)
            count += int(denormal.sum())
            tensor.data.masked_fill_(denormal, 0)
    return ready, count


def write(model: nn.Module, input_shapes: Shapes, path: Path, opset: int | None) -> None:
    """Export a network whose batch size stays free, as one file, and have onnx check it.

    A :class:`Preprocessed` network gets a file that takes bytes, any other one that takes float32.

    Raises:
        RequestError: an opset that the exporter does not write.
        GregError: the exporter refuses the network.
    """
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and opset > newest:
        raise RequestError(f"--opset {opset}: the newest that this onnx knows is {newest}")
    inputs = examples(model, input_shapes)
    batch = torch.export.Dim("batch")
    # The exporter talks on stdout, which belongs to the result, and warns about its own insides.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                model,
                inputs,
                path,
                dynamo=True,
                external_data=False,
                verbose=False,
                opset_version=opset,
                input_names=["input"] if len(inputs) == 1 else [f"input_{n}" for n in range(len(inputs))],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
            )
        except OSError:
            raise
        except Exception as error:
            # The exporter has no common error type; its first line says which operation it does not know.
            raise GregError(f"the network cannot be exported to ONNX ({first_line(error)})") from error
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise CheckFailed(f"onnx refuses the exported file: {str(error).splitlines()[0]}") from error
    if opset is not None and written_opset(path) != opset:
        raise CheckFailed(f"the exporter could not write opset {opset}, only {written_opset(path)}; leave --opset out")


def written_opset(path: Path) -> int:
    """The version of the default operator set that a file uses."""
    model = onnx.load(str(path), load_external_data=False)
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def compressed_size(path: Path) -> int:
    """Bytes that a file takes once zlib has packed it: what zeros save in storage and on the way."""
    packer, total = zlib.compressobj(COMPRESSION), 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            total += len(packer.compress(part))
    return total + len(packer.flush())


def session(path: Path, threads: int, level: str = ALL) -> onnxruntime.InferenceSession:
    """Open a file of our own in onnxruntime on the CPU.

    Args:
        level: of :data:`LEVELS`.

    Raises:
        CheckFailed: this onnxruntime cannot run it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is fatal is raised as well
    options.graph_optimization_level = LEVELS[level]
    # Threads that still spin after a run would take the processor from the file whose turn is next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if is_out_of_memory(error):
            raise
        version = f"onnxruntime {onnxruntime.__version__}"
        if (operator := lacking(str(error))) is not None:
            raise CheckFailed(
                f"{version} lacks the operator {operator}, which the exported network needs; try an older --opset, or"
                " install a newer onnxruntime"
            ) from error
        raise CheckFailed(f"{version} cannot open the exported network ({short(str(error))})") from error


def runtimes(path: Path) -> dict[str, Runtime]:
    """What runs a file, at each level of optimisation.

    Raises:
        CheckFailed: this onnxruntime cannot run it.
    """
    return {level: _runtime(session(path, threads=1, level=level)) for level in LEVELS}


def _runtime(opened: onnxruntime.InferenceSession) -> Runtime:
    names = [entry.name for entry in opened.get_inputs()]

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(numpy.asarray(output)) for output in opened.run(None, feed)]

    return run
