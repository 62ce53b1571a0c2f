"""Stage `export`: a file that is right, how fast it and its baseline really are, and whether that will do."""

from __future__ import annotations

from greg_compress.errors import RequestError
from greg_compress.export import to_onnx, to_program
from greg_compress.export.checks import Report
from greg_compress.fit import fitting, own_normalization, takes
from greg_compress.options.gates import Gates
from greg_compress.options.measuring import ExportOptions, Format, ImageOptions
from greg_compress.options.network import ModelOptions, Output
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.sources.data import load_data
from greg_compress.sources.dataset import Dataset
from greg_compress.state import history
from greg_compress.state.models import Opened, open_beside, open_model


def run(model: ModelOptions, options: ExportOptions, gates: Gates, output: Output, ui: Reporter) -> Report:
    """Export, check and time a network, and its baseline beside it.

    Returns:
        `onnx`, `made_by` (this command as an entry of history), `size`, `opset`, `compressed_size` (by zlib), `zeros`
        (weights of the file that are exactly zero; None with int8), `denormals_flushed`, `alignment`, `preprocessing`,
        `parity` (always that of the file in float32), `latency`, `baseline`, `baseline_size`, `speedup` (measured
        time), `speedup_interval` and `macs_speedup`; the last five are None without a baseline. `identity` and
        `protocol` say what was timed, and how. `precision`: of the file, and with another one than fp32 `variants` (see
        :meth:`.lighter.Lighter.table`), `calibration` (int8) and `light_parity` (fp16). `top1` of the file, None where
        nothing asks for it; `gates`: a verdict on each that was set. Of a program of PyTorch's only `program`,
        `made_by`, `size`, `preprocessing`, `denormals_flushed`, `parity` and `gates` are known.

    Raises:
        CheckFailed: the file and PyTorch differ by more than the tolerance, or a gate is not met; no file is left.
    """
    opened = open_model(model, ui)
    baseline = _baseline(model, options, opened)
    _say(opened, model.model, ui)
    data = _images(options.images, [each for each in (opened, baseline) if each is not None])
    pixels = own_normalization(opened, model.model) if options.preprocessing else None
    made_by = _made_by(model, options, gates, opened)
    if options.format is Format.PT2:
        return to_program.exported(opened, pixels, options, gates, output, ui, made_by)
    return to_onnx.exported(opened, baseline, data, pixels, options, gates, output, ui, made_by)


def _made_by(model: ModelOptions, options: ExportOptions, gates: Gates, opened: Opened) -> Report:
    """This command as an entry of history: what it read, and how it can be typed again."""
    said = recorded(model, options, gates, *(() if options.images is None else (options.images,)))
    said |= {"int8": said["precision"] == "int8", "fp16": said["precision"] == "fp16"}
    said["with_preprocessing"] = options.preprocessing
    for name in ("images", "precision", "preprocessing"):  # which are not what is typed
        del said[name]
    return history.entry("export", said, {}, model=model.model, digest=opened.digest, untrained=opened.untrained)


def _baseline(model: ModelOptions, options: ExportOptions, opened: Opened) -> Opened | None:
    if options.baseline is None:
        return None
    baseline = open_beside(options.baseline, model, opened.state)
    if not takes(baseline, opened.state.input_shapes):
        raise RequestError(
            f"--baseline {options.baseline} takes another input shape than {model.model}; see --input-shape"
        )
    return baseline


def _images(options: ImageOptions | None, networks: list[Opened]) -> Dataset | None:
    """The data set that every network is calibrated and measured on."""
    if options is None:
        return None
    data = load_data(options.data, options.download, options.workers)
    for network in networks:
        data = fitting(network, data)
    return data


def _say(opened: Opened, name: str, ui: Reporter) -> None:
    state = opened.state
    if not state.shapes and (not state.masks or state.stage == "regularized"):
        ui.warn(f"{name} was never cut: this exports the {state.stage} network")
