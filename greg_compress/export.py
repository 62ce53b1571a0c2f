"""Stage `export`: an ONNX file that is right, how fast it and its baseline really are, and whether that will do."""

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
from greg_compress.deploy.preprocessing import Preprocessed
from greg_compress.errors import CheckFailed, RequestError
from greg_compress.fit import fitting, normalization_of, own_normalization, takes
from greg_compress.options.gates import Gates
from greg_compress.options.measuring import ExportOptions, ImageOptions
from greg_compress.options.network import ModelOptions, Output
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.sources.data import load_data
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.normalization import Normalization
from greg_compress.state import history
from greg_compress.state.models import Opened, open_beside, open_model
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
Report = dict[str, Any]


def run(model: ModelOptions, options: ExportOptions, gates: Gates, output: Output, ui: Reporter) -> Report:
    """Export, check and time a network, and its baseline beside it.

    Returns:
        `onnx`, `made_by` (this command as an entry of history), `size`, `opset`, `compressed_size` (by zlib), `zeros`
        (weights of the file that are exactly zero), `denormals_flushed`, `alignment`, `preprocessing`, `parity` (always
        that of the file in float32), `latency`, `baseline`, `baseline_size`, `speedup` (measured time),
        `speedup_interval` and `macs_speedup`; the last five are
        None without a baseline. `identity` and `protocol` say what was timed, and how. `precision`: of the file, and
        with another one than fp32 `variants` (see :meth:`.lighter.Lighter.table`), `calibration` (int8) and
        `light_parity` (fp16). `top1` of the file, None where nothing asks for it; `gates`: a verdict on each that was
        set.

    Raises:
        CheckFailed: onnxruntime and PyTorch differ by more than the tolerance, or a gate is not met; no file is left.
    """
    opened = open_model(model, ui)
    baseline = _baseline(model, options, opened)
    _say(opened, model.model, ui)
    data = _images(options.images, [each for each in (opened, baseline) if each is not None])
    pixels = own_normalization(opened, model.model) if options.preprocessing else None
    made_by = _made_by(model, options, gates, opened)
    return exported(opened, baseline, data, pixels, options, gates, output, ui, made_by)


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
    """What :func:`run` does, with networks that are open.

    Args:
        data: what calibrates, and what accuracy is measured on.
        pixels: what the file itself does to images.
        made_by: the command as an entry of history; None where there was none.
    """
    shapes = opened.state.input_shapes
    with written_whole(output.path, replace=output.force) as path, tempfile.TemporaryDirectory() as folder:
        ui.note("exporting")
        ready, report = _written(opened, pixels, path, options, made_by)
        report["onnx"] = str(output.path)
        paths = [path]
        if baseline is not None:
            ui.note("exporting the baseline")
            paths.append(Path(folder, "baseline.onnx"))
            known = baseline.state.normalization is not None
            own = own_normalization(baseline, str(options.baseline)) if pixels and known else pixels
            _put(baseline, own, paths[1], options)
        made = _lightened(options, paths, Path(folder), (opened, baseline), data, ready, report, ui)
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
        if failed := [verdict.text for verdict in found if not verdict.passed]:
            raise _failed(report, "; ".join(failed))
    return report


def _made_by(model: ModelOptions, options: ExportOptions, gates: Gates, opened: Opened) -> Report:
    """This command as an entry of history: what it read, and how it can be typed again."""
    said = recorded(model, options, gates, *(() if options.images is None else (options.images,)))
    said |= {"int8": said["precision"] == "int8", "fp16": said["precision"] == "fp16"}
    said["with_preprocessing"] = options.preprocessing
    for name in ("images", "precision", "preprocessing"):  # which are not what is typed
        del said[name]
    return history.entry("export", said, {}, model=model.model, digest=opened.digest, untrained=opened.untrained)


def _written(
    opened: Opened, pixels: Normalization | None, path: Path, options: ExportOptions, made_by: Report | None
) -> tuple[nn.Module, Report]:
    """Write the network, compare the file with PyTorch, and return what was compared and the report's beginning."""
    ready, flushed = _put(opened, pixels, path, options)
    parity = onnx_file.compare(ready, path, opened.state.input_shapes, options.tolerance)
    report = {
        "onnx": None,
        "made_by": made_by,
        **_facts(path),
        "precision": FP32,
        "preprocessing": _prepares(pixels),
        "denormals_flushed": flushed,
        "alignment": alignment(path, _kept(opened) if opened.state.shapes else {}),
        "parity": parity.to_json(),
        **dict.fromkeys(LATER),
    }
    if not parity.passed:
        raise _failed(
            report,
            f"onnxruntime and PyTorch differ by {parity.max_rel_error:.1e} of the largest output, more than"
            f" --tolerance {options.tolerance:g}",
        )
    return ready, report


def _failed(report: Report, why: str) -> CheckFailed:
    """A check that leaves no file, with all that is known."""
    return CheckFailed(f"{why}; no file was left", {**report, "onnx": None, "passed": False})


def _put(opened: Opened, pixels: Normalization | None, path: Path, options: ExportOptions) -> tuple[nn.Module, int]:
    """Write a file with all that it says of itself; what it was made of, and the denormal weights that are 0 now."""
    plain, count = onnx_file.flushed(opened.model)
    ready = plain if pixels is None else Preprocessed(plain, pixels)
    onnx_file.write(ready, opened.state.input_shapes, path, options.opset)
    metadata.stamp(path, _said(opened) | {metadata.PREPROCESSING: _prepares(pixels)})
    return ready, count


def _prepares(pixels: Normalization | None) -> str:
    return metadata.NONE if pixels is None else metadata.NORMALIZES


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
    return {
        "size": path.stat().st_size,
        "opset": onnx_file.written_opset(path),
        "compressed_size": onnx_file.compressed_size(path),
        "zeros": onnx_file.zeros(path),
    }


def _images(options: ImageOptions | None, networks: list[Opened]) -> Dataset | None:
    """The data set that every network is calibrated and measured on."""
    if options is None:
        return None
    data = load_data(options.data, options.download, options.workers)
    for network in networks:
        data = fitting(network, data)
    return data


def _lightened(
    options: ExportOptions,
    paths: list[Path],
    folder: Path,
    networks: tuple[Opened, Opened | None],
    data: Dataset | None,
    ready: nn.Module,
    report: Report,
    ui: Reporter,
) -> Lighter:
    """Put the exported file into the precision that was asked for; nothing for fp32.

    Args:
        paths: of the exported file, and of the baseline's.
        folder: where the others go.
        ready: what PyTorch runs, for fp16; what int8 costs is told by its accuracy alone.
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
        parity = onnx_file.compare(ready, paths[0], networks[0].state.input_shapes, half.TOLERANCE)
        report["light_parity"] = parity.to_json()
        if not parity.passed:
            raise _failed(
                report,
                f"in float16 the network differs from PyTorch by {parity.max_rel_error:.1e} of the largest output, more"
                f" than {half.TOLERANCE:g}",
            )
    return made


def _baseline(model: ModelOptions, options: ExportOptions, opened: Opened) -> Opened | None:
    if options.baseline is None:
        return None
    baseline = open_beside(options.baseline, model, opened.state)
    if not takes(baseline, opened.state.input_shapes):
        raise RequestError(
            f"--baseline {options.baseline} takes another input shape than {model.model}; see --input-shape"
        )
    return baseline


def _said(opened: Opened) -> dict[str, str]:
    state = opened.state
    kept = {name: left for name, (left, _) in _kept(opened).items()}
    return metadata.entries(state.history, kept, state.classes, state.input_shapes, state.normalization)


def _kept(opened: Opened) -> dict[str, tuple[int, int]]:
    """Of each group in the state's plan, the units that it keeps, and that it had."""
    shares = {name: share for name, share in (opened.state.plan or {}).items() if isinstance(share, dict)}
    counts = {name: (share.get("kept"), share.get("channels")) for name, share in shares.items()}
    return {name: (kept, had) for name, (kept, had) in counts.items() if type(kept) is int and type(had) is int}


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
