"""One page: pictures in a grid, and its bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import matplotlib
from matplotlib.figure import Figure, FigureBase

from greg_compress.figures.style import STYLE

WIDTH, NARROW = 11.0, 6.5
"""Inches of a page, and of a picture that stands alone and needs only half of one."""


class Picture(Protocol):
    """Plain figures that know how to be drawn."""

    @property
    def height(self) -> float:
        """Inches."""

    @property
    def wide(self) -> bool:
        """Whether it takes the page's whole width."""

    def draw(self, space: FigureBase) -> None: ...


@contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters of a layer's name that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def page(pictures: Sequence[Picture]) -> Figure:
    """Draw pictures below one another, narrow ones in pairs."""
    rows = list(_rows(pictures))
    heights = [max(picture.height for picture in row) for row in rows]
    alone = len(pictures) == 1 and not pictures[0].wide
    with _styled():
        whole = Figure(figsize=(NARROW if alone else WIDTH, sum(heights)), layout="constrained")
        spaces = whole.subfigures(len(rows), 1, height_ratios=heights, squeeze=False, hspace=0.04)[:, 0]
        for row, space in zip(rows, spaces, strict=True):
            for picture, place in zip(row, space.subfigures(1, len(row), squeeze=False, wspace=0.03)[0], strict=True):
                picture.draw(place)
    return whole


def _rows(pictures: Sequence[Picture]) -> Iterator[list[Picture]]:
    waiting: list[Picture] = []
    for picture in pictures:
        if picture.wide and waiting:
            yield waiting
            waiting = []
        waiting.append(picture)
        if picture.wide or len(waiting) == 2:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def rendered(whole: Figure, kind: str) -> bytes:
    """A page as `png` or `svg`: the same bytes for the same page, so without date and version."""
    buffer = io.BytesIO()
    with _styled():
        metadata = {"Date": None, "Creator": "greg"} if kind == "svg" else {"Software": "greg"}
        whole.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
