"""Open an ONNX file that anybody may have made: its network ready to run in onnxruntime, in bounded memory.

An ONNX file cannot bring code along: onnxruntime loads operators of its own, and libraries only where a program
registers them. But a few bytes of it can ask for any amount of memory, so that the whole opening, and a first run of
one image, happen below a limit.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from greg_compress.deploy import metadata
from greg_compress.errors import GregError, InputError, RequestError, input_fault, is_out_of_memory

MOST_FILE = 2**31 - 1
"""Bytes of one protobuf message; larger networks keep their weights in files beside it."""
MOST_OPENING, MOST_RUNNING = 2**30 - 2**26, 2 * 2**30
"""Bytes that a network may take beside twice its files: opened (1 GiB with the pages of libraries), and while
its first images run."""
TYPES = {"tensor(float)": numpy.float32, "tensor(float16)": numpy.float16, "tensor(uint8)": numpy.uint8}
LONGEST_RUN = 600
"""Seconds for one batch."""
QUIET = 4
"""onnxruntime's severity of a fatal error: the others it raises as well, and we say them."""
Array = numpy.ndarray[Any, numpy.dtype[Any]]


@dataclass(frozen=True)
class OnnxNetwork:
    """A network of one image in onnxruntime."""

    path: Path
    session: onnxruntime.InferenceSession
    batch: int | None
    """Images that it takes at a time; None for any number."""
    shape: tuple[int | None, ...]
    """(C, H, W) of an image, None for a size that it leaves free."""
    type: Any
    """numpy's type of its input."""
    outputs: tuple[int | None, ...]
    """Shape of its first output."""
    zeros: int | None
    """Floating-point weights that are exactly zero; None where weights are integers."""
    weights: int
    """How many floating-point weights there are."""
    said: Mapping[str, str]
    """Its metadata."""

    @property
    def takes_bytes(self) -> bool:
        return bool(self.type == numpy.uint8)

    @property
    def exported_shape(self) -> tuple[int, ...] | None:
        """(C, H, W) of the image that it was exported with, if it says so."""
        shapes = metadata.input_shapes_in(self.said)
        return shapes[0] if len(shapes) == 1 and len(shapes[0]) == len(self.shape) else None

    def __call__(self, images: Array) -> Array:
        """(N, C, H, W) -> (N, ...), its first output; N is any number, also where it takes a fixed one.

        Raises:
            InputError: onnxruntime cannot run it.
        """
        missing = 0 if self.batch is None else -len(images) % self.batch
        whole = numpy.concatenate([images, numpy.repeat(images[-1:], missing, axis=0)]) if missing else images
        size = self.batch or len(whole)
        parts = [self._run(whole[start : start + size]) for start in range(0, len(whole), size)]
        return numpy.concatenate(parts)[: len(images)]

    def _run(self, images: Array) -> Array:
        name = self.session.get_inputs()[0].name
        options = onnxruntime.RunOptions()
        options.log_severity_level = QUIET
        given = {name: images.astype(self.type, copy=False)}
        with _runtime_fault(f"{self.path} fails on these images"), ThreadPoolExecutor(1) as beside:
            # Here alone nobody would hear Ctrl-C, and a loop in a network may be as long as it likes.
            running = beside.submit(self.session.run, None, given, options)
            try:
                found = numpy.asarray(running.result(LONGEST_RUN)[0])
            except TimeoutError as error:
                raise InputError(f"{self.path} takes more than {LONGEST_RUN} s for {len(images)} images") from error
            finally:
                options.terminate = True
        if len(found) != len(images):
            raise RequestError(f"{self.path} returns {len(found)} outputs for {len(images)} images")
        return found


def open_network(path: Path, threads: int) -> OnnxNetwork:
    """Open an ONNX file of one image input, and check that it is one.

    Raises:
        InputError: no ONNX file, damaged, its external data missing, or too large for the declared memory; or
            onnxruntime lacks one of its operators.
        RequestError: it takes other things than images.
    """
    size = length(path)
    with bounded(2 * size + MOST_OPENING, path):
        size, zeros, weights = examined(path, loaded(path))
    with bounded(2 * size + MOST_OPENING, path):
        session = _session(path, threads)
    (given, *others), outputs = session.get_inputs() or [None], session.get_outputs()
    if given is None or others:
        raise RequestError(f"{path} takes {len(session.get_inputs())} inputs; only a network of one image is evaluated")
    if given.type not in TYPES or len(given.shape) != 4:
        raise RequestError(f"{path} takes a {given.type} of {len(given.shape)} dimensions, not images (N, C, H, W)")
    batch, *shape = (side if isinstance(side, int) and side > 0 else None for side in given.shape)
    sizes = outputs[0].shape if outputs and isinstance(outputs[0].shape, list) else []
    made = tuple(side if isinstance(side, int) else None for side in sizes)
    said = dict(session.get_modelmeta().custom_metadata_map)
    return OnnxNetwork(path, session, batch, tuple(shape), TYPES[given.type], made, zeros, weights, said)


def try_one(network: OnnxNetwork, shape: tuple[int, ...]) -> Array:
    """The output for one black image, below a limit of memory that honest networks do not come near."""
    sizes = network.path.stat().st_size + 4 * network.weights
    with bounded(2 * sizes + MOST_RUNNING, network.path):
        return network(numpy.zeros((1, *shape), network.type))


def length(path: Path) -> int:
    size = path.stat().st_size
    if size > MOST_FILE:
        raise InputError(f"{path} is larger than 2 GiB, which no ONNX file is; its weights belong in a file beside it")
    return size


def loaded(path: Path) -> onnx.ModelProto:
    """The file without the weights beside it."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"{path} is no ONNX file, or a truncated one") from error
    if not model.ir_version or not model.graph.node or not model.graph.output:
        raise InputError(f"{path} is no ONNX file: it holds no network")
    return model


def examined(path: Path, model: onnx.ModelProto) -> tuple[int, int | None, int]:
    """Bytes of the file and of those beside it; weights that are zero (None where some are integers), and weights."""
    with input_fault(f"{path} is damaged: it does not say where its weights are"):
        beside = {_beside(path, held) for held in tensors(model) if uses_external_data(held)}
    size = path.stat().st_size + sum(file.stat().st_size for file in beside)
    names = {held.name for held in model.graph.initializer}
    scaled = [node.input for node in model.graph.node if node.op_type == "DequantizeLinear"]
    integers, scales = ({inputs[place] for inputs in scaled} & names for place in (0, 1))
    zeros = weights = 0
    for held in model.graph.initializer:
        try:
            array = onnx.numpy_helper.to_array(held, base_dir=str(path.parent))
        except Exception as error:
            # A tensor that claims other bytes than it has: onnx raises whatever numpy says.
            if is_out_of_memory(error):
                raise
            raise InputError(f"{path} is damaged: its tensor {held.name[:80]!r} cannot be read") from error
        if held.name in integers or (array.dtype.kind == "f" and held.name not in scales):
            zeros += array.size - int(numpy.count_nonzero(array))
            weights += array.size
    return size, None if integers else zeros, weights


def tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in a model: in constants, in the branches of an If and in functions as well."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from tensors(part)


def _beside(path: Path, held: onnx.TensorProto) -> Path:
    """The file that holds a tensor's data.

    Raises:
        InputError: it is missing, elsewhere or too short.
    """
    info = ExternalDataInfo(held)
    file = path.parent / info.location
    where = f"{path} keeps weights in {str(info.location)[:80]!r}"
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise InputError(f"{where}, outside of its folder; nothing was read there")
    if not file.is_file():
        raise InputError(f"{where}, which is not there; put it beside the file")
    if file.stat().st_size < (info.offset or 0) + (info.length or 0):
        raise InputError(f"{where}, which is truncated")
    return file


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    with _runtime_fault(f"onnxruntime {onnxruntime.__version__} cannot open {path}"):
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def _runtime_fault(what: str) -> Iterator[None]:
    """What onnxruntime raises, in one line. Its errors have no common type, and begin with a code and places in C++."""
    try:
        yield
    except GregError:
        raise
    except Exception as error:
        said = str(error)
        if is_out_of_memory(error) or "bad_alloc" in said or "Failed to allocate memory" in said:
            raise MemoryError from error
        if (operator := lacking(said)) is not None:
            raise InputError(
                f"{what}: it lacks the operator {operator}; export with an older --opset or install a newer one"
            ) from error
        raise InputError(f"{what} ({short(said)})") from error


def lacking(said: str) -> str | None:
    """The operator that onnxruntime does not know, if that is what it says."""
    found = re.search(r"(?:No Op registered for|find an implementation for) (\w+)", said)
    return found and found[1]


def short(said: str) -> str:
    """What onnxruntime says, without its codes and the places in its source."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/.*\) ", "", " ".join(said.split()))
    return text[:300]


@contextmanager
def bounded(more: int, path: Path) -> Iterator[None]:
    """This process may take so many bytes more in here; where the system does not count them, any number.

    Raises:
        InputError: it would have taken more.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    held = taken()
    if held is not None:
        claimed, resident = held
        # What is claimed and was never touched could be touched in here; with CUDA that may be more than all of it.
        allowed = max(more - (claimed - resident), more // 2)
        limits = [claimed + allowed, *(limit for limit in before if limit != resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), before[1]))
    try:
        yield
    except MemoryError as error:
        raise InputError(f"{path} asks for more memory than {more >> 20} MiB; it was refused") from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def taken() -> tuple[int, int] | None:
    """Bytes of memory that count towards the limit, and those that are really there."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = {name: 1024 * int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)
             if name in ("VmData", "RssAnon")}  # fmt: skip
    return (found["VmData"], found["RssAnon"]) if len(found) == 2 else None
