"""What the documentation says works: every block is run, every link leads somewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from greg_compress.cli import app
from tests.commands_reference import reference
from tests.conftest import ROOT
from tests.shell import Shell

PAGES = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SETS_UP = "python3 -m venv "
"""How the two commands begin that `.ci/run` runs."""
LOOSE = {"--max-latency": "9s", "--min-speedup": "0.001", "--min-top1": "1", "--max-drop": "99"}
"""Gates for networks that were hardly trained, on machines that do something else."""
IN_TIME = {"--target-speedup": ["--ratios", "0.4"], "--target-latency": ["--ratios", "0.4"]}
"""Targets that a busy machine can miss."""
LENGTHS = {
    "train": ["--iterations", "4"],
    "finetune": ["--iterations", "4"],
    "regularize": ["--scale", "0.04"],
    "compress": ["--scale", "0.04"],
    "run": ["--dry-run"],
    "export": ["--runs", "20"],
}
RULED_OUT = {"--epochs", "--scale", "--iterations", "--runs"}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the blocks are for bash, which is not here")


def as_typed(words: list[str]) -> list[str]:
    return words


def shortened(words: list[str]) -> list[str]:
    """The same command in seconds: little training, gates that let everything pass, no target in time."""
    command, *rest = words
    kept: list[str] = []
    while rest:
        word, *rest = rest
        if word in LOOSE:
            kept, rest = [*kept, word, LOOSE[word]], rest[1:]
        elif word in IN_TIME:
            kept, rest = [*kept, *IN_TIME[word]], rest[1:]
        elif word == "--align" and rest[0] == "auto":
            kept, rest = [*kept, word, "8"], rest[1:]
        elif word in RULED_OUT and command in LENGTHS:
            rest = rest[1:]
        elif word == "--budget":
            kept, rest = [*kept, word, "12s"], rest[1:]
        else:
            kept.append(word)
    if "--budget" in kept:
        return [command, *kept]
    more = ["--samples", "40"] if "--sensitivity" in kept else LENGTHS.get(command, [])
    if not more or more[0] in kept or "--format" in kept:  # only ONNX files are timed
        return [command, *kept]
    return [command, *kept, *more]


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The language and the text of every block."""
    for found in BLOCK.finditer(page.read_text()):
        yield found[1], found[2]


def chain() -> str:
    """The README's own chain, which other pages go on from."""
    (found,) = (text for language, text in blocks(ROOT / "README.md") if "greg regularize" in text)
    return found


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader's is who has typed the README's chain, in short."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "sample_models", folder / "sample_models", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").mkdir()
    shell = Shell(folder, shortened)
    done = shell.run(chain())
    shell.close()
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / ".tools")
    return folder


def follow(page: Path, folder: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> int:
    """Do what a page says, from top to bottom; return how many blocks that were."""
    names: dict[str, object] = {}
    count = 0
    monkeypatch.chdir(folder)
    for language, text in blocks(page):
        if language == "toml":
            (folder / text.split()[1]).write_text(text.replace("{here}/..", "{here}/sample_models"))
        elif language == "python":
            exec(compile(text, str(page), "exec"), names)
        elif language == "sh" and not text.startswith(SETS_UP) and text != chain():
            done = shell.run(text)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        else:
            assert language in ("sh", "text", "bibtex", ""), language
        count += 1
    return count


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=lambda page: page.name)
@pytest.mark.parametrize("edit", [shortened, pytest.param(as_typed, marks=pytest.mark.slow)])
def test_every_block_works(page: Path, edit: Any, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "build.sh" in page.read_text() and shutil.which("jq") is None:
        pytest.skip("build.sh takes jq, which is not here")
    folder = tmp_path / "reader"
    shutil.copytree(begun, folder)
    shell = Shell(folder, edit)
    assert follow(page, folder, shell, monkeypatch)
    shell.close()


def test_a_wrong_block_is_noticed(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").write_text("```sh\ngreg analyze sample_models/digits_resnet20.pt --ratio 0.5 | cat\n```\n")
    shell = Shell(begun, shortened)
    with pytest.raises(AssertionError, match="greg analyze has no option --ratio;"):
        follow(tmp_path / "page.md", begun, shell, monkeypatch)
    shell.close()
    assert shell.typed == [["analyze", "sample_models/digits_resnet20.pt", "--ratio", "0.5"]]


def slug(heading: str) -> str:
    """The anchor that a forge gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.M)}


def dead_links(page: Path, text: str) -> list[str]:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (
            anchor and anchor not in {slug(h) for h in re.findall(r"^#+ (.*)$", file.read_text(), re.M)}
        ):
            dead.append(target)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page, page.read_text()) == []


def test_a_dead_link_is_noticed() -> None:
    readme = ROOT / "README.md"
    assert dead_links(readme, "[a](docs/nothing.md) [b](docs/inputs.md#nothing) [c](docs/inputs.md#data)") == [
        "docs/nothing.md",
        "docs/inputs.md#nothing",
    ]


def test_options_in_running_text_exist() -> None:
    """Words like `--ratios` between backticks are options of some command."""
    group: Any = get_command(app)
    known = {name for command in (group, *group.commands.values()) for each in command.params for name in each.opts}
    said = {
        option
        for page in PAGES
        for code in re.findall(r"`([^`\n]*--[a-z][^`\n]*)`", BLOCK.sub("", page.read_text()))
        if not re.match(r"(python|pytest|torchrun|pip|git|pre-commit|chromium|ruff|mypy)\b|\.venv", code)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code)
    }
    assert said - known == set()


def test_the_reference_is_what_the_program_says() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    assert page == reference(get_command(app)), "python -m tests.commands_reference > docs/commands.md"


def test_the_reference_names_every_option_once_for_each_command() -> None:
    """Against the commands themselves: what no table shows is noticed, and nothing is read off a terminal."""
    group: Any = get_command(app)
    page = reference(group)
    for name, command in group.commands.items():
        (part,) = re.findall(rf"^## greg {name}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
        assert part.lstrip().startswith(command.help.splitlines()[0])
        rows = re.findall(r"^\| `([^`]*)`", part, re.M)
        shown = [word for row in rows for word in re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", row)]
        assert shown == [option for each in command.params for option in each.opts if option.startswith("-")]
        assert not set("─│╭\x1b") & set(part)
