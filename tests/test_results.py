"""What docs/results.md says of several seeds is what the recipes' committed results say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from tests.conftest import ROOT

PAGE, FOLDER = ROOT / "docs" / "results.md", ROOT / "sample_models" / "results"
TABLE = re.compile(r"results/(\w+)\.json\)[^|]*?\n((?:\|.*\n)+)")
"""A link to results, and the table below it."""
PARTS = ("end_of_phase", "after_the_cut", "top1")


def tables(page: str) -> list[tuple[str, list[list[str]]]]:
    """File and rows of every table of results; the first row names the columns."""
    found = []
    for name, lines in TABLE.findall(page):
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]
        found.append((name, [row for row in cells if not set("".join(row)) <= set("-: ")]))
    return found


def figures(document: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Name and ratio -> mean and deviation over seeds as the page writes them; one figure alone has none."""
    said = {}
    for row in document["results"]:
        if row["n"]:
            spread = f" ± {row['std']:.2f}" if row["n"] > 1 else ""
            said[row["name"], row["each"].get("ratio", "")] = f"{row['mean']:.2f}{spread}"
    return said


def wrong(page: str, folder: Path) -> list[str]:
    """Cells of the page that its files do not say, and files that no table shows."""
    found, shown = [], set()
    for name, (head, *rows) in tables(page):
        document = json.loads((folder / f"{name}.json").read_text())
        if "results" not in document:
            continue
        shown.add(name)
        said = figures(document)
        for first, *cells in rows:
            for ratio, cell in zip(head[1:], cells, strict=True):
                if cell != said.get((first, ratio), said.get((first, ""), "-")):
                    found.append(f"{name}: {first}, {ratio}: {cell}")
    files = {path.stem for path in folder.glob("*.json") if "results" in json.loads(path.read_text())}
    return found + sorted(files - shown)


def test_the_page_says_what_the_files_say() -> None:
    assert wrong(PAGE.read_text(), FOLDER) == []


def theirs(folder: Path) -> list[str]:
    """The rows of the table of Torch-Pruning's pruners, from one file for each ratio and seed."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("torch_pruning_*.json"), reverse=True):
        document = json.loads(path.read_text())
        for row in document["rows"]:
            found.setdefault((document["ratio"], row["method"]), []).append(row)
    return [
        "| "
        + " | ".join(
            [*which]
            + [f"{mean(values):.2f} ± {stdev(values):.2f}" for key in PARTS if (values := [row[key] for row in rows])]
            + [f"{mean([row['macs'] for row in rows]) / 1e6:.2f} M"]
        )
        + " |"
        for which, rows in found.items()
    ]


def test_the_page_says_what_torch_pruning_came_to() -> None:
    rows = theirs(FOLDER)
    assert len(rows) == 4
    assert [row for row in rows if row not in PAGE.read_text()] == []


def test_means_are_those_of_the_seeds() -> None:
    for path in FOLDER.glob("*.json"):
        for row in json.loads(path.read_text()).get("results", ()):
            seeds = [value for value in row["seeds"].values() if value is not None]
            assert row["n"] == len(seeds)
            if seeds:
                assert row["mean"] == pytest.approx(sum(seeds) / len(seeds))


def test_another_figure_is_found(tmp_path: Path) -> None:
    row = {
        "name": "dense",
        "each": {"ratio": "0.9"},
        "seeds": {"0": 90.0, "1": 91.0},
        "mean": 90.5,
        "std": 0.70711,
        "n": 2,
    }
    (tmp_path / "some.json").write_text(json.dumps({"results": [row]}))
    page = "[file](../results/some.json):\n\n| top-1 | 0.9 |\n|---|---|\n| dense | 90.50 ± 0.71 |\n"
    assert wrong(page, tmp_path) == []
    assert wrong(page.replace("90.50", "90.60"), tmp_path) == ["some: dense, 0.9: 90.60 ± 0.71"]
    assert wrong("no table", tmp_path) == ["some"]
