"""How sure the p50 of timed runs is, and the ratio of two: a block bootstrap.

What disturbs a machine lasts for several runs, so that runs are no independent draws: whole blocks of neighbouring
turns are drawn again (Künsch, 1989), for all files the same turns (paired), until there are as many as were measured.
The middle 95 % of the p50s of 400 such draws, and of their ratios, are the intervals. They are seeded: the same times
give the same intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy

from greg_compress.options.gates import FEWEST_RUNS

CONFIDENCE = 0.95
DRAWS = 400
BLOCKS = 20
"""Of a draw, at least where there are so many runs."""
METHOD = f"paired block bootstrap of the p50, {DRAWS} draws, {100 * CONFIDENCE:g} %"
Array = numpy.ndarray[Any, numpy.dtype[numpy.float64]]


class Interval(NamedTuple):
    """From, to."""

    low: float
    high: float


def intervals(times: Array) -> tuple[list[Interval | None], list[Interval | None]]:
    """Of each file's p50, and of its ratio to the first file's.

    Args:
        times: (files, runs) in turns.

    Returns:
        Lists of None where there are too few runs to say.
    """
    files, runs = times.shape
    if runs < FEWEST_RUNS:
        return [None] * files, [None] * files
    random = numpy.random.default_rng(0)
    length = runs // BLOCKS
    medians = numpy.empty((DRAWS, files))
    for draw in medians:
        starts = random.integers(0, runs, -(-runs // length))
        # Around the end: every turn is drawn equally often.
        turns = (starts[:, None] + numpy.arange(length)).ravel()[:runs] % runs
        draw[:] = numpy.median(times[:, turns], axis=1)
    return _middle(medians), _middle(medians / medians[:, :1])


def spans(measurements: Sequence[Array]) -> tuple[list[Interval | None], list[Interval | None]]:
    """The same over several measurements: from the least to the greatest end."""
    medians, ratios = zip(*map(intervals, measurements), strict=True)
    return _hulls(medians), _hulls(ratios)


def _hulls(found: Sequence[Sequence[Interval | None]]) -> list[Interval | None]:
    """Of each file."""
    known = [[each for each in column if each is not None] for column in zip(*found, strict=True)]
    return [
        Interval(min(each.low for each in column), max(each.high for each in column)) if column else None
        for column in known
    ]


def _middle(draws: Array) -> list[Interval | None]:
    """The middle of each column."""
    out = 50 * (1 - CONFIDENCE)
    low, high = numpy.percentile(draws, [out, 100 - out], axis=0)
    return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]
