"""DIR/STEM.json: the command line of a task, and what it returned once it is finished."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from greg_compress.errors import InputError, RequestError
from greg_compress.options.network import Output
from greg_compress.recipes.expand import Grid, Task
from greg_compress.small_files import parsed, read_small
from greg_compress.whole_files import written_whole

RESULTS = "results.json"
LARGEST_FILE = 2**24
"""Bytes of a record, or of all results."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What is known of a task that was begun."""

    key: str
    argv: list[str]
    result: Result | None
    """None until it is finished."""


def path_of(task: Task, folder: Path) -> Path:
    return folder / f"{task.stem}.json"


def read(task: Task, folder: Path) -> Record | None:
    """What is recorded of a task; None if it was never begun.

    Raises:
        InputError: the file holds something else.
    """
    path = path_of(task, folder)
    try:
        if not os.path.lexists(path):
            return None
        found = parsed(read_small(path, LARGEST_FILE))
        record = Record(found["key"], found["argv"], found["result"])
        if not (isinstance(record.result, (dict, type(None))) and all(isinstance(word, str) for word in record.argv)):
            raise ValueError("no record")
    except InputError as error:
        raise InputError(f"{error}; name another folder") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no record of greg run; name another folder") from error
    return record


def write(task: Task, folder: Path, result: Result | None) -> None:
    """Record that a task is begun, or what it returned."""
    content = {
        "step": task.step.name,
        "cell": task.cell,
        "argv": [task.step.command, *task.texts],
        "reads": {name: read.file for name, read in task.reads.items()},
        "key": task.key,
        "result": result,
    }
    save(path_of(task, folder), content)


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON document whole."""
    with written_whole(path, replace=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def finished(task: Task, folder: Path) -> Result | None:
    """What a task returned, if the same one was done before and what it made is still there."""
    record = read(task, folder)
    if record is None or record.key != task.key or not (task.file is None or (folder / task.file).is_file()):
        return None
    return record.result


def require_same(grid: Grid) -> None:
    """Refuse a folder that holds what another command line made, or began, or what no greg run put there.

    Raises:
        RequestError: it does; what differs is said.
    """
    _require_own(grid.folder / RESULTS)
    for task in grid.tasks.values():
        there = _made(task, grid.folder)  # before its record is looked at: that is what another greg writes first
        record = read(task, grid.folder)
        if record is None and there:
            raise RequestError(
                f"{there[0]} exists, and no record says that greg run made it; add --force to replace it, or name"
                " another -o"
            )
        if record is not None and record.key != task.key and _holds_work(record, task, grid.folder):
            path = path_of(task, grid.folder)
            raise RequestError(
                f"{path} says {_difference(record, task)}; add --force to do it anew, or name another -o"
            )


def _holds_work(record: Record, task: Task, folder: Path) -> bool:
    """Whether anything is there that would be lost; a command may have failed before it wrote anything."""
    return record.result is not None or bool(_made(task, folder))


def _made(task: Task, folder: Path) -> list[Path]:
    """What stands where a task writes."""
    made = [] if task.file is None else [folder / task.file, Output(folder / task.file).partial]
    return [path for path in made if os.path.lexists(path)]


def _require_own(path: Path) -> None:
    """Refuse to write over a file of results that is somebody else's.

    Raises:
        RequestError: it is.
    """
    try:
        if not os.path.lexists(path) or {"recipe", "cells", "results"} <= parsed(read_small(path, LARGEST_FILE)).keys():
            return
    except (InputError, ValueError, AttributeError):
        pass
    raise RequestError(f"{path} is not of greg run; add --force to replace it, or name another -o")


def _difference(record: Record, task: Task) -> str:
    now = [task.step.command, *task.texts]
    if record.argv == now:
        return "that it read another " + (" or ".join([*task.reads, *task.outside]) or "recipe")
    was = [
        f"{before} {word}" if before.startswith("--") else word
        for before, word in pairwise(["", *record.argv])
        if word not in now
    ]
    return f"that it was made by another command line ({', '.join(was or record.argv)[:200]})"
