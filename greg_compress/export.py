"""Stage `export`: an ONNX file that is right, and how fast it and its baseline really are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from greg_compress.deploy import latency, metadata, onnx_file
from greg_compress.errors import CheckFailed, RequestError
from greg_compress.options.measuring import ExportOptions
from greg_compress.options.network import ModelOptions, Output
from greg_compress.reporting import Reporter
from greg_compress.state.models import Opened, open_beside, open_model
from greg_compress.surgery.effect import cost_of, reduction
from greg_compress.whole_files import written_whole
from greg_compress.wiring.groups import find_groups


def run(model: ModelOptions, options: ExportOptions, output: Output, ui: Reporter) -> dict[str, Any]:
    """Export, check and time a network, and its baseline beside it.

    Returns:
        `onnx`, `size`, `opset`, `compressed_size` (by zlib), `zeros` (weights of the file that are exactly zero),
        `denormals_flushed`, `parity`, `latency`, `baseline`, `speedup` (measured time) and `macs_speedup`; the last
        three are None without a baseline.

    Raises:
        CheckFailed: onnxruntime and PyTorch differ by more than the tolerance; no file is left.
    """
    opened = open_model(model, ui)
    baseline = _baseline(model, options, opened)
    _say(opened, model.model, ui)
    with written_whole(output.path, replace=output.force) as path, tempfile.TemporaryDirectory() as folder:
        ready, flushed = onnx_file.flushed(opened.model)
        ui.note("exporting")
        onnx_file.write(ready, opened.state.input_shapes, path, options.opset)
        metadata.stamp(path, _said(opened))
        parity = onnx_file.compare(ready, path, opened.state.input_shapes, options.tolerance)
        report: dict[str, Any] = {
            "onnx": str(output.path),
            "size": path.stat().st_size,
            "opset": onnx_file.written_opset(path),
            "compressed_size": onnx_file.compressed_size(path),
            "zeros": onnx_file.zeros(path),
            "denormals_flushed": flushed,
            "parity": parity.to_json(),
            **dict.fromkeys(("latency", "baseline", "speedup", "macs_speedup")),
        }
        if not parity.passed:
            raise CheckFailed(
                f"onnxruntime and PyTorch differ by {parity.max_rel_error:.1e} of the largest output, more than"
                f" --tolerance {options.tolerance:g}; no file was left",
                {**report, "onnx": None, "passed": False},
            )
        paths = [path]
        if baseline is not None:
            paths.append(Path(folder, "baseline.onnx"))
            ui.note("exporting the baseline")
            dense, _ = onnx_file.flushed(baseline.model)
            onnx_file.write(dense, opened.state.input_shapes, paths[1], options.opset)
        ui.note("timing")
        timed = latency.measure(paths, opened.state.input_shapes, options.threads, options.runs)
        report["latency"] = timed[0].to_json()
        if baseline is not None:
            report["baseline"] = timed[1].to_json()
            report["speedup"] = timed[1].p50_ms / timed[0].p50_ms
            costs = [
                cost_of(each.model, find_groups(each.model, each.state.input_shapes)) for each in (baseline, opened)
            ]
            report["macs_speedup"] = reduction(*costs)["macs_speedup"]
    return report


def _baseline(model: ModelOptions, options: ExportOptions, opened: Opened) -> Opened | None:
    if options.baseline is None:
        return None
    baseline = open_beside(options.baseline, model)
    if baseline.state.input_shapes != opened.state.input_shapes:
        raise RequestError(f"--baseline {options.baseline} takes another input shape than {model.model}")
    return baseline


def _said(opened: Opened) -> dict[str, str]:
    state = opened.state
    kept = {name: share["kept"] for name, share in (state.plan or {}).items() if "kept" in share}
    return metadata.entries(state.history, kept, state.classes, state.input_shapes, state.normalization)


def _say(opened: Opened, name: str, ui: Reporter) -> None:
    state = opened.state
    if not state.shapes and (not state.masks or state.stage == "regularized"):
        ui.warn(f"{name} was never cut: this exports the {state.stage} network")
