"""What is written as text: plans, recipes, and the files of `greg run`. No torch: they answer in a blink."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greg_compress.contents.contents import Contents, Entry, number
from greg_compress.errors import InputError, RequestError, input_fault
from greg_compress.following import Way
from greg_compress.recipes.expand import expand
from greg_compress.recipes.recipe import Recipe, Words, read
from greg_compress.recipes.records import LARGEST_FILE, RESULTS
from greg_compress.selection.plan_file import FORMAT, read_plan
from greg_compress.small_files import parsed, read_small

RESULT_KEYS = {"recipe", "values", "each", "steps", "cells", "results"}
RECORD_KEYS = {"step", "argv", "key", "result"}


def of_json(path: Path) -> Contents:
    """A plan file, the results of a recipe, or the record of one of its steps.

    Raises:
        InputError: it is none of them, or damaged.
    """
    try:
        data = parsed(read_small(path, LARGEST_FILE))
    except ValueError as error:
        raise InputError(f"{path} is no JSON, or a truncated one") from error
    keys = data.keys() if isinstance(data, dict) else set()
    if data and "format" in keys and data["format"] == FORMAT:
        return _plan(path)
    with input_fault(f"{path} is damaged"):
        if keys >= RESULT_KEYS:
            return _results(data, path)
        if keys >= RECORD_KEYS:
            return _record(data, path)
    raise InputError(f"{path} is JSON, but neither a plan of greg analyze nor a record or results of greg run")


def _plan(path: Path) -> Contents:
    plan = read_plan(str(path))
    losing = [group for group in plan.groups if group.kept < group.channels]
    holds = {
        "groups": len(plan.groups),
        "groups_that_lose": len(losing),
        "channels": sum(group.channels for group in plan.groups),
        "kept": sum(group.kept for group in plan.groups),
        "decided": all(group.removed is not None for group in losing),
        "sha256": plan.sha256,
        "each": [{"name": group.name, "channels": group.channels, "kept": group.kept} for group in losing],
    }
    name = str(path)
    follows = [
        Way(("regularize", "MODEL", "--plan", name, "--data", "DATA", "-o", "regularized.pt"), "the penalty", False),
        Way(("prune", "MODEL", "--plan", name, "-o", "pruned.pt"), "the cut at once", False),
    ]
    return Contents("plan", "a plan: how many channels each group keeps", holds, (), follows)


def of_recipe(path: Path, commands: Mapping[str, Words]) -> Contents:
    """A recipe.

    Args:
        commands: what each command takes.

    Raises:
        InputError: it is no TOML, or no recipe.
    """
    try:
        recipe = read(path, (), commands)
        grid = expand(recipe, Path(path.stem), 1.0, commands)
    except RequestError as error:
        raise InputError(str(error)) from error
    holds = {
        "about": recipe.about,
        "values": recipe.values,
        "each": recipe.each,
        "seeds": recipe.seeds,
        "cells": len(grid.cells),
        "commands": [_abstract(recipe, name) for name in recipe.steps],
        "tasks": len(grid.tasks),
        "results": [row.name for row in recipe.rows],
        "sha256": recipe.sha256,
    }
    follows = [
        Way(("run", str(path), "--dry-run"), "every command, and what it would cut"),
        Way(("run", str(path), "-o", path.stem), "all of it; the same command goes on"),
    ]
    return Contents("recipe", "a recipe: a chain of commands for greg run", holds, (), follows)


def _abstract(recipe: Recipe, name: str) -> dict[str, Any]:
    step = recipe.steps[name]
    return {"step": name, "command": step.command, "options": step.options}


def _results(data: Mapping[str, Any], path: Path) -> Contents:
    recipe, steps = data["recipe"], data["steps"]
    finished, whole = int(steps["finished"]), int(steps["all"])
    holds: dict[str, Any] = {
        "recipe": str(recipe["path"]),
        "about": str(recipe["about"]),
        "values": {str(name): str(value) for name, value in data["values"].items()},
        "seeds": [int(seed) for seed in data["seeds"]],
        "cells": len(data["cells"]),
        "finished": finished,
        "steps": whole,
        "results": [_line(line) for line in data["results"]],
        "sha256": str(recipe["sha256"]),
    }
    words = ["run", holds["recipe"], "-o", str(path.parent)]
    words += [word for name, value in holds["values"].items() for word in ("--set", f"{name}={value}")]
    words += [] if data["scale"] == 1 else ["--scale", f"{data['scale']:.10g}"]
    there = Path(holds["recipe"]).is_file() and path.name == RESULTS
    follows = [Way(tuple(words), "goes on with what is missing", there)] if finished < whole else []
    entry = Entry(Way(tuple(words), "").line, "")
    return Contents("results", f"results of a recipe, {finished} of {whole} steps", holds, [entry], follows)


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
    measured = {key: number(line[key]) for key in ("mean", "std", "n")}
    each = {str(key): str(value) for key, value in line["each"].items()}
    return {"name": str(line["name"]), "each": each, **measured, "paper": line["paper"]}


def _record(data: Mapping[str, Any], path: Path) -> Contents:
    argv = [str(word) for word in data["argv"]]
    result = data["result"]
    figures = {key: value for key, value in (result or {}).items() if isinstance(value, (int, float, str, bool))}
    made = next((file for end in (".pt", ".onnx", ".pt2") if (file := path.with_suffix(end)).is_file()), None)
    holds = {
        "step": str(data["step"]),
        "cell": {str(key): str(value) for key, value in data["cell"].items()},
        "finished": result is not None,
        "made": None if made is None else str(made),
        "figures": figures,
    }
    what = f"a step of greg run, {'finished' if result is not None else 'not finished'}"
    follows = [] if made is None else [Way(("show", str(made)), "what it made")]
    return Contents("record", what, holds, [Entry("greg " + shlex.join(argv), "with files by their steps")], follows)
