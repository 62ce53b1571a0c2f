"""Write a network as one ONNX file and compare it with PyTorch in onnxruntime."""

from __future__ import annotations

import contextlib
import copy
import sys
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import torch
from torch import nn

from greg_compress.deploy.opening import lacking, short
from greg_compress.deploy.preprocessing import Preprocessed
from greg_compress.errors import CheckFailed, GregError, RequestError, first_line, input_fault, is_out_of_memory
from greg_compress.wiring.skeleton import Shapes, output_tensors

EXAMPLE_BATCH = 2
"""The exporter specialises a batch of 1."""
CHECKED_BATCHES = (1, 2, 5)
CHECKED_SEEDS = (0, 1, 2)
COMPRESSION = 6
"""Of zlib: its own default."""
ALL = "all"
LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ALL: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""How much of the graph onnxruntime may rewrite. A fused kernel can be wrong where the plain ones are right."""


@dataclass(frozen=True)
class Difference:
    """onnxruntime at one level of optimisation against PyTorch, over several inputs and batch sizes."""

    max_abs_error: float
    max_rel_error: float
    """Relative to the largest output of the batch."""
    top1_agreement: float
    """Fraction of samples for which both name the same class."""
    passed: bool


@dataclass(frozen=True)
class Parity(Difference):
    """The worst of all levels, and each of them."""

    levels: dict[str, Difference] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def flushed(model: nn.Module) -> tuple[nn.Module, int]:
    """A float32 copy in eval mode, on the CPU and contiguous, its denormal weights set to 0; how many."""
    ready = copy.deepcopy(model).cpu().eval()
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
    dtype = torch.uint8 if isinstance(model, Preprocessed) else torch.float32
    examples = tuple(torch.zeros((EXAMPLE_BATCH, *shape), dtype=dtype) for shape in input_shapes)
    batch = torch.export.Dim("batch")
    # The exporter talks on stdout, which belongs to the result, and warns about its own insides.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                model,
                examples,
                path,
                dynamo=True,
                external_data=False,
                verbose=False,
                opset_version=opset,
                input_names=["input"] if len(examples) == 1 else [f"input_{n}" for n in range(len(examples))],
                dynamic_shapes=tuple({0: batch} for _ in examples),
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


def zeros(path: Path) -> int:
    """How many floating-point weights of a file are exactly zero."""
    model = onnx.load(str(path))
    weights = [
        array for held in model.graph.initializer if (array := onnx.numpy_helper.to_array(held)).dtype.kind == "f"
    ]
    return sum(array.size - int(numpy.count_nonzero(array)) for array in weights)


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


def compare(model: nn.Module, path: Path, input_shapes: Shapes, tolerance: float) -> Parity:
    """Run PyTorch and onnxruntime on the same random inputs, and compare every output; top-1 is of the first.

    Args:
        model: in eval mode; a :class:`Preprocessed` one is given pixels.
        tolerance: largest error, relative to the largest output of a batch.

    Raises:
        GregError: an output is not finite.
        CheckFailed: this onnxruntime cannot run the file.
    """
    reference = model.reference if isinstance(model, Preprocessed) else model
    runtimes = {level: session(path, threads=1, level=level) for level in LEVELS}
    found: dict[str, list[_Batch]] = {level: [] for level in LEVELS}
    for seed in CHECKED_SEEDS:
        for batch in CHECKED_BATCHES:
            inputs = _random_inputs(model, input_shapes, batch, seed)
            with torch.no_grad(), input_fault("the network fails on random inputs"):
                wanted = output_tensors(reference(*inputs))
            for level, runtime in runtimes.items():
                feed = {entry.name: tensor.numpy() for entry, tensor in zip(runtime.get_inputs(), inputs, strict=True)}
                got = [torch.from_numpy(numpy.asarray(output)) for output in runtime.run(None, feed)]
                found[level].append(_compared(wanted, got))
    levels = {level: _summed(batches, tolerance) for level, batches in found.items()}
    each = levels.values()
    return Parity(
        max(one.max_abs_error for one in each),
        max(one.max_rel_error for one in each),
        min(one.top1_agreement for one in each),
        all(one.passed for one in each),
        levels,
    )


def _random_inputs(model: nn.Module, input_shapes: Shapes, batch: int, seed: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    if isinstance(model, Preprocessed):
        return [model.random_pixels((batch, *shape), random) for shape in input_shapes]
    return [torch.randn((batch, *shape), generator=random) for shape in input_shapes]


@dataclass(frozen=True)
class _Batch:
    """Largest errors of one batch, and how many of its samples both put into the same class."""

    absolute: float
    relative: float
    agreed: int
    samples: int


def _compared(wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> _Batch:
    """PyTorch's outputs against onnxruntime's, for one batch."""
    samples = len(wanted[0])
    if [tensor.shape for tensor in wanted] != [tensor.shape for tensor in got]:
        return _Batch(float("inf"), float("inf"), 0, samples)
    absolute = relative = 0.0
    for ours, theirs in zip(wanted, got, strict=True):
        if not bool(ours.isfinite().all() and theirs.isfinite().all()):
            raise GregError("the network's outputs are not finite (NaN or infinity); nothing was exported")
        error = (ours - theirs).abs().max().item()
        absolute = max(absolute, error)
        relative = max(relative, error / (ours.abs().max().item() or 1.0))
    agreed = int((wanted[0].flatten(1).argmax(1) == got[0].flatten(1).argmax(1)).sum())
    return _Batch(absolute, relative, agreed, samples)


def _summed(batches: Sequence[_Batch], tolerance: float) -> Difference:
    relative = max(batch.relative for batch in batches)
    agreement = sum(batch.agreed for batch in batches) / sum(batch.samples for batch in batches)
    return Difference(max(batch.absolute for batch in batches), relative, agreement, relative <= tolerance)
