"""One page: pictures below one another, and its bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import matplotlib
from matplotlib.figure import Figure, FigureBase
from matplotlib.layout_engine import ConstrainedLayoutEngine

from greg_compress.figures.style import STYLE

WIDTH = 11.0
"""Inches, as are the heights."""
MARGIN = 0.08


class Picture(Protocol):
    """Plain figures that know how to be drawn."""

    @property
    def height(self) -> float:
        """Of the page's whole width."""

    def draw(self, space: FigureBase) -> None: ...


@contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters of a layer's name that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def page(pictures: Sequence[Picture]) -> Figure:
    """Draw pictures below one another."""
    heights = [picture.height for picture in pictures]
    with _styled():
        engine = ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN)
        whole = Figure(figsize=(WIDTH, sum(heights)), layout=engine)
        spaces = whole.subfigures(len(heights), 1, height_ratios=heights, squeeze=False, hspace=0.04)[:, 0]
        for picture, space in zip(pictures, spaces, strict=True):
            picture.draw(space)
    return whole


def rendered(whole: Figure, kind: str, *, words: bool = False) -> bytes:
    """A page as `png` or `svg`: the same bytes for the same page, so without date and version.

    Args:
        words: whether text stays text in an SVG, in a font of who looks at it, on the background that is there;
            otherwise its shapes are drawn, on white.
    """
    buffer = io.BytesIO()
    with _styled():
        matplotlib.rcParams["svg.fonttype"] = "none" if words else "path"
        metadata = {"Date": None, "Creator": "greg"} if kind == "svg" else {"Software": "greg"}
        whole.savefig(buffer, format=kind, metadata=metadata, transparent=words)
    return buffer.getvalue()
