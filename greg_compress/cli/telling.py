"""The words of `greg report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from greg_compress.cli.arguments import Force, output
from greg_compress.errors import RequestError
from greg_compress.options.network import Output
from greg_compress.whole_files import require_file

MOST_FILES = 64
SUFFIXES = (".html", ".htm")


def told_files(
    files: Annotated[
        list[Path],
        Argument(
            metavar="FILES...", help="States, exported .onnx files, documents of --json, results.json of greg run."
        ),
    ],
) -> tuple[Path, ...]:
    if len(files) > MOST_FILES:
        raise RequestError(f"{len(files)} files are more than a page tells of; name {MOST_FILES} at most")
    for path in files:
        require_file(path)
    return tuple(dict.fromkeys(files))


def page(
    out: Annotated[Path, Option("-o", "--out", metavar="FILE", help="The page to write, .html.")], force: Force = False
) -> Output:
    if out.suffix.lower() not in SUFFIXES:
        raise RequestError(f"-o {out}: the page is written as .html; name the file so")
    return output(out, force)
