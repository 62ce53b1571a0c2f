"""An ONNX file: written, compared, put into another precision, timed beside its baseline, held against its gates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from greg_compress.deploy import half, identity, latency, metadata, onnx_file
from greg_compress.deploy.accuracy import evaluate_file
from greg_compress.deploy.alignment import alignment
from greg_compress.deploy.gates import verdicts
from greg_compress.deploy.lighter import FP32, Exported, Lighter, lighten
from greg_compress.deploy.opening import examined, loaded
from greg_compress.deploy.parity import compare
from greg_compress.export.checks import Report, failed, kept, prepares, ready, require_parity, require_passed, said
from greg_compress.fit import normalization_of, own_normalization
from greg_compress.options.gates import Gates
from greg_compress.options.measuring import ExportOptions
from greg_compress.options.network import Output
from greg_compress.reporting import Reporter
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.normalization import Normalization
from greg_compress.state.models import Opened
from greg_compress.surgery.effect import cost_of, reduction
from greg_compress.whole_files import written_whole
from greg_compress.wiring.groups import find_groups

MOST_DROP = 0.5
"""Points of top-1 that a lower precision may lose without a word."""
LATER = (
    "latency", "baseline", "baseline_size", "speedup", "speedup_interval", "macs_speedup", "identity", "protocol",
    "variants", "calibration", "light_parity", "top1", "gates",
)  # fmt: skip
"""Keys of what is measured only where the parity holds."""


def exported(
    opened: Opened,
    baseline: Opened | None,
    data: Dataset | None,
    pixels: Normalization | None,
    options: ExportOptions,
    gates: Gates,
    output: Output,
    ui: Reporter,
    made_by: Report | None = None,
) -> Report:
    """What :func:`greg_compress.export.run` does, with networks that are open.

    Args:
        data: what calibrates, and what accuracy is measured on.
        pixels: what the file itself does to images.
        made_by: the command as an entry of history; None where there was none.
    """
    shapes = opened.state.input_shapes
    with written_whole(output.path, replace=output.force) as path, tempfile.TemporaryDirectory() as folder:
        ui.note("exporting")
        network, report = _written(opened, pixels, path, options, made_by)
        report["onnx"] = str(output.path)
        paths = [path]
        if baseline is not None:
            ui.note("exporting the baseline")
            paths.append(Path(folder, "baseline.onnx"))
            known = baseline.state.normalization is not None
            own = own_normalization(baseline, str(options.baseline)) if pixels and known else pixels
            _put(baseline, own, paths[1], options)
        made = _lightened(options, paths, Path(folder), (opened, baseline), data, network, report, ui)
        paths += [file.path for file in made.files if file.path not in paths]
        ui.note("timing")
        timing = latency.calmest(paths, shapes, options.threads, options.runs, options.batch)
        report |= _timed(timing, paths, options, opened, baseline)
        if made.files:
            report["variants"] = made.table(
                dict(zip(paths, timing.latencies, strict=True)), data, torch.get_num_threads()
            )
            _say_drop(report, ui)
        if gates.min_top1 is not None and data is not None:
            report["top1"] = _top1(report, path, data, None if pixels else normalization_of(opened.state))
        found = verdicts(gates, timing, report["size"], report["top1"])
        report["gates"] = [verdict.to_json() for verdict in found]
        if timing.noisy:
            ui.warn(timing.caveat(compared=baseline is not None))
        require_passed(found, report)
    return report


def _written(
    opened: Opened, pixels: Normalization | None, path: Path, options: ExportOptions, made_by: Report | None
) -> tuple[nn.Module, Report]:
    """Write the network, compare the file with PyTorch, and return what was compared and the report's beginning."""
    network, flushed = _put(opened, pixels, path, options)
    parity = compare(network, onnx_file.runtimes(path), opened.state.input_shapes, options.tolerance)
    report = {
        "onnx": None,
        "made_by": made_by,
        **_facts(path),
        "precision": FP32,
        "preprocessing": prepares(pixels),
        "denormals_flushed": flushed,
        "alignment": alignment(path, kept(opened)),
        "parity": parity.to_json(),
        **dict.fromkeys(LATER),
    }
    require_parity(parity, "onnxruntime", report, options)
    return network, report


def _put(opened: Opened, pixels: Normalization | None, path: Path, options: ExportOptions) -> tuple[nn.Module, int]:
    """Write a file with all that it says of itself; what it was made of, and the denormal weights that are 0 now."""
    network, count = ready(opened, pixels)
    onnx_file.write(network, opened.state.input_shapes, path, options.opset)
    metadata.stamp(path, said(opened, pixels))
    return network, count


def _timed(
    timing: latency.Timing, paths: list[Path], options: ExportOptions, opened: Opened, baseline: Opened | None
) -> Report:
    """What the timing says, in the report's words."""
    shapes, other = opened.state.input_shapes, None if baseline is None else paths[1]
    report: Report = {
        "latency": timing.latencies[0].to_json(),
        "identity": identity.identity(paths[0], other, shapes, options.threads, options.batch),
        "protocol": identity.protocol(timing),
    }
    if baseline is not None:
        report |= {
            "baseline": timing.latencies[1].to_json(),
            "baseline_size": paths[1].stat().st_size,
            "speedup": timing.speedup(1),
            "speedup_interval": timing.ratios[1],
            "macs_speedup": _macs_speedup(baseline, opened),
        }
    return report


def _top1(report: Report, path: Path, data: Dataset, normalization: Normalization | None) -> float:
    """Percent of the test images that the exported file gets right."""
    for row in report["variants"] or ():
        if (row["network"], row["precision"]) == ("exported", report["precision"]):
            return float(row["top1"])
    return evaluate_file(path, data.test, normalization, torch.get_num_threads()).top1


def _facts(path: Path) -> Report:
    size, zeros, _ = examined(path, loaded(path))
    return {
        "size": size,
        "opset": onnx_file.written_opset(path),
        "compressed_size": onnx_file.compressed_size(path),
        "zeros": zeros,
    }


def _lightened(
    options: ExportOptions,
    paths: list[Path],
    folder: Path,
    networks: tuple[Opened, Opened | None],
    data: Dataset | None,
    network: nn.Module,
    report: Report,
    ui: Reporter,
) -> Lighter:
    """Put the exported file into the precision that was asked for; nothing for fp32.

    Args:
        paths: of the exported file, and of the baseline's.
        folder: where the others go.
        network: what PyTorch runs, for fp16; what int8 costs is told by its accuracy alone.
    """
    if options.precision == FP32:
        return Lighter([], None)
    ui.note(f"converting to {options.precision}")
    bare = data is None or options.preprocessing
    known = [None if bare or each is None else normalization_of(each.state) for each in networks]
    files = [Exported(*each) for each in zip(("exported", "baseline"), (FP32, FP32), paths, known, strict=False)]
    made = lighten(options.precision, files, data, folder)
    report |= {**_facts(paths[0]), "precision": options.precision, "calibration": made.calibration}
    if options.precision == "fp16":
        parity = compare(network, onnx_file.runtimes(paths[0]), networks[0].state.input_shapes, half.TOLERANCE)
        report["light_parity"] = parity.to_json()
        if not parity.passed:
            raise failed(
                report,
                f"in float16 the network differs from PyTorch by {parity.max_rel_error:.1e} of the largest output, more"
                f" than {half.TOLERANCE:g}",
            )
    return made


def _macs_speedup(baseline: Opened, opened: Opened) -> float:
    costs = [cost_of(each.model, find_groups(each.model, each.state.input_shapes)) for each in (baseline, opened)]
    return float(reduction(*costs)["macs_speedup"])


def _say_drop(report: dict[str, Any], ui: Reporter) -> None:
    """Warn of a precision that costs more than it should."""
    top1 = {row["precision"]: row["top1"] for row in report["variants"] if row["network"] == "exported"}
    before, after = top1[FP32], top1[report["precision"]]
    if before is not None and before - after > MOST_DROP:
        ui.warn(f"{report['precision']} loses {before - after:.2f} points of top-1: {before:.2f}% to {after:.2f}%")
