"""A fault of ours leaves its traceback in a file, and one line says where."""

from __future__ import annotations

import shlex
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from greg_compress.cli import boundary
from greg_compress.errors import RequestError
from greg_compress.processes import ending
from tests.conftest import DIGITS, Ran

Greg = Callable[..., Ran]
WORDS = ("evaluate", DIGITS, "--data", "digits; rm")


def crash(*_: object) -> NoReturn:
    raise KeyError("two\nlines")


def in_thread() -> None:
    thread = threading.Thread(target=crash)
    thread.start()
    thread.join()


@pytest.fixture
def reports(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greg_compress.cli.commands.parse_data", crash)


@pytest.mark.usefixtures("crashing")
def test_a_crash_is_one_line_and_a_private_file(
    greg: Greg, tmp_path: Path, reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    monkeypatch.setattr("sys.argv", ["greg", *map(str, WORDS)])
    for count in (1, 2):
        ran = greg(*WORDS)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.count("\n") == 1
        files = list(reports.iterdir())
        assert len(files) == count
        assert any(f"please report it with {file}\n" in ran.err for file in files)
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        text = file.read_text()
        assert text.startswith(f"greg {shlex.join(map(str, WORDS))}\nin {tmp_path}\n")
        assert "\ntorch " in text
        assert 'KeyError: "two' not in text.partition("Traceback (most recent call last)")[0]
        assert "in crash\n" in text.partition("Traceback (most recent call last)")[2]
        assert "hunter2" not in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("crashing")
@pytest.mark.parametrize("where", ["missing", "own"])
def test_where_no_file_can_be_the_traceback_is_printed(
    greg: Greg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Python's last choice of a temporary folder is the current one, where the user's files lie."""
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing" if where == "missing" else tmp_path))
    ran = greg(*WORDS)
    assert ran.code == 1
    assert "Traceback (most recent call last)" in ran.err
    assert ran.err.splitlines()[-1].endswith("please report it with the lines above")
    assert list(tmp_path.iterdir()) == []


def test_a_thread_that_crashes_is_no_success(greg: Greg, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> dict[str, float]:
        in_thread()
        return {"top1": 1.0, "top5": 1.0, "loss": 1.0, "samples": 1}

    monkeypatch.setattr("greg_compress.evaluate.run", run)
    ran = greg("evaluate", DIGITS, "--data", "digits", "--json")
    (file,) = reports.iterdir()
    assert ran.code == 1
    assert ran.error().endswith(f"please report it with {file}")
    assert "in crash\n" in file.read_text()


def test_a_thread_that_crashes_beside_another_error(greg: Greg, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> NoReturn:
        in_thread()
        raise RequestError("mine")

    monkeypatch.setattr("greg_compress.cli.commands.parse_data", fail)
    ran = greg(*WORDS)
    assert ran.code == 2
    assert ran.error().startswith("greg: mine; internal error")
    assert len(list(reports.iterdir())) == 1


@pytest.mark.usefixtures("crashing")
@pytest.mark.parametrize(("theirs", "lines"), [("internal error (ValueError); see there", 1), ("disk full", 2)])
def test_of_several_processes_that_crash_one_is_said(
    greg: Greg, reports: Path, monkeypatch: pytest.MonkeyPatch, theirs: str, lines: int
) -> None:
    """This one's line would be another only by the name of its file; what it says of something else is not lost."""

    class Met:
        def agreed(self, _own: ending.End, _patience: float) -> ending.End:
            return ending.End(1, theirs, 1)

    monkeypatch.setattr(ending, "join", lambda _place: Met())
    monkeypatch.setattr(boundary.Heard, "nothing", lambda _: None)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    ran = greg(*WORDS)
    said = [line for line in ran.err.splitlines() if line.startswith("greg: ")]
    assert (ran.code, len(said)) == (1, lines)
    assert said[-1] == f"greg: process 1: {theirs}"
    (file,) = reports.iterdir()
    assert "process 0 of 2\n" in file.read_text()
