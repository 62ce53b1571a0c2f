"""The last line of a command: what to type next. What that is, :mod:`greg_compress.following` alone decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from greg_compress.following import Standing, Way, Words, first, ways
from greg_compress.options.measuring import Format, ImageOptions, SensitivityOptions
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.selecting import Selection
from greg_compress.options.training import TrainingOptions
from greg_compress.retyping import selected

Next = Callable[[], Way | None]
"""Asked only where the line is printed: it may read a file."""


def nothing() -> None:
    """Of a command after which nothing is sure."""


def typing(*words: str) -> Next:
    """A command as it stands."""
    return lambda: Way(words, "")


def of_file(path: Path, typed: str) -> Next:
    """What to do with the state that was just written."""

    def found() -> Way | None:
        from greg_compress.contents.standings import of_file

        return first(ways(of_file(path), typed))

    return found


def of_training(training: TrainingOptions, output: Output, typed: str) -> Next:
    """What to do with the result of a training command; with --time there is none."""
    return nothing if training.timing else of_file(output.path, typed)


def of_analysis(
    model: ModelOptions,
    selection: Selection | None,
    plan: Output | None,
    measured: ImageOptions | SensitivityOptions | None,
) -> Next:
    """What to do with a network that was analyzed: what its table showed."""
    data = None if measured is None else str(measured.data)
    choice = None if selection is None else selected(selection) if plan is None else ("--plan", str(plan.path))
    return of_model(model, "analyze", choice, data)


def of_model(model: ModelOptions, typed: str, choice: Words | None = None, data: str | None = None) -> Next:
    """What to do with the network that was just looked at.

    Args:
        choice: how a selection was typed.
        data: what it was measured on, where its state knows of no data.
    """

    def found() -> Way | None:
        from greg_compress.contents.standings import of_model

        at = of_model(model)
        return first(ways(replace(at, choice=choice, data=at.data or data), typed))

    return found


def of_export(model: ModelOptions, made: Format, out: Path) -> Next:
    """What to do with the file that was just made of a network."""
    if made is Format.PT2:
        return typing("show", str(out))

    def found() -> Way | None:
        from greg_compress.contents.standings import of_model

        return first(ways(Standing("onnx", (str(out),), data=of_model(model).data), "export"))

    return found
