"""`greg compress`: a recipe made from flags, which runs as any other, and what it made of the network."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from typer import Option

from greg_compress.cli import running
from greg_compress.cli.arguments import Data, PresetName
from greg_compress.cli.grouped import Said
from greg_compress.cli.selecting import Batch, Threads
from greg_compress.errors import CheckFailed, InputError, RequestError, input_fault
from greg_compress.options.compressing import Wish
from greg_compress.options.network import Output
from greg_compress.options.penalty import Method, Preset
from greg_compress.options.selecting import WAYS
from greg_compress.recipes import records, runner
from greg_compress.recipes.expand import Grid
from greg_compress.recipes.recipe import LARGEST_FILE
from greg_compress.recipes.writing import is_untouched, require_plain, written
from greg_compress.reporting import Reporter
from greg_compress.selection.amounts import parse_factor, parse_time
from greg_compress.small_files import read_small
from greg_compress.sources.specs import LIBRARIES, Architecture, is_architecture
from greg_compress.whole_files import written_whole

EPOCHS = 5.0
ROUNDING = 1e-9
NEAR = 1.05
"""A target in time is met within 5%."""
SHOWN = {
    "top-1 before": "regularized.top1_before",
    "top-1 after, in onnxruntime": "top1.top1",
    "fewer MACs (x)": "pruned.macs_speedup",
    "measured speedup (x)": "exported.speedup",
    "latency p50 (ms)": "exported.latency.p50_ms",
}
Result = dict[str, Any]


def wish(
    data: Data,
    method: Annotated[Method, Option("--method", help="How regularize picks what goes.")] = Method.GREG_1,
    preset: PresetName = Preset.QUICK,
    epochs: Annotated[float, Option("--epochs", help="Length of fine-tuning.")] = EPOCHS,
    scale: Annotated[float, Option("--scale", metavar="F", help="Make every length F times as long.")] = 1.0,
    batch_size: Annotated[
        int | None, Option("--batch-size", help="Images in a step.", show_default="the preset's; 128 in finetune")
    ] = None,
    seed: Annotated[int, Option("--seed")] = 0,
    threads: Threads = None,
    batch: Batch = None,
    max_drop: Annotated[
        float | None, Option("--max-drop", metavar="POINTS", help="Fail if top-1 is lower by more than this.")
    ] = None,
    max_latency: Annotated[
        str | None, Option("--max-latency", metavar="12ms", help="Fail if the file takes longer (p50).")
    ] = None,
) -> Wish:
    return Wish(data, method, preset, epochs, scale, batch_size, seed, threads, batch, max_drop, max_latency)


def recipe_path(output: Output) -> Path:
    """Where the recipe goes: into the folder of all its files, OUT.greg."""
    return output.path.with_name(output.path.name + ".greg") / "recipe.toml"


def recipe(model: Said, selected: Said, wished: Wish, output: Output) -> str:
    """The chain that flags describe, as the text of a recipe.

    Raises:
        RequestError: there is nothing trained to compress, nothing says how far, or a name that no recipe can hold.
    """
    _require_trained(model["model"])
    if not selected:
        raise RequestError(f"say what to prune with one of {WAYS}")
    path = recipe_path(output)
    for said in (*model.values(), *selected.values(), wished.data, path):
        for text in said if isinstance(said, list) else [said]:
            require_plain(str(text))
    leave = " --allow-pickle" * ("allow-pickle" in model)
    run = f"greg run {quote(str(path))} -o {quote(str(path.parent))}{leave}"
    comment = f"Written by greg compress. To run it as it stands here: {run}"
    values = {"model": model["model"], "data": wished.data}
    return written(comment, values, _steps(model, selected, wished), SHOWN)


def _require_trained(name: str) -> None:
    if is_architecture(name) and not Architecture(name).has_weights:
        raise RequestError(
            f"{name} has no trained weights to compress; train it (greg train --arch {name}), or give its weights as"
            f" MODEL with --arch {name}"
        )


def _steps(model: Said, selected: Said, wished: Wish) -> dict[str, dict[str, Any]]:
    training = {"data": "{data}", "batch-size": wished.batch_size, "seed": wished.seed}
    timing = {"threads": wished.threads, "batch": wished.batch}
    phase = {"method": wished.method.value, "preset": wished.preset.value}
    later = _later(model)
    steps = {
        "regularized": {
            "command": "regularize", **model, "model": "{model}", **selected,
            **(timing if running.is_measured(selected) else {}), **phase, **training,
            "scale": None if wished.scale == 1 else wished.scale,
        },
        "pruned": {"command": "prune", "model": "{regularized}", **later},
        "final": {
            "command": "finetune", "model": "{pruned}", **later, **training,
            "epochs": _short(wished.epochs * wished.scale),
        },
        "exported": {
            "command": "export", "model": "{final}", **later, "baseline": "{model}", **timing,
            "max-latency": wished.max_latency,
        },
        "top1": {"command": "evaluate", "model": "{exported}", "data": "{data}"},
    }  # fmt: skip
    return {name: {key: value for key, value in step.items() if value is not None} for name, step in steps.items()}


def _short(number: float) -> float:
    """A number as a person would write it: 5, not 5.0 or 4.9999999."""
    rounded = float(f"{number:.6g}")
    return int(rounded) if rounded.is_integer() else rounded


def _later(model: Said) -> Said:
    """What a state that was made of MODEL needs to be opened again: leave to run code that is not a library's."""
    own = str(model.get("arch", model["model"]))
    leave = {key: True for key in ("allow-pickle",) if key in model}
    return {**leave, "arch": own} if is_architecture(own) and Architecture(own).source not in LIBRARIES else leave


def run(
    app: typer.Typer, grid: Grid, text: str, selected: Said, most: float | None, output: Output, ui: Reporter
) -> Result:
    """Run what is missing of the chain, and put the exported file in its place.

    Args:
        text: of the recipe.
        selected: what is to be pruned, as it was typed.
        most: points of top-1 that the exported file may be below the dense network.

    Returns:
        `onnx`, `recipe`, what :func:`running.before_and_after` does, `target`: what was asked for in time and what the
        file takes (see :func:`against_target`), and `seconds`.

    Raises:
        CheckFailed: a gate is not passed, and no file was left.
    """
    started = time.monotonic()
    _write(grid, text, output.force)

    def told(done: dict[str, Result], passed: bool) -> Result:
        onnx = str(output.path) if passed else None
        with input_fault(f"the records in {grid.folder} are damaged; remove that folder, or name another -o"):
            figures = running.before_and_after(done)
            if passed:
                _require_measured(figures)
        told = {"onnx": onnx, "recipe": str(grid.recipe.path), **figures}
        return {**told, "target": against_target(selected, told), "seconds": time.monotonic() - started}

    try:
        with running.going_on("the same command goes on"):
            done = runner.run(grid, running.Line(app).type, ui, force=output.force)
    except CheckFailed as failure:
        failure.report = told(_known(grid, failure.report or {}), passed=False)
        raise
    report = told(done, passed=True)
    if most is not None and report["drop"] > most + ROUNDING:
        before, after = report["dense"]["top1"], report["pruned"]["top1"]
        raise CheckFailed(
            f"top-1 fell by {report['drop']:.2f} points, from {before:.2f}% to {after:.2f}%, more than --max-drop"
            f" {most:g}; {output.path} was not written",
            told(done, passed=False),
        )
    with written_whole(output.path, replace=output.force) as path:
        shutil.copyfile(grid.folder / str(grid.tasks["exported"].file), path)
    if (target := report["target"]) is not None and not target["met"]:
        why = "the timing is noisy" if report["noisy"] else "ask for a little more"
        ui.warn(f"the exported file misses {target['text']}, which was met when widths were chosen; {why}")
    return report


def against_target(selected: Said, report: Result) -> Result | None:
    """Whether the exported file is as fast as was asked for, within 5%; None where no time was, or none was measured.

    Milliseconds are p50; with `--target-speedup` both figures are ratios of times. Times are measured when widths are
    chosen and again of the exported file, and what else a machine does may have changed in between.
    """
    if (typed := selected.get("target-speedup")) is not None and report["speedup"] is not None:
        asked, measured = parse_factor("--target-speedup", typed), report["speedup"]
        text, met = f"--target-speedup {typed} (measured: {measured:.2f}x)", measured * NEAR >= asked
    elif (typed := selected.get("target-latency")) is not None and (took := report["pruned"]["p50_ms"]) is not None:
        asked, measured = parse_time("--target-latency", typed), took
        text, met = f"--target-latency {typed} (measured: {took:.3g} ms)", took <= asked * NEAR
    else:
        return None
    return {"asked": asked, "measured": measured, "met": met, "text": text}


def _require_measured(figures: Result) -> None:
    """Raise ValueError unless everything was measured: of finished steps only what their records say is known."""
    shown = [*figures["dense"].values(), *figures["pruned"].values(), figures["speedup"], figures["macs_speedup"]]
    if not all(type(value) in (int, float) for value in shown):
        raise ValueError("a figure that is none")


def _write(grid: Grid, text: str, force: bool) -> None:
    """Write the recipe, in the place of an older one that nobody has edited."""
    path = grid.recipe.path
    runner.prepare(grid, force)
    try:
        edited = path.exists() and not is_untouched(read_small(path, LARGEST_FILE).decode())
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read; remove it, or name another -o") from error
    if edited and not force:
        raise RequestError(
            f"{path} was edited; run it as it is (greg run {path} -o {grid.folder}), add --force to replace it, or name"
            " another -o"
        )
    with written_whole(path, replace=True) as temporary:
        temporary.write_text(text)


def _known(grid: Grid, report: Result) -> dict[str, Result]:
    """What each step returned, up to the one that failed with `report`."""
    known: dict[str, Result] = {}
    for stem, task in grid.tasks.items():
        if (result := records.finished(task, grid.folder)) is None:
            return {**known, stem: report}
        known[stem] = result
    return known
