"""Which pictures are drawn of a state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from greg_compress.errors import RequestError
from greg_compress.options.network import Output


class Figure(StrEnum):
    """The pictures, in the order in which they stand on a page."""

    ACCURACY = "accuracy"
    PENALTY = "penalty"
    SEPARATION = "separation"
    NORMS = "norms"
    KEPT = "kept"


KINDS = ("png", "svg")


@dataclass(frozen=True)
class PlotOptions:
    """Which pictures are drawn, and as what."""

    figure: Figure | None
    """None: all that the state has."""
    layer: str | None
    """Whose norms are drawn; None: the layer with the most units."""

    def __post_init__(self) -> None:
        if self.layer is not None and self.figure not in (None, Figure.NORMS):
            raise RequestError(f"--layer would have no effect: --figure {self.figure} shows all layers")


def kind(output: Output) -> str:
    """`png` or `svg`, by the name of the file.

    Raises:
        RequestError: another suffix.
    """
    suffix = output.path.suffix.lower().removeprefix(".")
    if suffix not in KINDS:
        raise RequestError(f"-o {output.path}: pictures are written as .png or .svg; name the file so")
    return suffix
