"""What a recipe shows: its figures for each cell, and over the seeds beside what the paper prints."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from greg_compress.errors import RequestError, unknown
from greg_compress.recipes.expand import Grid, Task, told_apart
from greg_compress.recipes.recipe import SEED, Row
from greg_compress.recipes.records import Result

LARGEST = 1e100
"""Of a figure: squares of it still have a sum."""
SPREAD = 2
"""Seeds without which there is no standard deviation."""


def document(grid: Grid, done: Mapping[str, Result]) -> Result:
    """Return everything that is known by now.

    `results` holds, for each row and each cell without its seed, `mean`, `std` (of a sample, n - 1; null for one
    seed), `n`, the `seeds` themselves, and what the `paper` prints.

    Args:
        done: what the finished tasks returned, by stem.

    Raises:
        RequestError: a step returned no such figure.
    """
    recipe = grid.recipe
    return {
        "recipe": {"path": str(recipe.path), "sha256": recipe.sha256, "about": recipe.about},
        "values": recipe.values,
        "scale": grid.scale,
        "seeds": recipe.seeds,
        "each": recipe.each,
        "steps": {"finished": len(done), "all": len(grid.tasks)},
        "cells": [
            {**cell, SEED: int(cell[SEED]), "figures": _of_cell(grid, tasks, done)}
            for cell, tasks in zip(grid.cells, grid.at, strict=True)
        ],
        "results": [line for row in recipe.rows for line in _of_row(grid, row, done)],
    }


def _of_cell(grid: Grid, tasks: Mapping[str, Task], done: Mapping[str, Result]) -> dict[str, float | None]:
    return {row.figure: _value(grid, row, tasks[row.step], done) for row in grid.recipe.rows}


def _of_row(grid: Grid, row: Row, done: Mapping[str, Result]) -> list[Result]:
    """A line for each cell that the row's step tells apart, seeds left out."""
    lines: dict[str, Result] = {}
    for task in grid.tasks.values():
        if task.step.name != row.step:
            continue
        name = told_apart(task.cell)
        each = {key: value for key, value in task.cell.items() if key != SEED}
        paper = row.paper.get(name) if isinstance(row.paper, dict) else row.paper
        line = lines.setdefault(
            name, {"name": row.name, "figure": row.figure, "each": each, "seeds": {}, "paper": paper}
        )
        if (value := _value(grid, row, task, done)) is not None:
            line["seeds"][task.cell.get(SEED, "any")] = value
    return [{**line, **_summary(list(line["seeds"].values()))} for line in lines.values()]


def _summary(values: list[float]) -> Result:
    return {
        "mean": mean(values) if values else None,
        "std": stdev(values) if len(values) >= SPREAD else None,
        "n": len(values),
    }


def _value(grid: Grid, row: Row, task: Task, done: Mapping[str, Result]) -> float | None:
    """A figure of a finished task; None if it was not measured."""
    found: Any = done.get(task.stem)
    for key in row.key.split(".") if found is not None else ():
        if found is None:
            return None
        if not isinstance(found, dict) or key not in found:
            known = list(found) if isinstance(found, dict) else []
            raise unknown(f"{grid.recipe.path}: {task.step.name} returns no {row.key}", key, known)
        found = found[key]
    if found is not None and (isinstance(found, bool) or not isinstance(found, (int, float))):
        raise RequestError(f"{grid.recipe.path}: {row.figure} is no figure but {type(found).__name__}")
    if found is not None and abs(found) > LARGEST:
        raise RequestError(f"{grid.recipe.path}: {row.figure} is beyond {LARGEST:g}")
    return found
