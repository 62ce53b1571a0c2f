"""Stage `plot`: pictures of what a state's own log tells; nothing is measured again, no network is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greg_compress.errors import RequestError, input_fault
from greg_compress.figures.norms import Norms
from greg_compress.figures.page import Picture, page, rendered
from greg_compress.options.network import Output
from greg_compress.options.plotting import Figure, PlotOptions, kind
from greg_compress.reporting import Reporter
from greg_compress.state import files
from greg_compress.story.pictures import pictures
from greg_compress.whole_files import written_whole


def run(path: Path, options: PlotOptions, output: Output, ui: Reporter) -> dict[str, Any]:
    """Draw one figure of a state, or all that it has, to `output`.

    Returns:
        `picture`, `size`, `figures`: the names of those drawn, `layer`: whose norms, and `missing`: why there are no
        others, by name.

    Raises:
        RequestError: the state has no such figure, or no such layer.
    """
    state, _ = files.load(path)
    wanted = list(Figure) if options.figure is None else [options.figure]
    with input_fault(f"{path} is damaged"):
        found, missing = pictures(state, options.layer)
    drawn = {name: found[name] for name in wanted if name in found}
    _require(drawn, found, missing, options, path)
    for name, reason in missing.items():
        if options.figure is None:
            ui.note(f"no {name}: {reason}")
    picture = rendered(page(list(drawn.values())), kind(output))
    with written_whole(output.path, replace=output.force) as temporary:
        temporary.write_bytes(picture)
    norms = drawn.get(Figure.NORMS)
    return {
        "picture": str(output.path),
        "size": len(picture),
        "figures": [str(name) for name in drawn],
        "layer": norms.layer if isinstance(norms, Norms) else None,
        "missing": {str(name): reason for name, reason in missing.items()},
    }


def _require(
    drawn: Mapping[Figure, Picture],
    found: Mapping[Figure, Picture],
    missing: Mapping[Figure, str],
    options: PlotOptions,
    path: Path,
) -> None:
    if options.layer is not None and Figure.NORMS in missing:
        raise RequestError(f"--layer would have no effect: {path} has no norms ({missing[Figure.NORMS]})")
    if drawn:
        return
    has = f"it has {', '.join(found)}" if found else "it has no other figure either"
    if options.figure is None:
        reasons = "; ".join(f"no {name}: {reason}" for name, reason in missing.items())
        raise RequestError(f"there is nothing to draw of {path}: {reasons}")
    raise RequestError(f"--figure {options.figure}: not in {path} ({missing[options.figure]}); {has}")
