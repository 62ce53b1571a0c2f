"""The commands that made what is here, each as it can be typed again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greg_compress import retyping
from greg_compress.errors import GregError
from greg_compress.sources.specs import PICKLE
from greg_compress.state.format import State
from greg_compress.story.chains import Chain, Entry, told_by
from greg_compress.story.documents import File, Kind
from greg_compress.story.values import Told, at, number, text

MOST = 100
"""Commands of one history on the page."""
OUT = "OUT"
FIGURES = {
    "top-1 before": ("percent", "top1_before"),
    "top-1 after": ("percent", "top1_after"),
    "top-1 held out": ("percent", "val_top1"),
    "iterations": ("count", "iterations"),
    "delta": ("plain", "delta"),
    "iterations between updates": ("count", "update_every"),
    "iterations to stabilize": ("count", "stabilize"),
    "parameters after": ("count", "params", "after"),
    "MACs after": ("count", "macs", "after"),
    "fewer MACs": ("times", "macs_speedup"),
    "top-1": ("percent", "top1"),
    "loss": ("plain", "loss"),
    "p50 (ms)": ("ms", "latency", "p50_ms"),
    "measured speedup": ("times", "speedup"),
}
"""What is shown of a command, where it is there: how it is written, and where it stands."""


@dataclass(frozen=True)
class Read:
    """A file that a command read."""

    name: str
    sha256: str | None


@dataclass(frozen=True)
class Step:
    """One command."""

    command: str
    line: str | None
    """For a shell; None where the record does not hold it."""
    reads: Sequence[Read]
    finished: str | None
    seconds: float | None
    versions: str
    figures: Sequence[tuple[str, str, Told]]
    unfinished: bool = False


@dataclass(frozen=True)
class History:
    """The commands behind one file."""

    name: str
    steps: Sequence[Step]
    more: int
    """Commands that are left out."""


def histories(chain: Chain) -> list[History]:
    """Of each state that another one's does not hold, and of documents that say how they were made."""
    found = [_history(file) for file in chain.tellers]
    printed = [
        file for file in chain.of(Kind.EXPORTED, Kind.PROGRAM, Kind.EVALUATED) if at(file.said, "made_by", "options")
    ]
    for file in printed:
        exports = {Kind.EXPORTED: "onnx", Kind.PROGRAM: "program"}
        out = text(file.said, exports[file.kind]) or OUT if file.kind in exports else None
        step = _step(file.said["made_by"], file.name, out, file.said, chain.state)
        found.append(History(file.name, [step], 0))
    return found


def _history(file: File) -> History:
    told = told_by(file)
    shown = told[-MOST:]
    following = [*(text(entry, "input", "model") for entry in shown[1:]), file.name]
    steps = []
    for entry, out in zip(shown, following, strict=True):
        unfinished = "loop" in entry
        name = (out or OUT).removesuffix(".partial") if unfinished else out or OUT
        steps.append(_step(entry, file.name, name, at(entry, "metrics"), file.state, unfinished))
    return History(file.name, steps, len(told) - len(shown))


def _step(entry: Entry, by: str, out: str | None, said: Any, state: State | None, unfinished: bool = False) -> Step:
    command = text(entry, "command") or "unknown"
    return Step(
        command,
        _line(entry, command, out, state is not None and state.architecture.source == PICKLE),
        list(_reads(entry)),
        text(entry, "clock", "finished"),
        number(entry, "clock", "seconds"),
        _versions(at(entry, "versions")),
        [
            (name, how, Told(found, by))
            for name, (how, *keys) in FIGURES.items()
            if (found := number(said, *keys)) is not None
        ],
        unfinished,
    )


def _line(entry: Entry, command: str, out: str | None, allow_pickle: bool) -> str | None:
    options = at(entry, "options")
    if command == "open" or not isinstance(options, Mapping):
        return None
    try:
        words = retyping.retyped(command, options, allow_pickle=allow_pickle)
    except (GregError, ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return None  # of an older greg, or of none
    return "greg " + shlex.join([*words, *(() if out is None else ("-o", out))])


def _reads(entry: Entry) -> Iterator[Read]:
    options = at(entry, "options")
    for name, digest in (
        (text(entry, "input", "model"), text(entry, "input", "sha256")),
        (text(options, "teacher"), text(options, "teacher_sha256")),
        (text(options, "plan", "path"), text(options, "plan", "sha256")),
        (text(options, "baseline"), None),
    ):
        if name is not None:
            yield Read(name, digest)


def _versions(said: Any) -> str:
    names = ("greg", "torch", "python")
    return ", ".join(f"{name} {version}" for name in names if (version := text(said, name)) is not None)
