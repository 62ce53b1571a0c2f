"""Every step of every cell as a command line. Steps that do not tell cells apart are done once for all of them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from greg_compress.errors import InputError, RequestError, unknown
from greg_compress.recipes.recipe import PLACE, SEED, Kind, Recipe, Step, Words, listed

FILES = ("model", "baseline", "teacher", "plan")
"""Options that may name a file."""
LENGTHS = ("epochs", "iterations", "warmup")
"""Options that --scale multiplies; of `regularize` the option --scale itself."""
MOST_TASKS, LONGEST_LINE = 10_000, 2**14
"""Steps in all cells together, and letters of one command line: a recipe of a kilobyte can ask for any number."""
UP = re.compile(r"\{here\}((?:/\.\.)*)")

Cell = dict[str, str]
"""A value of each name of the grid, and `seed`."""


@dataclass(frozen=True)
class Task:
    """A step in the cells that it does not tell apart."""

    step: Step
    words: Words
    cell: Cell
    """What it depends on, itself or through the steps that it reads, in the order of the grid."""
    stem: str
    """Of its files in DIR."""
    options: dict[str, list[str]]
    """With every place filled."""
    texts: tuple[str, ...]
    """As typed, but without the places of DIR and of the recipe, which may move."""
    reads: dict[str, Task] = field(repr=False)
    """By step."""
    outside: dict[str, str]
    """Digests of the files that no step makes and that it reads whole, by path."""

    @property
    def file(self) -> str | None:
        if self.words.suffix is None:
            return None
        *_, ending = self.options.get("format", [self.words.suffix[1:]])
        return f"{self.stem}.{ending}"

    @property
    def key(self) -> str:
        """Digest of everything that decides what it makes."""
        made_from: list[Any] = [self.step.command, self.texts, {name: task.key for name, task in self.reads.items()}]
        if self.outside:
            made_from.append(sorted(self.outside.values()))
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()

    def typed(self, folder: Path) -> list[str]:
        """Everything after `greg`."""
        out = [] if self.file is None else ["-o", str(folder / self.file)]
        return [self.step.command, *argv(self.options, self.words), *out]

    def line(self, folder: Path) -> str:
        """To be typed in a shell."""
        return "greg " + shlex.join(self.typed(folder))


@dataclass(frozen=True)
class Grid:
    """A recipe for all its cells."""

    recipe: Recipe
    folder: Path
    scale: float
    cells: list[Cell]
    tasks: dict[str, Task]
    """By stem, each after those that it reads."""
    at: list[dict[str, Task]]
    """Of each cell, by step."""


def expand(recipe: Recipe, folder: Path, scale: float, commands: Mapping[str, Words]) -> Grid:
    """Make the grid: all of one seed before the next, so that the first one can be looked at.

    Args:
        folder: DIR, where the files of the steps are.
        scale: what all lengths are multiplied with.

    Raises:
        RequestError: too many cells, a length that cannot be scaled, or a printed result of a cell that is none.
    """
    count = len(recipe.seeds) * len(recipe.steps) * math.prod(map(len, recipe.each.values()))
    if count > MOST_TASKS:
        raise RequestError(f"{recipe.path}: {count:.4g} steps in all cells together, but at most {MOST_TASKS:,} can be")
    names = [*recipe.each, SEED]
    varies = _dependencies(recipe, names)
    slugs = {name: _slugs(values) for name, values in recipe.each.items()}
    slugs[SEED] = {str(seed): f"s{seed}" for seed in recipe.seeds}
    cells, tasks, at = [], {}, []
    for seed, *chosen in itertools.product(map(str, recipe.seeds), *recipe.each.values()):
        cell = dict(zip(names, [*chosen, seed], strict=True))
        here: dict[str, Task] = {}
        for step in recipe.steps.values():
            own = {name: value for name, value in cell.items() if name in varies[step.name]}
            stem = "-".join([step.name, *(slugs[name][value] for name, value in own.items())])
            if stem not in tasks:
                tasks[stem] = _task(recipe, step, own, stem, here, folder, scale, commands[step.command])
            here[step.name] = tasks[stem]
        cells.append(cell)
        at.append(here)
    _require_printed(recipe, tasks)
    return Grid(recipe, folder, scale, cells, tasks, at)


def _dependencies(recipe: Recipe, names: Sequence[str]) -> dict[str, set[str]]:
    """The names of the grid that each step depends on."""
    found: dict[str, set[str]] = {}
    for step in recipe.steps.values():
        places = step.places()
        found[step.name] = set(names) & places | {name for read in places & found.keys() for name in found[read]}
    return found


def _slugs(values: Sequence[str]) -> dict[str, str]:
    """Values as parts of file names, numbered where they would look alike."""
    slugs = [re.sub(r"[^A-Za-z0-9.+]+", "_", value).strip("_.")[:60] for value in values]
    alike = Counter(slugs)
    found: dict[str, str] = {}
    taken: set[str] = set()
    for number, (value, slug) in enumerate(zip(values, slugs, strict=True)):
        name = slug if slug and alike[slug] == 1 else f"{slug}_{number}"
        while name in taken:
            name += "_"  # another value spells what a number makes of this one
        found[value] = name
        taken.add(name)
    return found


def _task(
    recipe: Recipe,
    step: Step,
    own: Cell,
    stem: str,
    earlier: Mapping[str, Task],
    folder: Path,
    scale: float,
    words: Words,
) -> Task:
    reads = {name: task for name, task in earlier.items() if name in step.places()}
    where = f"{recipe.path}: step {step.name}"

    def filled(here: str | None, files: Mapping[str, str]) -> dict[str, list[str]]:
        names = {**{name: _placed(value, here) for name, value in recipe.values.items()}, **own, **files}
        options = {
            key: [PLACE.sub(lambda match: names.get(match[1], match[0]), _placed(text, here)) for text in listed(value)]
            for key, value in step.options.items()
        }
        if sum(len(text) for texts in options.values() for text in texts) > LONGEST_LINE:
            raise RequestError(f"{where} makes a command of more than {LONGEST_LINE:,} letters")
        return _scaled(options, words, scale, where)

    files = {name: str(task.file) for name, task in reads.items()}
    real = filled(str(recipe.path.parent), {name: str(folder / file) for name, file in files.items()})
    outside = _digests(real, [str(folder / file) for file in files.values()])
    return Task(step, words, own, stem, real, tuple(argv(filled(None, files), words)), reads, outside)


def _digests(options: Mapping[str, Sequence[str]], made: Sequence[str]) -> dict[str, str]:
    """What tells the files of a command's options from others that will stand there some day."""
    named = [text for key in FILES for text in options.get(key, ())]
    named += [text[1:] for text in options.get("ratios", ()) if text.startswith("@")]
    return {name: _digest(name, Path(name).stat()) for name in named if name not in made and Path(name).is_file()}


@cache
def _digest(name: str, _status: os.stat_result) -> str:
    """Of a file as it is now; a grid names it many times."""
    try:
        with Path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror})") from error


def _placed(text: str, here: str | None) -> str:
    """A text with the recipe's own folder put in, and the folders above it."""
    return text if here is None else UP.sub(lambda match: os.path.normpath(here + match[1]), text)


def argv(options: Mapping[str, Sequence[str]], words: Words) -> list[str]:
    """Options as they are typed, MODEL first; it is never taken for an option."""
    found = [f"./{text}" if text.startswith("-") else text for text in options.get("model", [])]
    for key, texts in options.items():
        if words.options[key] is Kind.SWITCH:
            found += [f"--{key}"] * (list(texts) == [str(True)])
        elif key != "model":
            for text in texts:
                found += [f"--{key}={text}"] if text.startswith("-") else [f"--{key}", text]
    return found


def _scaled(filled: Mapping[str, list[str]], words: Words, scale: float, where: str) -> dict[str, list[str]]:
    """The same options with every length multiplied."""
    found = dict(filled)
    if scale == 1:
        return found
    if "epochs" in words.options and not {"epochs", "iterations"} & filled.keys():
        raise RequestError(f"{where} says neither epochs nor iterations, which --scale could multiply; write one")
    for key in (*LENGTHS, "scale"):
        if key in filled:
            found[key] = [_times(filled[key][0], scale, key, where)]
    if "scale" in words.options and "scale" not in filled:
        found["scale"] = [f"{scale:.6g}"]
    return found


def _times(text: str, scale: float, key: str, where: str) -> str:
    try:
        value = float(text) * scale
        if not math.isfinite(value):
            raise ValueError(text)
    except ValueError as error:
        raise RequestError(f"{where}: {key} = {text} is no number") from error
    if key == "iterations":
        return str(max(1, round(value)))
    return str(round(value)) if key == "warmup" else f"{value:.6g}"


def told_apart(cell: Mapping[str, str]) -> str:
    """The name of a cell in a recipe's printed results: its values without the seed."""
    return ", ".join(value for name, value in cell.items() if name != SEED)


def _require_printed(recipe: Recipe, tasks: Mapping[str, Task]) -> None:
    for number, row in enumerate(recipe.rows, 1):
        known = list(dict.fromkeys(told_apart(task.cell) for task in tasks.values() if task.step.name == row.step))
        where = f"{recipe.path}: results {number} ({row.name})"
        if isinstance(row.paper, str) and known != [""]:
            raise RequestError(f'{where}: {row.step} differs by cell; write paper = {{"{known[0]}" = "{row.paper}"}}')
        if isinstance(row.paper, dict) and known == [""]:
            raise RequestError(f"{where}: {row.step} is the same in all cells; write paper as one text")
        for name in row.paper if isinstance(row.paper, dict) else ():
            if name not in known:
                raise unknown(f"{where}: paper names {name!r}, which is no cell", name, known)
