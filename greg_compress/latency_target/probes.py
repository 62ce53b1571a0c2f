"""What layers take in onnxruntime, each beside others in one file that holds nothing else."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from greg_compress.latency_target.layers import Form

OPSET, IR_VERSION = 18, 10
"""What onnxruntimes of several years read."""
WARM_RUNS, FEWEST_RUNS, MOST_RUNS = 2, 3, 25
SECONDS = 0.6
"""For all probes of one file together; a pass is never cut short."""
VALUES = 10_007
"""Different weights; a large layer repeats them, since only drawing that many would take long."""
MOST_ELEMENTS = 2**26
"""Of all tensors of one file: a runtime may hold them all at once."""
NAME = re.compile(r"probe(\d+)(?:_nchwc)?_kernel_time")


def time_forms(forms: Sequence[Form], threads: int, batch: int) -> list[float]:
    """Milliseconds that each form takes by itself: the middle of some runs in the runtime's own profile.

    What the runtime does around a layer where nothing else is (bringing channels into blocks and back) is not counted.
    """
    return [time for part in _parts(forms, batch) for time in _timed(part, threads, batch)]


def _parts(forms: Sequence[Form], batch: int) -> Iterator[list[Form]]:
    """The forms in order, in parts that fit into memory."""
    part, total = list[Form](), 0
    for form in forms:
        weight = form.reads * form.makes // form.groups * prod(form.kernel)
        size = weight + batch * (form.reads + form.makes) * prod(form.positions)
        if part and total + size > MOST_ELEMENTS:
            yield part
            part, total = [], 0
        part.append(form)
        total += size
    yield part


def _timed(forms: Sequence[Form], threads: int, batch: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        model = _model(forms, batch)
        runtime = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        random = numpy.random.default_rng(0)
        feed = {entry.name: random.standard_normal(entry.shape, numpy.float32) for entry in runtime.get_inputs()}
        start, count = time.perf_counter(), 0
        while count < WARM_RUNS + FEWEST_RUNS or (
            count < WARM_RUNS + MOST_RUNS and time.perf_counter() - start < SECONDS
        ):
            runtime.run(None, feed)
            count += 1
        events = json.loads(Path(runtime.end_profiling()).read_bytes())
    return _medians(events, len(forms))


def _medians(events: Sequence[dict[str, Any]], count: int) -> list[float]:
    """Milliseconds of each probe, from a profile's events in the order in which they happened."""
    times: list[list[float]] = [[] for _ in range(count)]
    for event in events:
        if event.get("cat") == "Node" and (found := NAME.fullmatch(event["name"])):
            times[int(found[1])].append(event["dur"] / 1000)
    return [_middle(each[WARM_RUNS:]) for each in times]


def _middle(times: Sequence[float]) -> float:
    """The mean of the middle half: a profile's clock ticks in microseconds, which a median would keep."""
    ordered = sorted(times)
    cut = len(ordered) // 4
    return float(numpy.mean(ordered[cut : len(ordered) - cut]))


def _model(forms: Sequence[Form], batch: int) -> onnx.ModelProto:
    """A file of single layers, each followed by what makes its output small, as little else as can be."""
    values = numpy.random.default_rng(0).standard_normal(VALUES, numpy.float32) / 100
    inputs: dict[str, list[int]] = {}
    nodes, weights, outputs = [], [], []
    for number, form in enumerate(forms):
        shape = [batch * form.positions[0], form.reads] if not form.kernel else [batch, form.reads, *form.positions]
        read = "x" + "_".join(map(str, shape))
        inputs[read] = shape
        filters = (form.reads, form.makes) if not form.kernel or form.transposed else (form.makes, form.reads)
        sizes = (filters[0], filters[1] // form.groups, *form.kernel)
        weight = numpy.resize(values, sizes)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        weights.append(numpy_helper.from_array(numpy.zeros(form.makes, numpy.float32), f"b{number}"))
        made = f"probe{number}"
        words = [read, f"w{number}", f"b{number}"]
        if form.kernel:
            nodes.append(helper.make_node(*_operator(form), words, [made], made, **_attributes(form)))
            nodes.append(helper.make_node("GlobalMaxPool", [made], [f"y{number}"]))
        else:
            nodes.append(helper.make_node("Gemm", words, [made], made))
            nodes.append(helper.make_node("ReduceMax", [made], [f"y{number}"]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, None))
    entries = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    graph = helper.make_graph(nodes, "probes", entries, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _operator(form: Form) -> tuple[str]:
    return ("ConvTranspose" if form.transposed else "Conv",)


def _attributes(form: Form) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kernel_shape": form.kernel,
        "strides": form.stride,
        "pads": form.padding * 2,
        "dilations": form.dilation,
        "group": form.groups,
    }
    return found | ({"output_padding": form.output_padding} if form.transposed else {})
