"""The commands that run a whole chain: a recipe, the one that flags describe, and the one that is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from greg_compress.cli import afterwards, arguments, compressing, running, selecting
from greg_compress.cli.arguments import Force, Json
from greg_compress.cli.entry import app, printed
from greg_compress.cli.grouped import Said, Use, as_said, grouped
from greg_compress.errors import RequestError
from greg_compress.options.compressing import Wish
from greg_compress.options.measuring import Format
from greg_compress.options.network import Output
from greg_compress.recipes.expand import Grid
from greg_compress.recipes.records import RESULTS
from greg_compress.whole_files import claimed, require_apart, require_free_folder


@app.command()
def run(
    recipe: Annotated[Path, Argument(metavar="RECIPE", help="A TOML file: values, a grid of them, steps, results.")],
    out: Annotated[
        Path | None, Option("-o", "--out", metavar="DIR", help="Where the files go.", show_default="named as RECIPE")
    ] = None,
    setting: Annotated[
        list[str] | None, Option("--set", metavar="NAME=VALUE", help="Replace one of the recipe's values; repeats.")
    ] = None,
    scale: Annotated[float, Option("--scale", metavar="F", help="Make every length F times as long.")] = 1.0,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check and show every command and what it would cut, and stop.")
    ] = False,
    allow_pickle: Annotated[
        bool, Option("--allow-pickle", help="Let steps open whole pickled networks, which run whatever code they hold.")
    ] = False,
    force: Annotated[bool, Option("--force", help="Do anew what other options had made there.")] = False,
    json: Json = False,
) -> None:
    """Run a whole recipe, or what is missing of it; the same command again goes on.

    A recipe's FILE.py:CALLABLE runs, also with --dry-run, if it lies below the current directory or beside the recipe.
    """
    if force and dry_run:
        raise RequestError("--force would have no effect with --dry-run")
    grid = running.grid_of(app, recipe, setting or (), scale, out, allow_pickle)
    with printed(json, "planned_grid" if dry_run else "grid") as (print_result, ui):
        if dry_run:
            again = afterwards.typing("run", *_again(recipe, grid, setting, scale))
            print_result(running.dry_run(app, grid, ui), again)
        else:
            results = str(grid.folder / RESULTS)
            print_result(running.run(app, grid, force, ui), afterwards.typing("show", results))


def _again(recipe: Path, grid: Grid, settings: list[str] | None, scale: float) -> list[str]:
    """What was typed, but for --dry-run."""
    words = [str(recipe), "-o", str(grid.folder), *(word for each in settings or () for word in ("--set", each))]
    return words if scale == 1 else [*words, "--scale", f"{scale:.10g}"]


@app.command()
@grouped
def compress(
    model: Annotated[Said, Use(as_said(arguments.model_options))],
    selected: Annotated[Said, Use(as_said(selecting.selection, "unstructured", "threads", "batch"))],
    wished: Annotated[Wish, Use(compressing.wish)],
    output: Annotated[Output, Use(arguments.output)],
    json: Json = False,
) -> None:
    """From a trained network to a smaller ONNX file: regularize, prune, finetune, export; the same command goes on."""
    require_apart(output.path, [model["model"]])
    Format.ONNX.require_name(output.path)
    text = compressing.recipe(model, selected, wished, output)
    grid = running.grid_from(app, text, compressing.recipe_path(output))
    with claimed(output), printed(json, "compressed") as (print_result, ui):
        report = compressing.run(app, grid, text, selected, wished.max_drop, output, ui)
        print_result(report, afterwards.typing("show", str(output.path)))


@app.command()
def demo(
    folder: Annotated[Path, Argument(metavar="[DIR]", help="Where the files go.")] = Path("greg-demo"),
    force: Force = False,
    json: Json = False,
) -> None:
    """Run the whole chain on the digits, in about a minute."""
    require_free_folder(folder, force)
    with printed(json, "demonstration") as (print_result, ui):
        report = running.demo(app, folder, ui)
        print_result(report, afterwards.typing("show", str(folder / running.DEMO_FILE)))
