"""Paths and a way to type commands, shared by all tests."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: one test process for each core, and threads only wait

import torch
from typer.testing import CliRunner

from greg_compress.cli import app

torch.set_flush_denormal(True)  # as the command line does, before the first parallel operation

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "sample_models" / "digits_resnet20.pt"
RESNET = ROOT / "sample_models" / "resnet_cifar.py"


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def error(self) -> str:
        """The one line that an error must be."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("greg: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().endswith(lines[0])
        return lines[0]


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a ResNet-20 of few channels that saw the digits: where training counts, and accuracy does not."""
    path = tmp_path_factory.mktemp("narrow") / "narrow.pt"
    words = ["--arch", f"{RESNET}:resnet20", "--arch-arg", "in_channels=1", "--arch-arg", "width=4", "--data", "digits"]
    done = CliRunner().invoke(app, ["train", *words, "--iterations", "30", "-o", str(path)], prog_name="greg")
    assert done.exit_code == 0, done.stderr
    return path


@pytest.fixture
def greg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Type a command in a fresh folder; in this process, since torch takes seconds to load."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Ran:
        done = CliRunner().invoke(app, [str(word) for word in words], prog_name="greg")
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return Ran(done.exit_code, done.stdout, done.stderr)

    return run


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "greg_compress", *map(str, words)]
