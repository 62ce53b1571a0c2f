"""The whole story: every section with what it needs, and why the others are not there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greg_compress.deploy.metadata import NORMALIZES, PREPROCESSING, SHAPES
from greg_compress.options.plotting import Figure
from greg_compress.story import cautions, measures, steps
from greg_compress.story.chains import Chain, chained
from greg_compress.story.checks import Check, checks
from greg_compress.story.documents import File, Kind
from greg_compress.story.drawings import NO_STATE, Drawing, Plan, latencies, planned
from greg_compress.story.drawings import drawings as drawn
from greg_compress.story.values import entries, number, text, under

MOST_RESULTS = 500
NO_EXPORT = "no document of greg export --json is among the files"
SECTIONS = {
    "warnings": "Warnings",
    "origin": "What went in, what came out",
    "comparison": "Before and after",
    "accuracy": "Accuracy over the chain",
    "kept": "What is kept",
    "separation": "How filters separate",
    "latency": "Latency",
    "checks": "Checks",
    "results": "Results of a recipe",
    "history": "History",
    "files": "Files of this page",
}
"""In the order of the page."""


@dataclass(frozen=True)
class Story:
    """What the template tells."""

    title: str
    chain: Chain
    cautions: Sequence[cautions.Caution]
    origin: Sequence[tuple[str, str]]
    outcome: Sequence[tuple[str, str]]
    pairs: Sequence[measures.Pair]
    speedup: measures.Speedup | None
    accuracies: Sequence[measures.Row]
    plan: Plan | None
    drawings: Mapping[Figure, Drawing]
    timings: Sequence[tuple[measures.Timing, Drawing | None]]
    checks: Sequence[Check]
    results: Sequence[tuple[File, Sequence[Mapping[str, Any]], int]]
    histories: Sequence[steps.History]
    missing: Mapping[str, str]
    """Why a section is not there, or a picture of it."""

    @property
    def sections(self) -> dict[str, str]:
        """Names and titles of those that are there."""
        return {name: title for name, title in SECTIONS.items() if name not in self.missing}


def told(files: Sequence[File]) -> Story:
    """Collect the story of some files."""
    chain = chained(files)
    found, undrawn = drawn(chain)
    timings = measures.timings(chain)
    story = Story(
        title=_title(chain),
        chain=chain,
        cautions=cautions.cautions(chain),
        origin=list(_origin(chain)),
        outcome=list(_outcome(chain)),
        pairs=measures.pairs(chain),
        speedup=measures.speedup(chain),
        accuracies=measures.accuracies(chain),
        plan=planned(chain),
        drawings=found,
        timings=list(zip(timings, latencies(timings), strict=True)),
        checks=checks(chain),
        results=[_results(file) for file in chain.of(Kind.RESULTS)],
        histories=steps.histories(chain),
        missing={},
    )
    return Story(**{**vars(story), "missing": dict(_missing(story, undrawn))})


def _missing(story: Story, undrawn: Mapping[Figure, str]) -> Iterator[tuple[str, str]]:
    no_state = NO_STATE if story.chain.main is None else None
    if not story.cautions:
        yield "warnings", "these files give no reason for one"
    if not story.origin and not story.outcome:
        yield "origin", f"{NO_STATE}, and no ONNX file"
    if not story.pairs and story.speedup is None:
        yield "comparison", "no file tells a size, an accuracy or a time of the network before or after"
    if not story.accuracies:
        yield "accuracy", no_state or "no command of the history trained, and no evaluation is among the files"
    elif Figure.ACCURACY in undrawn:
        yield "picture of accuracy", undrawn[Figure.ACCURACY]
    if story.plan is None:
        yield "kept", undrawn.get(Figure.KEPT, "nothing was cut")
    if not any(figure in story.drawings for figure in (Figure.SEPARATION, Figure.PENALTY, Figure.NORMS)):
        yield "separation", undrawn[Figure.SEPARATION]
    if not story.timings:
        yield "latency", NO_EXPORT
    elif any(drawing is None for _, drawing in story.timings):
        yield "picture of latency", "the document holds no quantiles (an older greg measured it)"
    if not story.checks:
        yield "checks", "no file tells of a cut or an export"
    if not story.results:
        yield "results", "no results.json of greg run is among the files"
    if not story.histories:
        yield "history", no_state or "the state has none"


def _title(chain: Chain) -> str:
    if chain.state is not None:
        return chain.state.architecture.name
    return chain.files[0].name


def _origin(chain: Chain) -> Iterator[tuple[str, str]]:
    """What went in."""
    if (state := chain.state) is not None:
        arguments = ", ".join(f"{name}={value}" for name, value in state.architecture.kwargs.items())
        yield "architecture", state.architecture.spec + (f" ({arguments})" if arguments else "")
        yield "input", " and ".join(_sides(shape) for shape in state.input_shapes)
        if state.data is not None:
            yield "data", state.data
        if state.classes is not None:
            yield "classes", str(state.classes)
    if chain.history:
        name = text(chain.history[0], "input", "model")
        if name is not None and not (chain.state and name == chain.state.architecture.spec):
            yield "first read", name


def _outcome(chain: Chain) -> Iterator[tuple[str, str]]:
    """What came out."""
    if chain.main is not None and chain.state is not None:
        unfinished = " (unfinished)" if chain.state.run is not None else ""
        yield "state", f"{chain.main.name}: {chain.state.stage}{unfinished}"
    for file in chain.of(Kind.ONNX):
        opset = file.said.get("opset")
        yield "ONNX file", f"{file.name}: {file.size:,} bytes, opset {opset}, input {_shapes(file)}"
        inside = text(file.said, PREPROCESSING) == NORMALIZES
        yield "its input", "pixels as bytes, which it normalises" if inside else "pixels that are normalised already"
        yield "made by", f"greg {text(file.said, 'greg.version') or 'of an unknown version'}"
    for file in chain.of(Kind.EXPORTED):
        size, precision = number(file.said, "size"), text(file.said, "precision")
        if size is not None:
            name = text(file.said, "onnx") or "no file was left"
            yield "exported", f"{name}: {precision or 'of unknown precision'}, {size:,} bytes"
    for file in chain.of(Kind.PROGRAM):
        name = text(file.said, "program") or "no file was left"
        yield "exported", f"{name}: a program of PyTorch's, {number(file.said, 'size') or 0:,} bytes"


def _shapes(file: File) -> str:
    try:
        shapes = json.loads(text(file.said, SHAPES) or "[]")
        return " and ".join(_sides(shape) for shape in shapes) or "not said"
    except (ValueError, TypeError, RecursionError):
        return "not said"


def _sides(shape: Sequence[int]) -> str:
    return "x".join(str(int(side)) for side in shape)


def _results(file: File) -> tuple[File, Sequence[Mapping[str, Any]], int]:
    """A recipe's lines, as many as fit, and how many are left out."""
    lines = entries(file.said, "results")
    shown = [
        {
            "name": text(line, "name") or text(line, "figure") or "?",
            "each": ", ".join(f"{key}={value}" for key, value in under(line, "each").items()),
            **{key: number(line, key) for key in ("mean", "std", "n", "paper")},
        }
        for line in lines[:MOST_RESULTS]
    ]
    return file, shown, len(lines) - len(shown)
