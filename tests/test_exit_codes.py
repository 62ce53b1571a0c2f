"""Each command with each exit code that it can have, in a process of its own, as a script sees it.

Most of what ends without a result needs no torch, which is proven on the way. What needs it is forked from a process
that has loaded it; `pytest -m slow` starts Python for that as well.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from greg_compress.cli import app
from tests import program
from tests.conftest import DIGITS, ROOT, Ran, command

CODES = (0, 1, 2, 3, 4, 128 + signal.SIGINT, 128 + signal.SIGTERM)
NETWORK = """
from torch import nn
class Nan(nn.Module):
    input_shape = (1, 8, 8)
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
    def forward(self, x): return self.fc(x.flatten(1)) * float("nan")
"""
RECIPE = '[values]\nratio = "0.5"\n[steps.layers]\ncommand = "analyze"\nmodel = "digits.pt"\nratios = "{ratio}"\n'
SHORT = "--data digits --batch-size 64 --precision fp32 --device cpu"
PHASE = f"{SHORT} --delta 0.1 --ceiling 0.1 --stabilize 1"
DEMO = str(ROOT / "sample_models" / "recipes" / "demo.toml")
NEVER = "-"
"""Instead of a command line: it writes nothing (1), has no check that could fail (3), or its inputs are shipped (4)."""
COMMANDS: dict[str, dict[int, str]] = {
    # command: what is typed after it for each code; for signals, what would take a while
    "train": {
        0: f"digits.pt {SHORT} --iterations 1 -o o.pt",
        1: f"digits.pt {SHORT} -o nowhere/o.pt",
        2: f"digits.pt {SHORT} --ratios 0.5 -o o.pt",
        3: NEVER,
        4: f"nowhere.pt {SHORT} -o o.pt",
        130: f"digits.pt {SHORT} --epochs 1000 -o o.pt",
    },
    "analyze": {
        0: "digits.pt --ratios 0.5",
        1: "digits.pt --ratios 0.5 --plan-out nowhere/p.json",
        2: "digits.pt --samples 9",
        3: "digits.pt --ratios 0.5 --align 512",
        4: "nowhere.pt",
        130: "torchvision:resnet152",
    },
    "regularize": {
        0: f"digits.pt {PHASE} --ratios 0.5 -o o.pt",
        1: f"digits.pt {PHASE} --ratios 0.5 -o nowhere/o.pt",
        2: f"digits.pt {PHASE} --ratios 1.5 -o o.pt",
        3: f"digits.pt {PHASE} --ratios 0.5 --align 512 -o o.pt",
        4: f"nowhere.pt {PHASE} --ratios 0.5 -o o.pt",
        130: f"digits.pt {SHORT} --ratios 0.5 -o o.pt",
    },
    "prune": {
        0: "digits.pt --ratios 0.5 -o o.pt",
        1: "digits.pt --ratios 0.5 -o nowhere/o.pt",
        2: "digits.pt --ratois 0.5 -o o.pt",
        3: "digits.pt --ratios 0 -o o.pt",
        4: "folder --ratios 0.5 -o o.pt",
        130: "torchvision:resnet152 --ratios 0.5 -o o.pt",
    },
    "finetune": {
        0: f"pruned.pt {SHORT} --iterations 1 -o o.pt",
        1: f"digits.pt {SHORT} -o nowhere/o.pt",
        2: f"digits.pt {SHORT} --epochs 1 --iterations 1 -o o.pt",
        3: NEVER,
        4: f"nowhere.pt {SHORT} -o o.pt",
        130: f"digits.pt {SHORT} -o o.pt",
    },
    "evaluate": {
        0: "digits.pt --data digits --device cpu",
        1: "nan.py:Nan --data digits --device cpu",
        2: "digits.pt --data digit",
        3: NEVER,
        4: "nowhere.pt --data digits",
        130: "digits.pt --data digits",
    },
    "export": {
        0: "digits.pt --runs 3 -o o.onnx",
        1: "digits.pt -o nowhere/o.onnx",
        2: "digits.pt --int8 --fp16 -o o.onnx",
        3: "digits.pt --runs 3 --tolerance 1e-30 -o o.onnx",
        4: "nowhere.pt -o o.onnx",
        130: "digits.pt --runs 100000 -o o.onnx",
    },
    "plot": {
        0: "digits.pt -o o.png",
        1: "digits.pt -o nowhere/o.png",
        2: "digits.pt -o o.jpg",
        3: NEVER,
        4: "nowhere.pt -o o.png",
        130: "digits.pt -o o.png",
    },
    "show": {
        0: "digits.pt",
        1: NEVER,
        2: "digits.pt --ratios 0.5",
        3: NEVER,
        4: "nowhere.pt",
        130: "digits.pt",
    },
    "report": {
        0: "digits.pt -o o.html",
        1: "digits.pt -o nowhere/o.html",
        2: "digits.pt -o o.pdf",
        3: NEVER,
        4: "nowhere.pt -o o.html",
        130: "digits.pt -o o.html",
    },
    "run": {
        0: "recipe.toml -o o",
        1: "recipe.toml -o /proc/o",
        2: "recipe.toml --set ration=1 -o o",
        3: "recipe.toml --set ratio=0 -o o",
        4: "nowhere.toml -o o",
        130: f"{DEMO} -o o",
    },
    "compress": {
        0: "digits.pt --data digits --ratios 0.5 --scale 0.1 --epochs 1 -o o.onnx",
        1: "digits.pt --data digits --ratios 0.5 -o nowhere/o.onnx",
        2: "digits.pt --data digits --ratios 2 -o o.onnx",
        3: "digits.pt --data digits --ratios 0.5 --align 512 -o o.onnx",
        4: "nowhere.pt --data digits --ratios 0.5 -o o.onnx",
        130: "digits.pt --data digits --ratios 0.5 -o o.onnx",
    },
    "demo": {
        0: "o",
        1: "/proc/o",
        2: "o --scale 3",
        3: NEVER,
        4: NEVER,
        130: "o",
    },
}
WITH_TORCH = {("evaluate", 1)} | {(name, code) for name in COMMANDS for code in (0, 3)}
ELSEWHERE = {("compress", 0), ("demo", 0), ("export", 0), ("export", 3)}
"""What takes longest; test_compress, test_recipes and test_cli have it, but not in a process from its beginning."""
CASES = [(name, code) for name, lines in COMMANDS.items() for code in (0, 1, 2, 3, 4) if lines[code] != NEVER]


@pytest.fixture
def folder(tmp_path: Path, pruned: Path) -> Path:
    """Where the commands are typed."""
    (tmp_path / "digits.pt").symlink_to(DIGITS)
    (tmp_path / "pruned.pt").symlink_to(pruned)
    (tmp_path / "resnet_cifar.py").symlink_to(ROOT / "sample_models" / "resnet_cifar.py")
    (tmp_path / "nan.py").write_text(NETWORK)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pruned")
    assert program.greg(made, "prune", DIGITS, "--ratios", "0.5", "-o", "pruned.pt").code == 0
    return made / "pruned.pt"


def started(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    pipe: Any = subprocess.PIPE
    return subprocess.Popen(
        command(*words), cwd=folder, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment}
    )


def ended(running: subprocess.Popen[str]) -> Ran:
    out, err = running.communicate(timeout=300)
    return Ran(running.returncode, out, err)


def listens(process: int) -> bool:
    """Whether a process hears SIGTERM yet; before that it is Python that starts, not greg."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) & 1 << (signal.SIGTERM - 1))


def checked(ran: Ran, code: int, folder: Path, before: set[Path]) -> None:
    assert ran.code == code, ran.err
    if code != 0:
        assert ran.error()
        assert ran.out == ""
        left = set(folder.rglob("*")) - before
        assert not {path for path in left if path.suffix in (".pt", ".onnx", ".png")}


def test_every_command_has_its_row() -> None:
    """A new command comes with a line for each of its exit codes."""
    group: Any = get_command(app)
    assert sorted(group.commands) == sorted(COMMANDS)
    for name, lines in COMMANDS.items():
        assert {*lines, 143} == set(CODES), name  # SIGTERM meets the same line as SIGINT


@pytest.mark.parametrize(("name", "code"), [case for case in CASES if case not in WITH_TORCH])
def test_without_torch(folder: Path, name: str, code: int) -> None:
    before = set(folder.rglob("*"))
    ran = ended(started(folder, name, *shlex.split(COMMANDS[name][code]), PYTHONPROFILEIMPORTTIME="1"))
    imports, said = [], []
    for line in ran.err.splitlines():
        (imports if line.startswith("import time:") else said).append(line)
    checked(Ran(ran.code, ran.out, "\n".join(said)), code, folder, before)
    assert any(re.search(r"\| +greg_compress\.errors$", line) for line in imports)
    assert not [line for line in imports if re.search(r"\| +(torch|onnx|onnxruntime|matplotlib|jinja2)$", line)]


@pytest.mark.parametrize(("name", "code"), [case for case in CASES if case in WITH_TORCH - ELSEWHERE])
def test_with_torch(folder: Path, name: str, code: int) -> None:
    before = set(folder.rglob("*"))
    checked(program.greg(folder, name, *shlex.split(COMMANDS[name][code])), code, folder, before)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [case for case in CASES if case in WITH_TORCH])
def test_with_torch_from_the_beginning(folder: Path, name: str, code: int) -> None:
    before = set(folder.rglob("*"))
    checked(ended(started(folder, name, *shlex.split(COMMANDS[name][code]))), code, folder, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", COMMANDS)
def test_interrupted(folder: Path, name: str, number: int) -> None:
    """As soon as the command line listens, while torch is still being loaded."""
    before = set(folder.rglob("*"))
    running = started(folder, name, *shlex.split(COMMANDS[name][130]))
    while running.poll() is None and not listens(running.pid):
        time.sleep(0.005)
    running.send_signal(number)
    ran = ended(running)
    checked(ran, 128 + number, folder, before)
    assert "greg: interrupted" in ran.err
