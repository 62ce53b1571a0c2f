"""The words of `greg export`: what the file is, how it is timed, and the gates that it must pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from typer import Option

from greg_compress.cli.arguments import Download, Workers, require_model
from greg_compress.cli.measuring import MeasuredOn
from greg_compress.errors import RequestError
from greg_compress.options.gates import FEWEST_RUNS, Gates, parse_accuracy, parse_least_speedup, parse_size
from greg_compress.options.measuring import ExportOptions, Format, ImageOptions
from greg_compress.selection.amounts import parse_time
from greg_compress.sources.specs import is_architecture, parse_data

Baseline = Annotated[
    str | None, Option("--baseline", metavar="MODEL", help="Measured in turn with the exported network.")
]
FileFormat = Annotated[
    Format, Option("--format", help="pt2: a program of PyTorch's (ExportedProgram), which is compared but not timed.")
]
RUNS = 200
Runs = Annotated[int, Option("--runs", help="Timed runs of each file.")]
MinTop1 = Annotated[
    str | None,
    Option("--min-top1", metavar="90", help="Gate: percent of --data's test images that the file gets right."),
]


def gates(
    max_latency: Annotated[
        str | None, Option("--max-latency", metavar="12ms", help="Gate: the p50. Exit 3 and no file beyond a gate.")
    ] = None,
    min_speedup: Annotated[
        str | None, Option("--min-speedup", metavar="2x", help="Gate: how many times faster than --baseline.")
    ] = None,
    max_size: Annotated[
        str | None, Option("--max-size", metavar="2MB", help="Gate: the file's size; kB, MB, GB, KiB, MiB or GiB.")
    ] = None,
    min_top1: MinTop1 = None,
    baseline: Baseline = None,
    data: MeasuredOn = None,
    runs: Runs = RUNS,
    file_format: FileFormat = Format.ONNX,
) -> Gates:
    if file_format is Format.PT2:
        _require_onnx({"--max-latency": max_latency, "--min-speedup": min_speedup, "--min-top1": min_top1})
    if min_speedup is not None and baseline is None:
        raise RequestError("--min-speedup compares with another network; name it with --baseline")
    if min_top1 is not None and data is None:
        raise RequestError("--min-top1 is measured on test images; name them with --data")
    found = Gates(
        None if max_latency is None else parse_time("--max-latency", max_latency),
        None if min_speedup is None else parse_least_speedup("--min-speedup", min_speedup),
        None if max_size is None else parse_size("--max-size", max_size),
        None if min_top1 is None else parse_accuracy("--min-top1", min_top1),
    )
    if found.of_time is not None and runs < FEWEST_RUNS:
        raise RequestError(f"{found.of_time} cannot be decided on --runs {runs}; it takes {FEWEST_RUNS} or more")
    return found


def export_options(
    baseline: Baseline = None,
    opset: Annotated[int | None, Option("--opset", help="Default: the exporter's own.")] = None,
    threads: Annotated[int, Option("--threads", help="Of onnxruntime while timing.")] = 1,
    batch: Annotated[int, Option("--batch", metavar="N", help="Samples of a timed run.")] = 1,
    runs: Runs = RUNS,
    tolerance: Annotated[float, Option("--tolerance", help="Largest error relative to the largest output.")] = 1e-4,
    with_preprocessing: Annotated[
        bool, Option("--with-preprocessing", help="The file takes pixels as bytes, and normalises them by itself.")
    ] = False,
    int8: Annotated[bool, Option("--int8", help="Quantize weights and activations; calibrated on --data.")] = False,
    fp16: Annotated[bool, Option("--fp16", help="Half the file; no faster on CPUs.")] = False,
    data: MeasuredOn = None,
    download: Download = False,
    workers: Workers = None,
    min_top1: MinTop1 = None,
    file_format: FileFormat = Format.ONNX,
) -> ExportOptions:
    if file_format is Format.PT2:
        _require_onnx(
            {"--baseline": baseline, "--opset": opset, "--threads": threads != 1, "--batch": batch != 1}
            | {"--runs": runs != RUNS, "--int8": int8, "--fp16": fp16, "--data": data}
        )
    if int8 and fp16:
        raise RequestError("--int8 and --fp16 contradict each other: a file has one precision")
    if int8 and data is None:
        raise RequestError("--int8 is calibrated on training images; name them with --data")
    if data is not None and not (int8 or fp16 or min_top1 is not None):
        raise RequestError("--data would have no effect without --min-top1, --int8 or --fp16")
    if workers is not None and data is None:
        raise RequestError("--workers would have no effect without --data")
    if baseline is not None and not is_architecture(baseline):
        require_model(baseline)
    return ExportOptions(
        baseline, opset, threads, runs, tolerance, batch, with_preprocessing,
        "int8" if int8 else "fp16" if fp16 else "fp32",
        None if data is None else ImageOptions(parse_data(data), download, workers), file_format,
    )  # fmt: skip


def _require_onnx(given: Mapping[str, object]) -> None:
    """onnxruntime times, converts and evaluates; it reads no program of PyTorch's."""
    if named := next((option for option, value in given.items() if value), None):
        raise RequestError(f"{named} is for ONNX files, which onnxruntime runs; leave it out with --format pt2")
