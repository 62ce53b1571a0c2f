"""`greg run`: recipes on this very command line, whose commands are typed as a person would."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from greg_compress.cli import usage
from greg_compress.cli.seat import Rehearsed, Seat, seated
from greg_compress.errors import CheckFailed, GregError, Interrupted, RequestError
from greg_compress.options.limits import require_between
from greg_compress.options.selecting import SELECTING
from greg_compress.recipes import figures, runner
from greg_compress.recipes.code import require_known
from greg_compress.recipes.expand import Grid, Task, argv, expand
from greg_compress.recipes.recipe import OWN, PLACE, Kind, Words, parsed, read
from greg_compress.reporting import Reporter
from greg_compress.sources.specs import is_architecture
from greg_compress.whole_files import rehearsal

STEPS = ("train", "analyze", "regularize", "prune", "finetune", "evaluate", "export")
NOT_OF_A_PLAN = {
    "model", "arch", "arch-arg", "input-shape", "allow-pickle", "download",
    "sensitivity", "data", "samples", "device", "workers", "criterion",
}  # fmt: skip
"""What `analyze` takes beside a selection. A criterion other than L1 measures data, and decides which, not how many."""
MEASURED = {"target-latency", "target-speedup"}
"""What times a network, which a dry run does not."""
DEMO, DEMO_FILE = "demo.toml", "exported.onnx"
"""The recipe of the demonstration, and what it ends with."""
Result = dict[str, Any]


class Line:
    """The command line itself, for steps of recipes."""

    def __init__(self, app: typer.Typer) -> None:
        group: Any = get_command(app)
        self._all = group.commands
        self._commands = {name: group.commands[name] for name in STEPS}

    def words(self) -> dict[str, Words]:
        """What each command takes, as it says itself."""
        return {name: _words(name, command.params) for name, command in self._commands.items()}

    def type(self, words: Sequence[str], *, rehearse: bool = False) -> Result:
        """Run a command in this process, up to its stage only in a rehearsal."""
        name, *rest = words
        seat = Seat(rehearse)
        with seated(seat):
            try:
                with self._commands[name].make_context(f"greg {name}", rest) as context:
                    context.command.invoke(context)
            except Rehearsed:
                return {}
            except TyperException as error:
                raise RequestError(usage.explained(error, self._all)) from error
        return seat.result or {}


def _words(name: str, parameters: Sequence[Any]) -> Words:
    options, own = {}, set()
    for parameter in parameters:
        key = max(parameter.opts, key=len).removeprefix("--")
        if key in OWN:
            own.add(key)
            continue
        switch = getattr(parameter, "is_flag", False)
        options[key] = Kind.SWITCH if switch else Kind.REPEATS if getattr(parameter, "multiple", False) else Kind.VALUE
    suffix = (".onnx" if name == "export" else ".pt") if "out" in own else None
    return Words(options, suffix, "resume" in own)


def grid_of(
    app: typer.Typer,
    recipe: Path,
    settings: Sequence[str],
    scale: float,
    folder: Path | None,
    allow_pickle: bool = False,
) -> Grid:
    """Read and expand a recipe, and rehearse all its commands.

    Raises:
        GregError: what is wrong with it, with file and step.
    """
    require_between("scale", scale, 0, 1e6)
    line = Line(app)
    commands = line.words()
    read_recipe = read(recipe, settings, commands)
    found = expand(read_recipe, Path(recipe.stem) if folder is None else folder, scale, commands)
    require_known(found, [setting.partition("=")[2] for setting in settings], allow_pickle)
    _rehearse(line, found, f"{recipe}: step {{}}: ")
    return found


def grid_from(app: typer.Typer, text: str, recipe: Path) -> Grid:
    """The same of a recipe that is not written yet, in the folder where it will be; nobody has seen its steps."""
    line = Line(app)
    commands = line.words()
    found = expand(parsed(text.encode(), recipe, (), commands), recipe.parent, 1.0, commands)
    _rehearse(line, found, "")
    return found


def _rehearse(line: Line, grid: Grid, where: str) -> None:
    """Raise what is wrong with a command line, after `where` it stands."""
    coming = [grid.folder / task.file for task in grid.tasks.values() if task.file is not None]
    with rehearsal(coming):
        for task in grid.tasks.values():
            try:
                line.type(task.typed(grid.folder), rehearse=True)
            except GregError as error:
                error.args = (where.format(task.step.name) + str(error),)
                raise


def run(app: typer.Typer, grid: Grid, force: bool, ui: Reporter) -> Result:
    """Run what is missing, and return what results.json holds."""
    with going_on("the same command goes on"):
        return figures.document(grid, runner.run(grid, Line(app).type, ui, force=force))


@contextmanager
def going_on(hint: str) -> Iterator[None]:
    """A signal is answered with a way to go on, wherever it was heard."""
    try:
        yield
    except Interrupted as error:
        error.args = (f"interrupted; {hint}",)
        raise
    except BaseException as error:
        error.add_note(hint)
        raise


def dry_run(app: typer.Typer, grid: Grid, ui: Reporter) -> Result:
    """Return every command line, and for each selection what it would leave of the network that the chain begins with.

    Known are `macs_speedup` and `sparsity` where nothing was cut before; null elsewhere. Under one threshold for all
    groups they are what an untrained network's L1 norms give.
    """
    line = Line(app)
    known = line.words()["analyze"]
    plans: dict[tuple[str, ...], Result] = {}
    steps = []
    for task in grid.tasks.values():
        effect: Mapping[str, Any] = {}
        if (words := _analysis(task, known)) is not None:
            if words not in plans:
                ui.note("greg " + " ".join(words))
                plans[words] = _planned(line, words)
            effect = plans[words]
        figures = {key: effect.get(key) for key in ("macs_speedup", "sparsity")}
        steps.append({"step": task.stem, "cell": task.cell, "command": task.line(grid.folder), **figures})
    return {"recipe": str(grid.recipe.path), "cells": len(grid.cells), "steps": steps}


def _planned(line: Line, words: Sequence[str]) -> Result:
    """What a selection would leave."""
    try:
        return line.type(words)["plan"] or {}
    except CheckFailed as error:
        raise RequestError(f"greg {' '.join(words)}: {error}") from error


def _analysis(task: Task, analyze: Words) -> tuple[str, ...] | None:
    """The command that resolves a task's selection on the network that its chain begins with, before any training."""
    selecting = {key: texts for key, texts in task.options.items() if key in analyze.options.keys() - NOT_OF_A_PLAN}
    begun = _beginning(task)
    if begun is None or selecting.keys().isdisjoint(SELECTING) or is_measured(selecting):
        return None
    model = (begun.options.get("model") or begun.options["arch"])[-1]
    options = {key: texts for key, texts in begun.options.items() if key in ("arch", "arch-arg", "input-shape")}
    if is_architecture(model):
        options.pop("arch", None)
        model = re.sub("@[^/]*", "", model)
    elif not Path(model).is_file():
        return None
    return ("analyze", *argv({"model": [model], **options, **selecting}, analyze))


def is_measured(selected: Mapping[str, Any]) -> bool:
    """Whether a selection times networks."""
    return bool(MEASURED & selected.keys()) or selected.get("align") in ("auto", ["auto"])


def _beginning(task: Task) -> Task | None:
    """The task that opens the network of this one, if nothing is cut between them."""
    while (made := _reads_model_of(task)) is not None:
        if made.step.command != "train":
            return None
        task = made
    return task


def _reads_model_of(task: Task) -> Task | None:
    """The task whose file is MODEL."""
    places = PLACE.findall(str(task.step.options.get("model", "")))
    return next((task.reads[place] for place in places if place in task.reads), None)


def demo(app: typer.Typer, folder: Path, ui: Reporter) -> Result:
    """Run the shipped recipe of the whole chain, all of it, and return what it shows."""
    started = time.monotonic()
    grid = grid_of(app, Path(str(files("sample_models").joinpath("recipes", DEMO))), (), 1.0, folder)
    with going_on(f"begin again with greg demo {folder} --force"):
        done = runner.run(grid, Line(app).type, ui, anew=True)
    commands = [task.line(folder) for task in grid.tasks.values()]
    return {**before_and_after(done), "commands": commands, "seconds": time.monotonic() - started}


def before_and_after(done: Mapping[str, Result]) -> Result:
    """What a chain from a dense network to an exported one made of it; None where it was not measured.

    Args:
        done: what its steps returned: `regularized`, `pruned`, `exported` (with its baseline) and `top1`.
    """

    def told(*keys: str) -> Any:
        found: Any = done
        for key in keys:
            found = found.get(key) if found else None
        return found

    latency, baseline = told("exported", "latency"), told("exported", "baseline")
    before, after = told("regularized", "top1_before"), told("top1", "top1")
    return {
        "dense": {
            "params": told("pruned", "params", "before"),
            "macs": told("pruned", "macs", "before"),
            "onnx_size": told("exported", "baseline_size"),
            "top1": before,
            "p50_ms": baseline and baseline["p50_ms"],
        },
        "pruned": {
            "params": told("pruned", "params", "after"),
            "macs": told("pruned", "macs", "after"),
            "onnx_size": told("exported", "size"),
            "top1": after,
            "p50_ms": latency and latency["p50_ms"],
        },
        "drop": None if before is None or after is None else before - after,
        "speedup": told("exported", "speedup"),
        "macs_speedup": told("pruned", "macs_speedup"),
        "noisy": None if latency is None else any(timed["noisy"] for timed in (latency, baseline) if timed),
    }
