"""What a person meets in a terminal: completion, versions, colours, and tables that fit."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import greg_compress
from greg_compress.cli import app, results, running, terminal, versions
from greg_compress.cli.boundary import COMPLETES
from greg_compress.cli.terminal import make_table
from greg_compress.recipes import figures
from greg_compress.recipes.expand import expand
from greg_compress.recipes.recipe import read
from greg_compress.reporting import Progress
from tests.conftest import DIGITS, ROOT, Ran

WIDTH = 80


def typed(*words: str, script: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`greg` in a process of its own, which says on its last line of stderr whether torch was loaded."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.__stderr__))\n"
        "from greg_compress.__main__ import main\n"
        "sys.argv = ['greg', *sys.argv[1:]]\n"
        "main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment},
    )  # fmt: skip


def test_versions_are_those_of_what_is_installed() -> None:
    done = typed("--version")
    lines = done.stdout.splitlines()
    assert lines[0] == f"greg {greg_compress.__version__}"
    assert dict(line.split(maxsplit=1) for line in lines[2:]) == {name: version(name) for name in versions.PACKAGES}
    assert (done.returncode, done.stderr.split()[-1]) == (0, "False")


class Broken(StringIO):
    """A stream that nobody reads any more, or whose disk is full."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "full"), ValueError("closed")])
def test_work_goes_on_where_nobody_listens(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Broken(error))
    spoken = terminal.Terminal()
    spoken.note("a")
    spoken.warn("b")
    spoken.table("c", ("d",), [("e",)])
    spoken.progress(lambda: Progress("training", 1, 2, 0, 0.1, 50.0, 0.01, {}))
    spoken.finish()
    with results.printed(True, results.accuracy):
        print("what a user's network prints")


def test_a_result_that_nobody_reads_is_an_error_and_stderr_stays() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        with contextlib.redirect_stdout(sys.stderr), pytest.raises(BrokenPipeError):
            terminal.console(stream).print("the result")
        assert os.path.samestat(os.fstat(stream.fileno()), Path(os.devnull).stat())


def test_a_package_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "PACKAGES", ("no-such-package-here",))
    assert list(versions.versions())[-1] == ("no-such-package-here", "is not installed")


# Completion: typer's protocol, as a shell speaks it


def completed(line: str, folder: Path) -> list[str]:
    """What bash would offer at the end of a line, from its own completion function."""
    (folder / "greg").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m greg_compress "$@"\n')
    (folder / "greg").chmod(0o755)
    script = (
        f"{typed('--show-completion', 'bash').stdout}\n"
        f"COMP_WORDS=({line}); COMP_CWORD=$1; _greg_completion greg; printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
        "complete -p greg"
    )
    done = subprocess.run(
        [str(shutil.which("bash")), "-c", script, "bash", str(len(line.split(" ")) - 1)],
        capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stderr == ""
    *offered, registered = done.stdout.splitlines()
    assert "-o default" in registered  # where nothing is offered bash completes files
    return [word for word in offered if word]


@pytest.mark.skipif(shutil.which("bash") is None, reason="the protocol is bash's, which is not here")
@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("greg re", {"regularize", "report"}),
        ("greg regularize --meth", {"--method"}),
        ("greg regularize x.pt --method greg-", {"greg-1", "greg-2"}),
        ("greg prune sample_models/dig", set()),
    ],
)
def test_bash_completes(line: str, offers: set[str], tmp_path: Path) -> None:
    assert set(completed(line, tmp_path)) == offers


def test_completion_asks_for_no_torch_and_says_nothing_else() -> None:
    asked = {COMPLETES: "complete_bash", "COMP_WORDS": "greg show ", "COMP_CWORD": "2"}
    done = typed(**asked)
    assert (done.returncode, done.stdout.split(), done.stderr.split()) == (0, [], ["False"])


def test_a_file_that_ends_the_program_is_still_an_error(tmp_path: Path, greg: Callable[..., Ran]) -> None:
    """Completion ends by SystemExit; a user's own file that does so has not done what was asked."""
    Path("quits.py").write_text("import sys\ndef make():\n    sys.exit(0)\n")
    assert greg("analyze", "quits.py:make", "--input-shape", "1,8,8").code != 0


# Colours, progress and width


def read_all(master: int) -> bytes:
    """What was written to a pseudo-terminal whose other end is closed."""
    parts = []
    with contextlib.suppress(OSError):  # which is how Linux says that nothing follows
        while part := os.read(master, 10_000):
            parts.append(part)
    os.close(master)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("environment", "lively", "coloured"),
    [
        ({"TERM": "xterm-256color"}, True, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm-256color", "CI": "true"}, False, True),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_what_a_terminal_can_do_is_heeded(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], lively: bool, coloured: bool
) -> None:
    """A pseudo-terminal of 80 columns, seen by a process's stderr."""
    for name in ("NO_COLOR", "CI", "FORCE_COLOR", "COLORTERM", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        speaks = terminal.Terminal()
        speaks.warn("take care")
        speaks.progress(lambda: Progress("training", 1, 10, 1, 0.5, 90.0, 0.1))
        speaks.finish()
    said = read_all(master).decode()
    assert "warning: take care" in said
    assert ("\x1b[?25l" in said) is lively  # the cursor is hidden while a bar is drawn
    assert ("\x1b[35m" in said) is coloured
    assert ("training 1/10" in said) is not lively


def test_a_pipe_gets_plain_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    terminal.Terminal().warn("word " * 100)
    assert pipe.getvalue().count("\n") == 1
    assert "\x1b" not in pipe.getvalue()


def lines(table: Any, width: int) -> list[str]:
    out = StringIO()
    Console(file=out, width=width).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_columns_move_together_before_a_cell_is_folded() -> None:
    rows = [("name" * 5, "x" * 20, "y" * 20, "z" * 12)] * 3
    table = make_table(("a", "b", "c", "d"), rows)
    assert len(lines(table, 100)) == len(lines(table, WIDTH)) == 5
    assert max(map(len, lines(table, WIDTH))) <= WIDTH
    assert len(lines(table, 60)) > 5  # and then it is


def test_the_printed_tables_of_recipes_fit(tmp_path: Path) -> None:
    words = running.Line(app).words()
    for path in (ROOT / "sample_models" / "recipes").glob("*.toml"):
        document = figures.document(expand(read(path, (), words), tmp_path, 1.0, words), {})
        for line in document["results"]:
            line.update(mean=93.4567, std=0.1234, n=3)
        out = StringIO()
        results.grid(Console(file=out, width=WIDTH), document)
        assert len(out.getvalue().splitlines()) == len(document["results"]) + 3, path  # no row takes two lines
        assert max(len(line.rstrip()) for line in out.getvalue().splitlines()) <= WIDTH


def test_the_last_line_is_one_line_at_any_width(greg: Callable[..., Ran]) -> None:
    folder = Path("a folder with a name that is long" * 3)
    folder.mkdir()
    shutil.copy(DIGITS, folder / "base.pt")
    last = greg("analyze", folder / "base.pt", "--ratios", "0.5").out.splitlines()[-1]
    assert shlex.split(last)[3] == str(folder / "base.pt")
