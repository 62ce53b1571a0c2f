"""The house: who may import whom, how large a room may be, and that help does not wait for torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "greg_compress"
MOST_LINES, LONGEST_FUNCTION = 300, 60

WORDS = {"errors", "options", "reporting", "small_files", "whole_files"}
STAGES = {"train", "analyze", "regularize", "prune", "finetune", "evaluate", "export", "plot", "report", "show"}
SELECTED = {"selection.ratios", "selection.amounts", "selection.plan_file"}
"""What the command line reads of a selection, without torch."""
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "reporting": set(),
    "small_files": {"errors"},
    "options": {"errors", *SELECTED, "sources.specs"},
    "processes": {"errors", "training.world"},
    "whole_files": {"errors", "options", "processes"},
    "recording": {*SELECTED, "options.criterion", "sources.specs"},
    "retyping": {"errors", "options", "recording", "selection.amounts", "sources.specs"},
    "following": set(),
    "contents": {
        "errors",
        "options",
        "small_files",
        "whole_files",
        "retyping",
        "following",
        "recipes",
        "selection.plan_file",
    }
    | {"sources", "state", "tensor_files", "deploy.opening", "deploy.describing", "deploy.metadata"},
    "wiring": {"errors"},
    "surgery": {"errors", "wiring", "cost"},
    "criteria": {"errors", "wiring", "options.criterion", "training.evaluation"}
    | {"sources.normalization", "sources.samples"},
    "cost": {"wiring"},
    "latency_target": {"errors", "reporting", "small_files", "whole_files", "wiring", "surgery.cut", "deploy"},
    "selection": {"errors", "options", "reporting", "small_files", "wiring", "criteria", "cost", "latency_target"},
    "penalty": {"errors", "options", "wiring", "selection.plan", "criteria.scores"},
    "unstructured": {"errors", "options", "reporting", "wiring", "criteria", "selection", "penalty"},
    "tensor_files": {"errors"},
    "sources": {"errors", "tensor_files"},
    "state": {"errors", "options", "reporting", "whole_files", "tensor_files", "sources", "surgery.cut"}
    | {"wiring.skeleton"},
    "training": {"errors", "options", "reporting", "sources.normalization", "sources.samples"},
    "deploy": {"errors", "wiring.skeleton", "training.evaluation", "options.gates"}
    | {"sources.dataset", "sources.normalization", "sources.samples"},
    "sensitivity": {"errors", "reporting", "wiring", "selection", "criteria", "cost", "surgery.masking"}
    | {"sources.normalization", "sources.samples", "training.evaluation"},
    "figures": set(),
    "story": {"errors", "figures", "options.plotting", "penalty.witness", "retyping", "sources.specs", "state"}
    | {"deploy.metadata", "deploy.opening", "small_files", "whole_files"},
    "preview": {"reporting", "selection.plan", "surgery.effect", "wiring"},
    "fit": {"errors", "sources", "state", "wiring.skeleton"},
    "long_run": {*WORDS, "recording", "fit", "processes", "sources", "state", "training"},
    "recipes": {*WORDS, "sources.specs"},
    "cli": {*WORDS, *STAGES, "recipes", "processes", *SELECTED, "sources.specs", "penalty.presets"}
    | {"following", "retyping", "contents.standings"},
    "api": {*WORDS, "analyze", "export", "selection", "wiring", "surgery", "cost", "penalty"}
    | {"sources.models", "sources.specs", "state"},
    **{
        stage: {
            *WORDS,
            "preview",
            "sensitivity",
            "recording",
            "long_run",
            "fit",
            "wiring",
            "surgery",
            "criteria",
            "cost",
            "selection",
            "unstructured",
            "penalty",
        }
        | {"sources", "state", "training", "deploy"}
        | {
            "plot": {"figures", "story.pictures"},
            "report": {"figures", "story"},
            "show": {"contents", "recipes.recipe"},
        }.get(stage, set())
        for stage in STAGES
    },
}
"""Room -> rooms, or single modules, that it may import. Stages meet only in state files."""


def modules() -> Iterator[tuple[Path, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported(source: str) -> Iterator[str]:
    """Modules of the package that a source imports, without the package's name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "greg_compress":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("greg_compress."):
            yield str(node.module).removeprefix("greg_compress.")
        elif isinstance(node, ast.Import):
            yield from (
                a.name.removeprefix("greg_compress.") for a in node.names if a.name.startswith("greg_compress.")
            )


def trespasses(module: str, source: str) -> list[str]:
    room = module.partition(".")[0]
    allowed = ALLOWED[room] | {room}
    return [
        other
        for other in imported(source)
        if not other.startswith("__") and not any(other == a or other.startswith(f"{a}.") for a in allowed)
    ]


def test_rooms_import_only_what_they_may() -> None:
    found = {
        module: wrong
        for path, module in modules()
        if module not in ("__init__", "__main__") and (wrong := trespasses(module, path.read_text()))
    }
    assert found == {}


def test_the_guard_sees_a_trespass() -> None:
    assert trespasses("prune", "from greg_compress import finetune") == ["finetune"]
    assert trespasses("training.loop", "import greg_compress.penalty") == ["penalty"]
    assert trespasses("wiring.rules", "from greg_compress.wiring.labels import NONE") == []


def test_rooms_stay_small() -> None:
    large = {module: n for path, module in modules() if (n := path.read_text().count("\n")) > MOST_LINES}
    long = {
        f"{module}.{node.name}": length
        for path, module in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert (large, long) == ({}, {})


def untold(page: str) -> set[str]:
    """Rooms that the table of a CONTRIBUTING page does not name."""
    table = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    return {module.partition(".")[0] for _, module in modules()} - {
        "__init__",
        "__main__",
        *re.findall(r"`(\w+)`", table),
    }


def test_every_room_is_in_the_table_for_newcomers() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert untold(page) == set()
    assert untold(page.replace("| `wiring` |", "| |")) == {"wiring"}


def loads_torch(*words: str) -> bool:
    script = (
        "import sys\n"
        "from greg_compress.cli import app\n"
        "try: app(sys.argv[1:], prog_name='greg')\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.__stdout__)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("regularize", "--help"),
        ("prune", "torchvision:resnet18", "--ratios", "1.0", "-o", "x.pt"),
        ("train", "--arch", "torchvision:resnet18", "--data", "mnist", "-o", "x.pt"),
        ("report", "sample_models/digits_resnet20.pt", "-o", "x.pdf"),
        ("prune", "torchvision:resnet18", "--ratios", "0.5", "-o", "README.md"),
        ("show", "sample_models/recipes/demo.toml"),
        ("show", "README.md"),
        ("run", "--help"),
    ],
)
def test_what_the_command_line_alone_shows_needs_no_torch(words: tuple[str, ...]) -> None:
    assert not loads_torch(*words)


def test_that_check_sees_torch_where_it_is() -> None:
    assert loads_torch("prune", "sample_models/digits_resnet20.pt", "--ratios", "[0]", "-o", "/tmp/never.pt")


@pytest.mark.parametrize("tool", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)])
def test_linters_are_content(tool: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *tool], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
