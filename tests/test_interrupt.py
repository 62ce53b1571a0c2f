"""Ctrl-C and SIGTERM at any moment: no OUT, the work saved, and the resumed result bit for bit the same."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import DIGITS, command
from tests.test_training import assert_same

TRAIN = ("train", DIGITS, "--data", "digits", "--batch-size", "64", "--save-every", "7", "--precision", "fp32")
REGULARIZE = ("regularize", DIGITS, "--ratios", "0.5", "--data", "digits", "--batch-size", "64", "--precision", "fp32",
              "--ceiling", "1", "--delta", "0.02", "--stabilize", "15", "--save-every", "7")  # fmt: skip


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command(*words), cwd=folder, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def interrupt(folder: Path, number: int, *words: object, after: float | str) -> tuple[int, str]:
    """Send a signal after some seconds, or once a text was printed on stderr."""
    process = start(folder, *words)
    assert process.stderr is not None
    seen = ""
    if isinstance(after, str):
        while after not in seen and (line := process.stderr.readline()):
            seen += line
    else:
        time.sleep(after)
    process.send_signal(number)
    _, rest = process.communicate(timeout=120)
    return process.returncode, seen + rest


def finish(folder: Path, *words: object) -> None:
    process = start(folder, *words)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err


def tensors_and_figures(path: Path) -> Any:
    data = torch.load(path, weights_only=True)
    for entry in data["history"]:
        entry.pop("clock")
    return data


@pytest.mark.parametrize(
    ("words", "number", "after"),
    [
        ((*TRAIN, "--iterations", "60"), signal.SIGINT, "training 1/"),
        ((*TRAIN, "--iterations", "60"), signal.SIGTERM, "top-1 before"),
        (REGULARIZE, signal.SIGINT, "pushing 1/"),
    ],
    ids=["train", "terminated", "regularize"],
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


def test_a_killed_run_goes_on_from_its_last_save(tmp_path: Path) -> None:
    words = (*TRAIN, "--iterations", "40")
    finish(tmp_path, *words, "-o", "straight.pt")
    process = start(tmp_path, *words, "-o", "killed.pt")
    while not (tmp_path / "killed.pt.partial").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finish(tmp_path, *words, "-o", "killed.pt", "--resume")
    assert_same(tensors_and_figures(tmp_path / "straight.pt"), tensors_and_figures(tmp_path / "killed.pt"))


def test_unfinished_work_is_not_lost_by_other_commands(tmp_path: Path) -> None:
    words = (*TRAIN, "--iterations", "60")
    interrupt(tmp_path, signal.SIGINT, *words, "-o", "o.pt", after="training 1/")
    partial = (tmp_path / "o.pt.partial").read_bytes()
    for changed, code, said in (
        (words, 2, "holds unfinished work; add --resume"),
        ((*words, "--lr", "0.3", "--resume"), 2, "other options (lr 0.1)"),
        (("regularize", DIGITS, "--ratios", "0.5", "--data", "digits", "--resume"), 2, "begun by greg train"),
    ):
        process = start(tmp_path, *changed, "-o", "o.pt")
        _, err = process.communicate(timeout=120)
        assert process.returncode == code
        assert said in err.splitlines()[-1]
        assert (tmp_path / "o.pt.partial").read_bytes() == partial
    process = start(tmp_path, "prune", "o.pt.partial", "--ratios", "0.5", "-o", "p.pt")
    assert "unfinished work; repeat the command" in process.communicate()[1]
    assert process.returncode == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.3, 1.5, 3.0])
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


def test_a_result_that_cannot_be_written_stays_in_the_partial(tmp_path: Path) -> None:
    """A file appears at OUT during the run: it is left alone, and so is the work."""
    words = (*TRAIN, "--iterations", "30")
    process = start(tmp_path, *words, "-o", "o.pt")
    assert process.stderr is not None
    while "top-1 before" not in (line := process.stderr.readline()):
        assert line
    (tmp_path / "o.pt").write_text("mine")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "has appeared meanwhile and was left alone" in err.splitlines()[-1]
    assert (tmp_path / "o.pt").read_text() == "mine"
    (tmp_path / "o.pt").unlink()
    finish(tmp_path, *words, "-o", "o.pt", "--resume")
    finish(tmp_path, *words, "-o", "straight.pt")
    assert_same(tensors_and_figures(tmp_path / "straight.pt"), tensors_and_figures(tmp_path / "o.pt"))
