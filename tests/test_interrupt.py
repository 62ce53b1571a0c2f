"""Ctrl-C and SIGTERM at any moment: no OUT, the work saved, and the resumed result bit for bit the same."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from greg_compress.processes.stops import stops
from tests import program
from tests.conftest import DIGITS, ROOT
from tests.test_training import assert_same

DENSE, SMALL = "dense.pt", "small.pt"
TRAIN = ("train", DENSE, "--data", "digits", "--batch-size", "64", "--save-every", "7", "--precision", "fp32")
REGULARIZE = ("regularize", DENSE, "--ratios", "0.5", "--data", "digits", "--batch-size", "64", "--precision", "fp32",
              "--ceiling", "1", "--delta", "0.02", "--stabilize", "15", "--save-every", "7")  # fmt: skip


GREG_2 = (*REGULARIZE, "--method", "greg-2", "--pick-ceiling", "0.01", "--pick-delta", "0.001")
SCALED = (*REGULARIZE[:6], "--batch-size", "64", "--precision", "fp32", "--save-every", "7", "--scale", "0.1")
TAUGHT = ("finetune", SMALL, *TRAIN[2:], "--iterations", "60", "--teacher", DENSE)


@pytest.fixture(scope="session")
def small(narrow: Path) -> Path:
    """The same, pruned."""
    finish(narrow.parent, "prune", narrow, "--ratios", "0.5", "-o", SMALL)
    return narrow.parent / SMALL


@pytest.fixture
def states(narrow: Path, small: Path, tmp_path: Path) -> None:
    """Both where commands are typed."""
    shutil.copy(narrow, tmp_path / DENSE)
    shutil.copy(small, tmp_path / SMALL)


def interrupt(folder: Path, number: int, *words: object, after: float | str) -> tuple[int, str]:
    """Send a signal after some seconds, or once a text was printed on stderr."""
    running = program.start(folder, *words)
    if isinstance(after, str):
        running.wait_for(after)
    else:
        running.process.join(after)
    running.signal(number)
    ran = running.finish()
    return ran.code, ran.err


def finish(folder: Path, *words: object) -> None:
    ran = program.greg(folder, *words)
    assert ran.code == 0, ran.err


def tensors_and_figures(path: Path) -> Any:
    data = torch.load(path, weights_only=True)
    for entry in data["history"]:
        entry.pop("clock")
    return data


@pytest.mark.usefixtures("states")
@pytest.mark.parametrize(
    ("words", "number", "after"),
    [
        ((*TRAIN, "--iterations", "60"), signal.SIGINT, "training 1/"),
        ((*TRAIN, "--iterations", "60"), signal.SIGTERM, "top-1 before"),
        (REGULARIZE, signal.SIGINT, "pushing 1/"),
        (SCALED, signal.SIGINT, "pushing 1/"),
        (GREG_2, signal.SIGINT, "growing 1/"),
        (GREG_2, signal.SIGTERM, "picked 42 units"),
        (TAUGHT, signal.SIGHUP, "training 1/"),
    ],
    ids=["train", "terminated", "regularize", "scaled", "growing", "picked", "taught"],
)
def test_a_run_goes_on_as_if_never_stopped(tmp_path: Path, words: tuple[object, ...], number: int, after: str) -> None:
    finish(tmp_path, *words, "-o", "straight.pt")
    code, err = interrupt(tmp_path, number, *words, "-o", "stopped.pt", after=after)
    assert code == 128 + number
    assert err.splitlines()[-1].startswith("greg: interrupted; repeat the command with --resume")
    assert "Traceback" not in err
    partial = tmp_path / "stopped.pt.partial"
    assert partial.exists()
    assert not (tmp_path / "stopped.pt").exists()
    finish(tmp_path, *words, "-o", "stopped.pt", "--resume")
    assert not partial.exists()
    assert_same(tensors_and_figures(tmp_path / "straight.pt"), tensors_and_figures(tmp_path / "stopped.pt"))
    before = (tmp_path / "stopped.pt").stat().st_mtime_ns
    finish(tmp_path, *words, "-o", "stopped.pt", "--resume")  # finished already
    assert (tmp_path / "stopped.pt").stat().st_mtime_ns == before


def test_what_nohup_ignores_stays_ignored() -> None:
    assert stops() == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stops() == [signal.SIGINT, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("states")
def test_a_killed_run_goes_on_from_its_last_save(tmp_path: Path) -> None:
    words = (*TRAIN, "--iterations", "40")
    finish(tmp_path, *words, "-o", "straight.pt")
    running = program.start(tmp_path, *words, "-o", "killed.pt")
    running.wait_for("never", tmp_path / "killed.pt.partial")
    running.signal(signal.SIGKILL)
    assert running.finish().code == -signal.SIGKILL
    finish(tmp_path, *words, "-o", "killed.pt", "--resume")
    assert_same(tensors_and_figures(tmp_path / "straight.pt"), tensors_and_figures(tmp_path / "killed.pt"))


@pytest.mark.usefixtures("states")
def test_unfinished_work_is_not_lost_by_other_commands(tmp_path: Path) -> None:
    words = (*TRAIN, "--iterations", "60")
    interrupt(tmp_path, signal.SIGINT, *words, "-o", "o.pt", after="training 1/")
    partial = (tmp_path / "o.pt.partial").read_bytes()
    for changed, code, said in (
        (words, 2, "holds unfinished work; add --resume"),
        ((*words, "--lr", "0.3", "--resume"), 2, "other options (lr 0.1)"),
        (("regularize", DENSE, "--ratios", "0.5", "--data", "digits", "--resume"), 2, "begun by greg train"),
    ):
        ran = program.greg(tmp_path, *changed, "-o", "o.pt")
        assert ran.code == code
        assert said in ran.error()
        assert (tmp_path / "o.pt.partial").read_bytes() == partial
    ran = program.greg(tmp_path, "prune", "o.pt.partial", "--ratios", "0.5", "-o", "p.pt")
    assert "unfinished work; repeat the command" in ran.error()
    assert ran.code == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.1, 0.6, 1.5])
@pytest.mark.parametrize(
    "words",
    [
        ("prune", "torchvision:resnet50", "--ratios", "0.5", "-o", "o.pt"),
        ("export", DIGITS, "--runs", "100000", "-o", "o.onnx"),
    ],
    ids=["prune", "export"],
)
def test_other_commands_leave_nothing(tmp_path: Path, words: tuple[object, ...], number: int, after: float) -> None:
    code, err = interrupt(tmp_path, number, *words, after=after)
    assert code == 128 + number
    assert err.splitlines()[-1].startswith("greg: interrupted")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_a_destructor_swallows_is_not_lost(tmp_path: Path) -> None:
    script = (
        "import os, signal, time\n"
        "class Late:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0.2)\n"
        "def make():\n"
        "    Late()\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "net.py").write_text(script)
    ran = program.greg(tmp_path, "analyze", "net.py:make", "--input-shape", "1,8,8")
    assert ran.code == 128 + signal.SIGTERM
    assert ran.err.splitlines()[-1] == "greg: interrupted"


def test_an_interruption_while_python_still_imports_says_nothing() -> None:
    script = (
        "import greg_compress.__main__, os, signal\n"  # what both ways to start the program import first
        "os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["_threads_watched", "place"], ids=["before", "after"])
def test_a_signal_around_the_command_is_an_interruption_too(number: int, moment: str) -> None:
    script = (
        "import os, signal, sys\n"
        "from greg_compress.cli import app, boundary\n"
        f"real = boundary.{moment}\n"
        "def struck():\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    return real()\n"
        f"boundary.{moment} = struck\n"
        "app(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + number, "greg: interrupted\n")


@pytest.mark.usefixtures("states")
def test_a_result_that_cannot_be_written_stays_in_the_partial(tmp_path: Path) -> None:
    """A file appears at OUT during the run: it is left alone, and so is the work."""
    words = (*TRAIN, "--iterations", "30")
    running = program.start(tmp_path, *words, "-o", "o.pt")
    running.wait_for("top-1 before")
    (tmp_path / "o.pt").write_text("mine")
    ran = running.finish()
    assert ran.code == 2
    assert "has appeared meanwhile and was left alone" in ran.error()
    assert (tmp_path / "o.pt").read_text() == "mine"
    (tmp_path / "o.pt").unlink()
    finish(tmp_path, *words, "-o", "o.pt", "--resume")
    finish(tmp_path, *words, "-o", "straight.pt")
    assert_same(tensors_and_figures(tmp_path / "straight.pt"), tensors_and_figures(tmp_path / "o.pt"))
