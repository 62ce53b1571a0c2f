"""The whole chain on the digits, from the trained state that is shipped; the one room that drives stages."""

from __future__ import annotations

import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from greg_compress import analyze, evaluate, export, finetune, prune, regularize
from greg_compress.errors import Interrupted
from greg_compress.options.measuring import ExportOptions
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.penalty import PenaltyOptions, Preset
from greg_compress.options.selecting import Selection
from greg_compress.options.training import Decay, TeacherOptions, TrainingOptions
from greg_compress.penalty.presets import PRESETS
from greg_compress.reporting import Reporter
from greg_compress.selection.ratios import parse_ratios
from greg_compress.sources.specs import parse_data

SHIPPED = "digits_resnet20.pt"
RATIO = "0.5"
BATCH_SIZE = 64
FINETUNE_LR = 0.02
FINETUNE_EPOCHS = 5


def run(folder: Path, force: bool, ui: Reporter) -> dict[str, Any]:
    """Return what the chain did: `dense` and `pruned` figures, `speedup`, `macs_speedup`, `commands`."""
    started = time.monotonic()
    try:
        with as_file(files("sample_models").joinpath(SHIPPED)) as dense:
            result = _chain(dense, folder, force, ui)
    except Interrupted as interrupted:
        raise Interrupted(interrupted.number, f"begin again with greg demo {folder} --force") from interrupted
    return {**result, "seconds": time.monotonic() - started}


def _chain(dense: Path, folder: Path, force: bool, ui: Reporter) -> dict[str, Any]:
    regularized, pruned, final = (folder / f"{name}.pt" for name in ("regularized", "pruned", "final"))
    data = parse_data("digits")
    selection = Selection(parse_ratios(RATIO))

    ui.note(f"analyze {dense}")
    layers = analyze.run(ModelOptions(str(dense)), selection, None, None, None, ui)
    ui.note("regularize")
    training = TrainingOptions(data, PRESETS[Preset.QUICK].lr, Decay.CONSTANT, BATCH_SIZE, warmup=0)
    regularize.run(ModelOptions(str(dense)), selection, PenaltyOptions(), training, Output(regularized, force), ui)
    ui.note("prune")
    cut = prune.run(ModelOptions(str(regularized)), None, None, Output(pruned, force), ui)
    ui.note("finetune")
    training = TrainingOptions(data, FINETUNE_LR, Decay.COSINE, BATCH_SIZE, FINETUNE_EPOCHS)
    finetune.run(ModelOptions(str(pruned)), training, TeacherOptions(), Output(final, force), ui)
    ui.note("evaluate and export both")
    accuracy = {
        path: evaluate.run(ModelOptions(str(path)), data, "auto", False, None, ui)["top1"] for path in (dense, final)
    }
    dense_onnx, final_onnx = folder / "dense.onnx", folder / "final.onnx"
    whole = export.run(ModelOptions(str(dense)), ExportOptions(runs=1), Output(dense_onnx, force), ui)
    small = export.run(ModelOptions(str(final)), ExportOptions(str(dense)), Output(final_onnx, force), ui)
    return {
        "dense": {
            "params": layers["params"],
            "macs": layers["macs"],
            "onnx_size": whole["size"],
            "top1": accuracy[dense],
            "p50_ms": small["baseline"]["p50_ms"],
        },
        "pruned": {
            "params": cut["params"]["after"],
            "macs": cut["macs"]["after"],
            "onnx_size": small["size"],
            "top1": accuracy[final],
            "p50_ms": small["latency"]["p50_ms"],
        },
        "speedup": small["speedup"],
        "macs_speedup": small["macs_speedup"],
        "noisy": small["latency"]["noisy"] or small["baseline"]["noisy"],
        "commands": _by_hand(dense, regularized, pruned, final, dense_onnx, final_onnx),
    }


def _by_hand(
    dense: Path, regularized: Path, pruned: Path, final: Path, dense_onnx: Path, final_onnx: Path
) -> list[str]:
    """The commands that do the same."""
    train = f"--data digits --batch-size {BATCH_SIZE}"
    return [
        f"greg analyze {dense} --ratios {RATIO}",
        f"greg regularize {dense} --ratios {RATIO} {train} -o {regularized}",
        f"greg prune {regularized} -o {pruned}",
        f"greg finetune {pruned} {train} --lr {FINETUNE_LR} --epochs {FINETUNE_EPOCHS} -o {final}",
        f"greg evaluate {dense} --data digits",
        f"greg evaluate {final} --data digits",
        f"greg export {dense} -o {dense_onnx}",
        f"greg export {final} --baseline {dense} -o {final_onnx}",
    ]
