"""What comes next: the one place that knows it, for `greg show` and for the last line of every command.

A way is a command that works when it is typed as it stands, or says in capitals what is still to be filled in.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Words = tuple[str, ...]
HALF = ("--ratios", "0.5")
"""What a selection looks like where none was named."""
FASTER = ("--target-speedup", "1.5x")
USUAL_BATCH = 128
HOLE = "DATA"
"""What a person has to fill in."""
PARTIAL = ".partial"
"""How the name of unfinished work ends."""


@dataclass(frozen=True)
class Way:
    """A command to type next."""

    words: Words
    """Everything after `greg`."""
    why: str
    complete: bool = True
    """Whether it works as it stands."""

    @property
    def line(self) -> str:
        """To be typed in a shell."""
        return "greg " + shlex.join(self.words)

    def to_json(self) -> dict[str, Any]:
        return {"command": self.line, "why": self.why, "complete": self.complete}


@dataclass(frozen=True)
class Standing:
    """Where a network stands, as far as the next command depends on it."""

    stage: str
    """Of a state; `onnx` for an exported file."""
    model: Words
    """MODEL, and what opening it needs beside: `net.pt --arch net.py:make`."""
    trained: bool = True
    data: str | None = None
    """What it was trained on, if that can still be read."""
    batch_size: int | None = None
    """Of its last training."""
    baseline: str | None = None
    """The dense network that it was made of, if it is still there."""
    choice: Words | None = None
    """What was selected by the command that was just typed."""
    complete: bool = True
    """Whether `model` has nothing to be filled in."""

    @property
    def file(self) -> Path:
        return Path(self.model[0])


def ways(at: Standing, typed: str | None = None) -> tuple[Way, ...]:
    """The sensible ways to go on, the most usual one first.

    Args:
        typed: the command that was just run, and has not to be typed again.
    """
    after = {"dense": _after_dense, "regularized": _after_regularized, "pruned": _after_pruned}
    found = {**after, "finetuned": _after_finetuned, "onnx": _after_export}[at.stage](at)
    return tuple(way for way in found if way.words[0] != typed or (typed == "analyze" and at.choice is None))


def first(found: tuple[Way, ...]) -> Way | None:
    """The one to print below a result: the first that works as it stands."""
    return next((way for way in found if way.complete), None)


def _way(at: Standing, command: str, why: str, *more: str) -> Way:
    """A command on MODEL."""
    return Way((command, *at.model, *more), why, at.complete and HOLE not in more)


def _after_dense(at: Standing) -> Iterator[Way]:
    choice = at.choice or HALF
    if at.choice is None:
        yield _way(at, "analyze", "what would be left of each layer", *choice)
    out = _out(at, "regularized.pt" if at.trained else "base.pt", Path())
    if at.trained:
        yield _way(at, "regularize", "the growing penalty", *choice, *_training(at), *out)
    else:
        named = at.model if "--arch" in at.model else ("--arch", *at.model)
        yield replace(_way(at, "train", "training", *_images(at), *out), words=("train", *named, *_images(at), *out))
    yield _way(at, "prune", "the cut at once, by L1 norm", *choice, *_out(at, "pruned.pt", Path()))
    if at.trained:
        wish, out = FASTER if at.choice is None else choice, _out(at, f"{_stem(at)}.onnx", Path())
        yield _way(at, "compress", "all of it, to ONNX", *wish, *_training(at), *out)
        yield _evaluated(at)


def _after_regularized(at: Standing) -> Iterator[Way]:
    yield _way(at, "prune", "the cut, by its picks", *_out(at, "pruned.pt"))
    yield _evaluated(at)
    yield _drawn(at)


def _after_pruned(at: Standing) -> Iterator[Way]:
    yield _way(at, "finetune", "recovery", *_training(at), *_out(at, "final.pt"))
    yield _exported(at)
    yield _evaluated(at)


def _after_finetuned(at: Standing) -> Iterator[Way]:
    again = _way(at, "regularize", "another round", *(at.choice or HALF), *_training(at), *_out(at, "regularized.pt"))
    if at.choice is not None:
        yield again
    yield _exported(at)
    yield _evaluated(at)
    if at.choice is None:
        yield again
    yield _drawn(at)


def _after_export(at: Standing) -> Iterator[Way]:
    yield _way(at, "evaluate", "accuracy of the file in onnxruntime", *_images(at))
    yield _way(at, "show", "what the file says of itself")
    yield _way(
        at,
        "report",
        "a page for people; with states and --json documents it tells more",
        *_out(at, f"{_stem(at)}.html"),
    )


def _exported(at: Standing) -> Way:
    baseline = () if at.baseline is None else ("--baseline", at.baseline)
    return _way(at, "export", "ONNX, with proof and latency", *baseline, *_out(at, f"{_stem(at)}.onnx"))


def _evaluated(at: Standing) -> Way:
    return _way(at, "evaluate", "its accuracy", *_images(at))


def _drawn(at: Standing) -> Way:
    return Way(("plot", at.model[0], *_out(at, f"{_stem(at)}.png")), "pictures of its training")


def _images(at: Standing) -> Words:
    return ("--data", at.data or HOLE)


def _training(at: Standing) -> Words:
    """Images, and the size of batches where it was not the usual one so far."""
    usual = at.batch_size in (None, USUAL_BATCH)
    return (*_images(at), *(() if usual else ("--batch-size", str(at.batch_size))))


def _out(at: Standing, name: str, folder: Path | None = None) -> Words:
    """Where a result goes: beside MODEL, unless another folder is named (a dense network often lies elsewhere)."""
    return ("-o", _free(at.file.parent if folder is None else folder, at, name))


def _stem(at: Standing) -> str:
    """Of files that are made of MODEL: `torchvision:resnet18@V1/body` makes `resnet18`."""
    name = at.model[0].rpartition(":")[2].partition("@")[0].partition("/")[0] if ":" in at.model[0] else at.file.stem
    return name.lstrip("-.") or "model"


def _free(folder: Path, at: Standing, name: str) -> str:
    """A name for a result that nothing has yet, finished or not."""
    stem, suffix = Path(name).stem, Path(name).suffix
    own = stem if stem == _stem(at) else f"{_stem(at)}-{stem}"
    later = (f"{own}-{count}{suffix}" for count in range(2, 1000))
    for candidate in (name, f"{own}{suffix}", *later):
        path = folder / candidate
        if not any(taken.exists() for taken in (path, path.with_name(path.name + PARTIAL))):
            return str(path)
    return str(folder / name)
