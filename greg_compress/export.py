"""Stage `export`: an ONNX file that is right, and how fast it and its baseline really are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from greg_compress.deploy import half, latency, metadata, onnx_file
from greg_compress.deploy.lighter import FP32, Exported, Lighter, lighten
from greg_compress.errors import CheckFailed, RequestError
from greg_compress.fit import fitting, normalization_of
from greg_compress.options.measuring import ExportOptions, LighterOptions
from greg_compress.options.network import ModelOptions, Output
from greg_compress.reporting import Reporter
from greg_compress.sources.data import load_data
from greg_compress.sources.dataset import Dataset
from greg_compress.state.models import Opened, open_beside, open_model
from greg_compress.surgery.effect import cost_of, reduction
from greg_compress.whole_files import written_whole
from greg_compress.wiring.groups import find_groups

MOST_DROP = 0.5
"""Points of top-1 that a lower precision may lose without a word."""


def run(
    model: ModelOptions, options: ExportOptions, lighter: LighterOptions | None, output: Output, ui: Reporter
) -> dict[str, Any]:
    """Export, check and time a network, and its baseline beside it.

    Returns:
        `onnx`, `size`, `opset`, `compressed_size` (by zlib), `zeros` (weights of the file that are exactly zero),
        `denormals_flushed`, `parity`, `latency`, `baseline`, `baseline_size`, `speedup` and `macs_speedup`; the
        last four are None without a baseline. `precision`: of the file, and with another one than fp32 `variants` (see
        :meth:`.lighter.Lighter.table`), `calibration` (int8) and `light_parity` (fp16). `parity` is always that of the
        file in float32.

    Raises:
        CheckFailed: onnxruntime and PyTorch differ by more than the tolerance; no file is left.
    """
    opened = open_model(model, ui)
    baseline = _baseline(model, options, opened)
    _say(opened, model.model, ui)
    data = _images(lighter, [each for each in (opened, baseline) if each is not None])
    with written_whole(output.path, replace=output.force) as path, tempfile.TemporaryDirectory() as folder:
        ready, flushed = onnx_file.flushed(opened.model)
        ui.note("exporting")
        onnx_file.write(ready, opened.state.input_shapes, path, options.opset)
        metadata.stamp(path, _said(opened))
        parity = onnx_file.compare(ready, path, opened.state.input_shapes, options.tolerance)
        report: dict[str, Any] = {
            "onnx": str(output.path),
            **_facts(path),
            "precision": FP32,
            "denormals_flushed": flushed,
            "parity": parity.to_json(),
            **dict.fromkeys(("latency", "baseline", "baseline_size", "speedup", "macs_speedup")),
            **dict.fromkeys(("variants", "calibration", "light_parity")),
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
            metadata.stamp(paths[1], _said(baseline))
        if lighter is not None:
            ui.note(f"converting to {lighter.precision}")
        made = _lightened(lighter, paths, Path(folder), (opened, baseline), data, ready, report)
        paths += [file.path for file in made.files if file.path not in paths]
        ui.note("timing")
        timed = latency.measure(paths, opened.state.input_shapes, options.threads, options.runs)
        if lighter is not None:
            report["variants"] = made.table(dict(zip(paths, timed, strict=True)), data, torch.get_num_threads())
            _say_drop(report, ui)
        report["latency"] = timed[0].to_json()
        if baseline is not None:
            report |= {"baseline": timed[1].to_json(), "baseline_size": paths[1].stat().st_size}
            report["speedup"] = timed[1].p50_ms / timed[0].p50_ms
            report["macs_speedup"] = _macs_speedup(baseline, opened)
    return report


def _facts(path: Path) -> dict[str, Any]:
    return {
        "size": path.stat().st_size,
        "opset": onnx_file.written_opset(path),
        "compressed_size": onnx_file.compressed_size(path),
        "zeros": onnx_file.zeros(path),
    }


def _images(lighter: LighterOptions | None, networks: list[Opened]) -> Dataset | None:
    """The data set that every network is calibrated and measured on."""
    if lighter is None or lighter.data is None:
        return None
    data = load_data(lighter.data, lighter.download, lighter.workers)
    for network in networks:
        data = fitting(network, data)
    return data


def _lightened(
    lighter: LighterOptions | None,
    paths: list[Path],
    folder: Path,
    networks: tuple[Opened, Opened | None],
    data: Dataset | None,
    ready: nn.Module,
    report: dict[str, Any],
) -> Lighter:
    """Put the exported file into the precision that was asked for; nothing without one.

    Args:
        paths: of the exported file, and of the baseline's.
        folder: where the others go.
        ready: what PyTorch runs, for fp16; what int8 costs is told by its accuracy alone.
    """
    if lighter is None:
        return Lighter([], None)
    known = [None if data is None or each is None else normalization_of(each.state) for each in networks]
    files = [Exported(*each) for each in zip(("exported", "baseline"), (FP32, FP32), paths, known, strict=False)]
    made = lighten(lighter.precision, files, data, folder)
    report |= {**_facts(paths[0]), "precision": lighter.precision, "calibration": made.calibration}
    if lighter.precision == "fp16":
        parity = onnx_file.compare(ready, paths[0], networks[0].state.input_shapes, half.TOLERANCE)
        report["light_parity"] = parity.to_json()
        if not parity.passed:
            raise CheckFailed(
                f"in float16 the network differs from PyTorch by {parity.max_rel_error:.1e} of the largest output, more"
                f" than {half.TOLERANCE:g}; no file was left",
                {**report, "onnx": None, "passed": False},
            )
    return made


def _baseline(model: ModelOptions, options: ExportOptions, opened: Opened) -> Opened | None:
    if options.baseline is None:
        return None
    baseline = open_beside(options.baseline, model, opened.state)
    if baseline.state.input_shapes != opened.state.input_shapes:
        raise RequestError(f"--baseline {options.baseline} takes another input shape than {model.model}")
    return baseline


def _said(opened: Opened) -> dict[str, str]:
    state = opened.state
    kept = {name: share["kept"] for name, share in (state.plan or {}).items() if "kept" in share}
    return metadata.entries(state.history, kept, state.classes, state.input_shapes, state.normalization)


def _macs_speedup(baseline: Opened, opened: Opened) -> float:
    costs = [cost_of(each.model, find_groups(each.model, each.state.input_shapes)) for each in (baseline, opened)]
    return float(reduction(*costs)["macs_speedup"])


def _say_drop(report: dict[str, Any], ui: Reporter) -> None:
    """Warn of a precision that costs more than it should."""
    top1 = {row["precision"]: row["top1"] for row in report["variants"] if row["network"] == "exported"}
    before, after = top1[FP32], top1[report["precision"]]
    if before is not None and before - after > MOST_DROP:
        ui.warn(f"{report['precision']} loses {before - after:.2f} points of top-1: {before:.2f}% to {after:.2f}%")


def _say(opened: Opened, name: str, ui: Reporter) -> None:
    state = opened.state
    if not state.shapes and (not state.masks or state.stage == "regularized"):
        ui.warn(f"{name} was never cut: this exports the {state.stage} network")
