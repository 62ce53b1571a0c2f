"""How each result is printed on stdout: a table for people, one JSON document for scripts."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.console import Console

from greg_compress.cli.afterwards import Next, nothing
from greg_compress.cli.analysis import analysis
from greg_compress.cli.grid import grid, planned_grid
from greg_compress.cli.showing import shown
from greg_compress.cli.terminal import Unheard, console, make_table
from greg_compress.cli.words import clock, percent, size
from greg_compress.errors import CheckFailed, GregError

Result = dict[str, Any]
__all__ = [
    "accuracy",
    "analysis",
    "compressed",
    "demonstration",
    "drawn",
    "exported",
    "finite",
    "grid",
    "planned_grid",
    "printed",
    "pruning",
    "reported",
    "shown",
    "training",
]


@contextmanager
def printed(as_json: bool, show: Callable[[Console, Result], None]) -> Iterator[Callable[..., None]]:
    """Give a function that prints a stage's result, and for people what to type next below it.

    A failed check still prints its JSON (exit 3).
    """

    stdout = sys.stdout

    def print_json(document: Result) -> None:
        stdout.write(json.dumps(finite(document), indent=2, allow_nan=False) + "\n")
        stdout.flush()

    def print_result(result: Result, following: Next = nothing) -> None:
        if as_json:
            print_json({**result, "passed": True})
            return
        out = console(stdout)
        show(out, result)
        stdout.flush()
        with contextlib.suppress(GregError, OSError):  # the work is done, and its result is printed
            if (way := following()) is not None:
                out.print(f"next: {way.line}", soft_wrap=True)
        stdout.flush()

    try:
        with contextlib.redirect_stdout(cast(IO[str], Unheard(sys.stderr))):  # a user's own network may print
            yield print_result
    except CheckFailed as failure:
        if as_json:
            print_json({**(failure.report or {}), "passed": False, "reason": str(failure)})
        raise


def finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: what has no measure is null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def training(out: Console, result: Result) -> None:
    if "end" in result:
        out.print(
            f"{result['iterations']} iterations of {result['seconds_per_iteration']:.3f} s and the evaluations:"
            f" {clock(result['seconds'])}; begun now, it would end at {result['end']}"
        )
        return
    rows = [
        ("top-1 before", percent(result["top1_before"])),
        ("top-1 after", percent(result["top1_after"])),
        ("iterations", result["iterations"]),
        ("seconds", f"{result['seconds']:.1f}"),
    ]
    if result["val_top1"] is not None:
        rows.insert(2, ("top-1 held out", percent(result["val_top1"])))
    if result.get("l1_differs") is not None:
        rows.append(("picks that L1 at the start would not have made", result["l1_differs"]))
    out.print(make_table(("", "result"), rows))


def accuracy(out: Console, result: Result) -> None:
    rows = [
        ("top-1", percent(result["top1"])),
        ("top-5", percent(result["top5"])),
        ("loss", f"{result['loss']:.4f}"),
        ("images", result["samples"]),
    ]
    if result["zeros"]:
        rows.append(("parameters that are zero", f"{result['zeros']:,} ({percent(result['sparsity'])})"))
    out.print(make_table(("", "result"), rows))


def pruning(out: Console, result: Result) -> None:
    rows = [
        ("parameters", f"{result['params']['before']:,}", f"{result['params']['after']:,}"),
        ("MACs", f"{result['macs']['before']:,}", f"{result['macs']['after']:,}"),
        ("size", size(result["size"]["before"]), size(result["size"]["after"])),
    ]
    out.print(make_table(("", "before", "after"), rows))
    error = result["self_check"]["max_rel_error"]
    if result["layers"] is not None:
        out.print(
            f"{result['zeros']['after']:,} parameters are zero: sparsity {result['sparsity']:.2f}%; self-check passed:"
            f" the state gives the same outputs to {error:.1e} in float64"
        )
    else:
        out.print(
            f"{result['macs_speedup']:.2f}x fewer MACs, sparsity {result['sparsity']:.2f}%;"
            f" self-check passed: masked equals sliced to {error:.1e} in float64"
        )
    if (fold := result["fold"]) is not None and fold["folded"]:
        change, layers = fold["rel_change"], "layer" + "s" * (fold["folded"] != 1)
        out.print(
            f"what picked filters still made was folded into {fold['folded']} {layers}: on a random batch the output"
            f" changes by {change['after']:.1e} of its norm, without it by {change['before']:.1e}"
        )
    if result["l1_differs"]:
        what = "units" if result["layers"] is None else "weights"
        out.print(f"a final L1 sort would have picked {result['l1_differs']:,} {what} otherwise")


def exported(out: Console, result: Result) -> None:
    if "program" in result:
        _program(out, result)
    else:
        _onnx(out, result)
    for gate in result["gates"]:
        out.print(gate["text"])


def _program(out: Console, result: Result) -> None:
    parity = result["parity"]
    out.print(
        f"{result['program']}: a program of PyTorch's, {size(result['size'])}; parity passed: read back, largest error"
        f" {parity['max_rel_error']:.1e} of the largest output, top-1 agrees on {parity['top1_agreement']:.0%}"
    )
    _prepared(out, result)


def _prepared(out: Console, result: Result) -> None:
    if result["preprocessing"] != "none":
        out.print("it takes pixels as bytes (N, C, H, W), and normalises them by itself")
    if result["denormals_flushed"]:
        out.print(f"{result['denormals_flushed']:,} denormal weights were set to 0")


def _onnx(out: Console, result: Result) -> None:
    if result["variants"] is not None:
        _variants(out, result)
    else:
        rows = [("this network", *_times(result["latency"]))]
        if result["baseline"] is not None:
            rows.append(("baseline", *_times(result["baseline"])))
        out.print(make_table(("latency (ms)", "p50", "p95", "p99", "min", "mean", "variation"), rows))
    timed, at = result["latency"], result["identity"]
    out.print(
        f"batch {timed['batch']}, threads {timed['threads']}, {timed['runs']} runs in turn; {timed['throughput']:,.0f}"
        f" samples a second; onnxruntime {at['versions']['onnxruntime']}, {at['processor']}",
    )
    parity, light = result["parity"], result["precision"] != "fp32"
    compared = "parity in fp32, before it, passed" if light else "parity passed"
    out.print(
        f"{result['onnx']}: {result['precision']}, {size(result['size'])}, opset {result['opset']}; {compared}:"
        f" largest error {parity['max_rel_error']:.1e} of the largest output, top-1 agrees on"
        f" {parity['top1_agreement']:.0%}, with basic and all graph optimisations",
    )
    _prepared(out, result)
    if result["zeros"]:
        out.print(
            f"{result['zeros']:,} of its weights are zero; packed by zlib it takes {size(result['compressed_size'])}"
        )
    if result["speedup"] is not None:
        sure = "" if (ends := result["speedup_interval"]) is None else f" ({ends[0]:.2f}x to {ends[1]:.2f}x)"
        over = " over the baseline in fp32" * light
        out.print(f"measured speedup{over} {result['speedup']:.2f}x{sure}; {result['macs_speedup']:.2f}x fewer MACs")
    if result["top1"] is not None:
        out.print(f"top-1 of the file in onnxruntime: {percent(result['top1'])}")
    if result["alignment"]["hint"] is not None:
        out.print(result["alignment"]["hint"])


def _variants(out: Console, result: Result) -> None:
    names = {"exported": "this network", "baseline": "baseline"}
    rows = [
        (
            f"{names[row['network']]}, {row['precision']}",
            size(row["size"]),
            f"{row['p50_ms']:.3f}",
            f"{row['p95_ms']:.3f}",
            "-" if row["top1"] is None else percent(row["top1"]),
        )
        for row in result["variants"]
    ]
    out.print(make_table(("file", "size", "p50 (ms)", "p95 (ms)", "top-1"), rows))
    p50 = {row["precision"]: row["p50_ms"] for row in result["variants"] if row["network"] == "exported"}
    if p50[result["precision"]] > p50["fp32"]:
        out.print(f"in {result['precision']} this network is no faster here: its file is smaller, and that is all")
    if (half := result["light_parity"]) is not None:
        out.print(f"fp16 errs by {half['max_rel_error']:.1e} of the largest output")
    if (how := result["calibration"]) is not None:
        out.print(f"int8: {how['method']} of {how['images']} training images, {how['weight_bits']} bits per weight")


def drawn(out: Console, result: Result) -> None:
    norms = f" (norms of {result['layer']})" if result["layer"] else ""
    out.print(f"{result['picture']}: {', '.join(result['figures'])}{norms}, {size(result['size'])}")


def reported(out: Console, result: Result) -> None:
    out.print(f"{result['report']}: {', '.join(result['sections'])}, {size(result['size'])}")
    for section, reason in result["missing"].items():
        out.print(f"no {section}: {reason}")


def _before_and_after(out: Console, result: Result) -> None:
    dense, small = result["dense"], result["pruned"]
    rows = [
        ("parameters", f"{dense['params']:,}", f"{small['params']:,}"),
        ("MACs", f"{dense['macs']:,}", f"{small['macs']:,}"),
        ("ONNX file", size(dense["onnx_size"]), size(small["onnx_size"])),
        ("top-1", percent(dense["top1"]), percent(small["top1"])),
        ("latency p50 (ms)", f"{dense['p50_ms']:.3f}", f"{small['p50_ms']:.3f}"),
    ]
    out.print(make_table(("", "before", "after"), rows))
    out.print(f"measured speedup {result['speedup']:.2f}x; {result['macs_speedup']:.2f}x fewer MACs")
    if result["noisy"]:
        out.print("the timing is noisy; greg export times the pruned state and --baseline again, on a quieter machine")


def compressed(out: Console, result: Result) -> None:
    _before_and_after(out, result)
    out.print(f"{result['onnx']}, made by {result['recipe']}", soft_wrap=True)


def demonstration(out: Console, result: Result) -> None:
    _before_and_after(out, result)
    out.print(f"{result['seconds']:.0f} seconds. The same by hand:")
    for command in result["commands"]:
        out.print("  " + command, soft_wrap=True)


def _times(timed: Result) -> tuple[str, ...]:
    shown = (timed[f"{name}_ms"] for name in ("p50", "p95", "p99", "min", "mean"))
    return *("-" if value is None else f"{value:.3f}" for value in shown), f"{timed['cov']:.1%}"
