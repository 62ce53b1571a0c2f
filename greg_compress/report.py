"""Stage `report`: the story of a run on one page, from its files; nothing is built, run or measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from greg_compress.options.network import Output
from greg_compress.reporting import Reporter
from greg_compress.story.documents import opened
from greg_compress.story.page import page
from greg_compress.story.told import told
from greg_compress.whole_files import written_whole


def run(paths: Sequence[Path], output: Output, ui: Reporter) -> dict[str, Any]:
    """Write the page of some files to `output`.

    Returns:
        `report`, `size` (bytes), `sections`: the names of those that are there, and `missing`: why the others, or their
        pictures, are not.

    Raises:
        InputError: one of them is no file of greg's, or damaged.
    """
    story = told([opened(path) for path in paths])
    if story.cautions:
        ui.note(f"warnings on the page: {', '.join(dict.fromkeys(caution.what for caution in story.cautions))}")
    content = page(story).encode()
    with written_whole(output.path, replace=output.force) as temporary:
        temporary.write_bytes(content)
    return {
        "report": str(output.path),
        "size": len(content),
        "sections": list(story.sections),
        "missing": dict(story.missing),
    }
