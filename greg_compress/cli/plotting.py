"""The words of `greg plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from greg_compress.cli.arguments import Force, output
from greg_compress.options.network import Output
from greg_compress.options.plotting import Figure, PlotOptions, kind

State = Annotated[Path, Argument(metavar="STATE", help="A state file of greg's, or an unfinished OUT.partial.")]


def plot_options(
    figure: Annotated[
        Figure | None, Option("--figure", help="One of them alone.", show_default="all that the state has")
    ] = None,
    layer: Annotated[
        str | None,
        Option("--layer", metavar="NAME", help="Whose norms are drawn.", show_default="that of the most channels"),
    ] = None,
) -> PlotOptions:
    return PlotOptions(figure, layer)


def picture(
    out: Annotated[Path, Option("-o", "--out", metavar="FILE", help="The picture to write, .png or .svg.")],
    force: Force = False,
) -> Output:
    kind(Output(out))
    return output(out, force)
