"""A recipe as it stands in its file, checked as far as one can without running anything."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from greg_compress.errors import InputError, RequestError, unknown
from greg_compress.small_files import read_small

TOP = ("about", "seeds", "values", "each", "steps", "results")
ROW = ("name", "figure", "paper")
NAME = re.compile(r"[a-z][a-z0-9_]*")
"""Without a dash: that is what joins names and values in the names of files."""
PLACE = re.compile(r"\{([^{}]*)\}")
"""What stands in braces is put in from elsewhere."""
HERE, SEED = "here", "seed"
RESERVED = (HERE, SEED, "results")
OWN = ("out", "force", "resume", "json", "time", "log", "plan-out", "help")
"""Options that `greg run` decides itself."""

LARGEST_FILE, LONGEST_LINE = 2**16, 2**12
"""Bytes. Python's reader takes time and memory in the square of the dots in a key, and a key ends with its line."""
LARGEST_COUNT = 2**63

Plain = str | int | float | bool
Option = Plain | list[Plain]


class Kind(Enum):
    """What an option takes on the command line."""

    SWITCH = "true or false"
    VALUE = "one value"
    REPEATS = "a value or a list"


@dataclass(frozen=True)
class Words:
    """What a command takes: its options, and what it writes."""

    options: dict[str, Kind]
    """Without those that `greg run` decides; MODEL is one of them, `model`."""
    suffix: str | None
    """Of the file that it writes; None if it writes none."""
    resumable: bool


@dataclass(frozen=True)
class Step:
    """One command of the chain, with places still to be filled."""

    name: str
    command: str
    options: dict[str, Option]

    def places(self) -> set[str]:
        """Everything in braces."""
        return {name for value in self.options.values() for text in listed(value) for name in PLACE.findall(text)}


@dataclass(frozen=True)
class Row:
    """A figure to show: a key of what a step returned, and what the paper prints for it."""

    name: str
    step: str
    key: str
    """Dotted, within the step's result."""
    paper: str | dict[str, str] | None
    """Of each cell that the step tells apart; a text alone where there is but one."""

    @property
    def figure(self) -> str:
        return f"{self.step}.{self.key}"


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. Of its steps each reads only earlier ones."""

    path: Path
    sha256: str
    about: str
    seeds: list[int]
    values: dict[str, str]
    each: dict[str, list[str]]
    steps: dict[str, Step]
    rows: list[Row]


def read(path: Path, settings: Sequence[str], commands: Mapping[str, Words]) -> Recipe:
    """Read a recipe, some of its values replaced by `NAME=VALUE`.

    Raises:
        InputError: the file cannot be read, or is no TOML.
        RequestError: a key, a name or a value that is none, with the nearest that there is.
    """
    return parsed(_content(path), path, settings, commands)


def parsed(content: bytes, path: Path, settings: Sequence[str], commands: Mapping[str, Words]) -> Recipe:
    """The same of a recipe that is not there yet, but will be at `path`."""
    if len(content) > LARGEST_FILE or max(map(len, content.splitlines()), default=0) > LONGEST_LINE:
        most = f"{LARGEST_FILE:,} bytes, and {LONGEST_LINE:,} in a line"
        raise InputError(f"{path} is larger than a recipe can be: {most}")
    try:
        found = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no TOML ({str(error)[:200]})") from error
    where = str(path)
    _require_known(where, found, TOP)
    values = {name: text(value, f"{where}: values.{name}") for name, value in _table(found, "values", where).items()}
    each = {name: _choices(value, f"{where}: each.{name}") for name, value in _table(found, "each", where).items()}
    steps = {
        name: _step(name, body, f"{where}: step {name}", commands)
        for name, body in _table(found, "steps", where).items()
    }
    _require_names(where, values, each, steps)
    recipe = Recipe(
        path,
        hashlib.sha256(content).hexdigest(),
        _about(found, where),
        _seeds(found, where),
        {**values, **_replaced(settings, values)},
        each,
        steps,
        _rows(found, where, steps),
    )
    _require_places(recipe, where, commands)
    return recipe


def _content(path: Path) -> bytes:
    try:
        return read_small(path, LARGEST_FILE)
    except InputError as error:
        raise InputError(f"{error}; name a recipe, a TOML file") from error


def _require_known(where: str, given: Iterable[str], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise unknown(f"{where} has an unknown key {key!r}", key, known)


def _table(found: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    table = found.get(key, {})
    if not isinstance(table, dict):
        raise RequestError(f"{where}: {key} must be a table, [{key}]")
    return table


def text(value: Any, where: str) -> str:
    """A plain value as it would be typed."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise RequestError(f"{where}: write a text or a number")
    if isinstance(value, int) and abs(value) >= LARGEST_COUNT:
        raise RequestError(f"{where}: a number of more than 63 bits")
    return str(value)


def listed(value: Option) -> list[str]:
    """What an option says, as texts."""
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _choices(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not value:
        raise RequestError(f"{where}: write a list of the values to try")
    found = [text(item, where) for item in value]
    if len(set(found)) < len(found):
        raise RequestError(f"{where}: a value stands there twice")
    return found


def _about(found: Mapping[str, Any], where: str) -> str:
    about = found.get("about", "")
    if not isinstance(about, str):
        raise RequestError(f"{where}: about must be a text")
    return about


def _seeds(found: Mapping[str, Any], where: str) -> list[int]:
    seeds = found.get("seeds", [0])
    plain = isinstance(seeds, list) and seeds and all(type(seed) is int and 0 <= seed < LARGEST_COUNT for seed in seeds)
    if not plain or len(set(seeds)) < len(seeds):
        raise RequestError(f"{where}: seeds must be a list of different whole numbers, like [0, 1, 2]")
    return list(seeds)


def _replaced(settings: Sequence[str], values: Mapping[str, str]) -> dict[str, str]:
    """Values given on the command line."""
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise RequestError(f"--set {setting}: write NAME=VALUE")
        if name not in values:
            raise unknown(f"--set {name}: the recipe has no such value", name, list(values))
        found[name] = value
    return found


def _step(name: str, body: Any, where: str, commands: Mapping[str, Words]) -> Step:
    if not isinstance(body, dict):
        raise RequestError(f"{where}: write a table, [steps.{name}]")
    command = body.get("command")
    if not isinstance(command, str):
        raise RequestError(f'{where} has no command; write one of {", ".join(commands)}, like command = "train"')
    if command not in commands:
        raise unknown(f"{where}: unknown command {command!r}", command, list(commands))
    options = {key: value for key, value in body.items() if key != "command"}
    words = commands[command]
    for key, value in options.items():
        if key in OWN:
            raise RequestError(f"{where}: {key} is decided by greg run; leave it out")
        if key not in words.options:
            elsewhere = {name: others.options for name, others in commands.items()}
            raise unknown(f"{where} has an unknown key {key!r}", key, words.options, elsewhere)
        _require_kind(value, words.options[key], f"{where}: {key}")
    return Step(name, command, options)


def _require_kind(value: Any, kind: Kind, where: str) -> None:
    fits = isinstance(value, bool) if kind is Kind.SWITCH else not isinstance(value, bool)
    if not fits or (isinstance(value, list) and kind is not Kind.REPEATS):
        raise RequestError(f"{where} takes {kind.value}")
    if kind is not Kind.SWITCH:
        for item in value if isinstance(value, list) else [value]:
            text(item, where)


def _require_names(where: str, values: Iterable[str], each: Iterable[str], steps: Mapping[str, Step]) -> None:
    if not steps:
        raise RequestError(f"{where} has no steps; write [steps.NAME] with a command")
    taken: set[str] = set(RESERVED)
    for name in [*values, *each, *steps]:
        if not NAME.fullmatch(name):
            raise RequestError(f"{where}: {name!r} is no name; write small letters, digits and _")
        if name in taken:
            raise RequestError(f"{where}: the name {name!r} is taken; choose another")
        taken.add(name)


def _require_places(recipe: Recipe, where: str, commands: Mapping[str, Words]) -> None:
    """Everything in braces must be a name, and a step reads files of earlier steps only."""
    for name, value in recipe.values.items():
        for place in PLACE.findall(value):
            if place != HERE:
                raise RequestError(f"{where}: values.{name} may hold {{{HERE}}} in braces, not {{{place}}}")
    earlier: list[str] = []
    for step in recipe.steps.values():
        known = [*recipe.values, *recipe.each, *earlier, SEED, HERE]
        for place in sorted(step.places()):
            if place in recipe.steps and place not in earlier:
                what = "itself" if place == step.name else f"{place}, which comes later"
                raise RequestError(f"{where}: step {step.name} reads {what}; a step reads earlier ones")
            if place not in known:
                raise unknown(f"{where}: step {step.name}: nothing has the name {{{place}}}", place, known)
            if place in earlier and commands[recipe.steps[place].command].suffix is None:
                raise RequestError(f"{where}: step {step.name} reads {place}, which writes no file")
        earlier.append(step.name)
    used = {place for step in recipe.steps.values() for place in step.places()}
    for kind, names in (("values", recipe.values), ("each", recipe.each)):
        for name in names:
            if name not in used:
                raise RequestError(
                    f"{where}: {kind}.{name} is used by no step; write {{{name}}} in one, or leave it out"
                )


def _rows(found: Mapping[str, Any], where: str, steps: Mapping[str, Step]) -> list[Row]:
    rows = found.get("results", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(f"{where}: results must be tables, [[results]]")
    return [_row(row, f"{where}: results {number}", steps) for number, row in enumerate(rows, 1)]


def _row(row: Mapping[str, Any], where: str, steps: Mapping[str, Step]) -> Row:
    _require_known(where, row, ROW)
    for key in ("name", "figure"):
        if not isinstance(row.get(key), str):
            raise RequestError(f"{where}: {key} must be a text")
    step, dot, key = row["figure"].partition(".")
    if step not in steps:
        raise unknown(f"{where} ({row['name']}): there is no step {step!r}", step, list(steps))
    if not dot or not key:
        raise RequestError(f'{where} ({row["name"]}): write figure = "{step}.KEY", a key of what the step returns')
    paper = row.get("paper")
    texts = list(paper.values()) if isinstance(paper, dict) else [paper]
    if paper is not None and not all(isinstance(printed, str) for printed in texts):
        raise RequestError(f"{where} ({row['name']}): paper holds texts, as they are printed")
    return Row(row["name"], step, key, paper)
