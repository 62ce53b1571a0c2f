"""Killed at any moment, out of disk, without power: a run goes on from a whole position, or says why it cannot."""

from __future__ import annotations

import copy
import hashlib
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from greg_compress import whole_files
from greg_compress.errors import GregError
from greg_compress.long_run import room
from greg_compress.long_run.saver import Saver, copied, is_finite
from greg_compress.options.network import Output
from greg_compress.sources.specs import Architecture
from greg_compress.state import files
from greg_compress.state.format import State
from greg_compress.state.models import weights_of
from tests import program
from tests.conftest import DIGITS, ROOT, command
from tests.test_interrupt import finish, interrupt, tensors_and_figures
from tests.test_training import assert_same

CODE = """
import torch
from torch import nn
from torch.utils.data import Dataset
class Net(nn.Module):
    input_shape = (1, 8, 8)
    def __init__(self):
        super().__init__()
        self.a, self.bn, self.b = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(6, 10)
    def forward(self, x):
        return self.fc(self.drop(self.b(self.bn(self.a(x)).relu()).relu().mean((2, 3))))
class Images(Dataset):
    classes = range(10)
    def __init__(self, count):
        self.count = count
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(index))
        return image + torch.rand(()) / 9, index % 10  # augmented: training draws anew in every epoch
def images():
    return Images(200), Images(20)
"""
DATA = ("--data", "code.py:images", "--batch-size", "8", "--precision", "fp32", "--device", "cpu")
GREG_2 = ("regularize", "dense.pt", *DATA, "--method", "greg-2", "--ratios", "0.5", "--lr", "0.01",
          "--pick-ceiling", "0.01", "--pick-delta", "0.00016", "--ceiling", "1", "--delta", "0.0165",
          "--val-fraction", "0.1", "--save-every", "5")  # fmt: skip
STABILIZE = ("--stabilize", "61")
WORKERS, NO_WORKERS = ("--workers", "2"), ("--workers", "0")
PARTS = ("growing", "pushing", "stabilizing")
LENGTH = 184
"""Iterations: 63 until it picks, 60 of pushing, 61 of stabilizing, in epochs of 22."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense network, and what an undisturbed run makes of it."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "code.py").write_text(CODE)
    finish(folder, "train", "--arch", "code.py:Net", *DATA, *NO_WORKERS, "--iterations", "2", "-o", "dense.pt")
    finish(folder, *GREG_2, *STABILIZE, *WORKERS, "-o", "straight.pt")
    log = torch.load(folder / "straight.pt", weights_only=True)["history"][-1]["metrics"]["log"]
    assert [log[0]["iteration"], log[-1]["iteration"]] == [22, LENGTH]
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    """A copy, for outputs of one's own."""
    for name in ("code.py", "dense.pt", "straight.pt"):
        shutil.copy(begun / name, tmp_path)
    return tmp_path


def same(folder: Path, one: str, other: str) -> None:
    assert_same(tensors_and_figures(folder / one), tensors_and_figures(folder / other))


def position(partial: Path) -> tuple[int, str]:
    """Iteration and part of a run, from what is on the disk at this moment."""
    if not partial.exists():
        return 0, PARTS[0]
    state, _ = files.load(partial)
    assert state.run is not None
    loop = state.run["loop"]
    found = loop["regularizer"]
    part = "growing" if found["picks"] is None else "pushing" if found["stabilizing_since"] is None else "stabilizing"
    return loop["iteration"], part


def killed(folder: Path, out: str, after: int, wait: float, group: bool) -> str | None:
    """Go on until a position after some iteration is on the disk, and kill a little later; the part it was in."""
    partial = folder / f"{out}.partial"
    running = program.start(folder, *GREG_2, *STABILIZE, *WORKERS, "-o", out, "--resume")
    seen = 0.0
    while running.process.is_alive():
        assert time.monotonic() - running.started < 120
        now = partial.stat().st_mtime if partial.exists() else 0.0
        if now != seen and position(partial)[0] >= after:
            break
        seen = now
        time.sleep(0.002)
    time.sleep(wait)
    (running.signal_group if group else running.signal)(signal.SIGKILL)
    if running.finish().code == 0:
        return None
    assert not (folder / out).exists()
    return position(partial)[1]


def finished_in_spite_of(folder: Path, seed: int, kills: int) -> list[str | None]:
    """The parts in which a run was killed, again and again, until it was allowed to finish."""
    draw = random.Random(seed)
    moments = sorted(draw.randrange(LENGTH - 25) for _ in range(kills))
    out = f"killed-{seed}.pt"
    parts = [killed(folder, out, moment, draw.random() * 0.1, draw.random() < 0.5) for moment in moments]
    finish(folder, *GREG_2, *STABILIZE, *WORKERS, "-o", out, "--resume")
    same(folder, "straight.pt", out)
    assert list(folder.glob(f".{out}*")) == []
    return parts


def test_killed_at_any_moment(folder: Path) -> None:
    """SIGKILL, to the program alone or to its workers as well."""
    parts = finished_in_spite_of(folder, seed=5, kills=8)
    assert len(parts) == 8
    assert set(parts) == set(PARTS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_killed_a_hundred_times(folder: Path, seed: int) -> None:
    parts = finished_in_spite_of(folder, seed, kills=10)
    assert parts.count(None) == 0


@pytest.fixture(scope="module")
def halfway(begun: Path) -> dict[str, Any]:
    """The content of an OUT.partial with picks, in the middle of an epoch."""
    running = program.start(begun, *GREG_2, *STABILIZE, *WORKERS, "-o", "half.pt", "--save-every", "160")
    running.wait_for("never", begun / "half.pt.partial")
    running.signal(signal.SIGKILL)
    running.finish()
    return torch.load(begun / "half.pt.partial", weights_only=True)


def change_picks(run: dict[str, Any]) -> None:
    for group in run["loop"]["regularizer"]["picks"].values():
        group["removed"] = [(unit + 1) % group["channels"] for unit in group["removed"]]


FORGOTTEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda run: None,
    "momentum": lambda run: [s["momentum_buffer"].zero_() for s in run["loop"]["optimizer"]["state"].values()],
    "position": lambda run: run["loop"].update(iteration=run["loop"]["iteration"] + 1),
    "figures of the epoch": lambda run: run["loop"]["epoch"].zero_(),
    "log": lambda run: run["loop"].update(log=[]),
    "picks": change_picks,
    "norms": lambda run: run["loop"]["regularizer"].update(witness=None),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_the_comparison_sees_what_a_save_forgets(folder: Path, halfway: dict[str, Any], what: str) -> None:
    saved = copy.deepcopy(halfway)
    FORGOTTEN[what](saved["run"])
    torch.save(saved, folder / "o.pt.partial")
    finish(folder, *GREG_2, *STABILIZE, *NO_WORKERS, "-o", "o.pt", "--resume")
    if what == "nothing":
        same(folder, "straight.pt", "o.pt")
    else:
        with pytest.raises(AssertionError):
            same(folder, "straight.pt", "o.pt")


def test_a_save_that_fails_in_the_middle(folder: Path, halfway: dict[str, Any]) -> None:
    """A limit on the size of files stands for a disk that fills up: the work from before it stays."""
    partial = folder / "o.pt.partial"
    torch.save(halfway, partial)
    before = partial.read_bytes()
    words = (*GREG_2, *STABILIZE, *NO_WORKERS, "-o", "o.pt", "--resume")
    ran = program.greg(folder, *words, most_bytes=len(before) // 2)
    assert (ran.code, ran.out) == (1, "")
    assert "o.pt.partial could not be written (File too large); the older file stays" in ran.error()
    assert ran.error().endswith("o.pt.partial holds the last good state")
    assert partial.read_bytes() == before
    assert list(folder.glob(".*")) == []
    finish(folder, *words)
    same(folder, "straight.pt", "o.pt")


def die(*_: object, **__: object) -> None:
    os._exit(9)


def half_written(path: Path, content: memoryview) -> None:
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])
    die()


def after(function: Callable[..., Any], times: int) -> Callable[..., Any]:
    """The function so many times, and then the end."""
    left = [times]

    def call(*args: Any, **kwargs: Any) -> Any:
        if not left[0]:
            die()
        left[0] -= 1
        return function(*args, **kwargs)

    return call


MOMENTS: dict[str, Callable[[], Any]] = {
    "nothing written": lambda: setattr(Path, "write_bytes", die),
    "half written": lambda: setattr(Path, "write_bytes", half_written),
    "not flushed": lambda: setattr(os, "fsync", die),
    "not renamed": lambda: [setattr(os, "replace", die), setattr(Path, "hardlink_to", die)],
    "folder not flushed": lambda: setattr(os, "fsync", after(os.fsync, 1)),
    "not cleaned up": lambda: setattr(Path, "unlink", die),
}


def write_and_die(path: str, moment: str, replace: bool) -> None:
    state, _ = files.load(DIGITS)
    state.data = "new"
    MOMENTS[moment]()
    files.save(state, Path(path), replace=replace)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("name", "exists"), [("o.pt", False), ("o.pt.partial", True)])
def test_a_power_cut_leaves_the_old_file_or_the_new(tmp_path: Path, moment: str, name: str, exists: bool) -> None:
    """A process that ends there and then stands for it; what lies in the folder afterwards is all that is left."""
    target = tmp_path / name
    if exists:
        shutil.copy(DIGITS, target)
    process = program.context.Process(target=write_and_die, args=(str(target), moment, exists))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    if moment in ("folder not flushed", "not cleaned up"):
        assert files.load(target)[0].data == "new"
    elif exists:
        assert target.read_bytes() == DIGITS.read_bytes()
    else:
        assert not target.exists()
    replaced = exists and moment in ("folder not flushed", "not cleaned up")
    assert len(list(tmp_path.glob(f".{name}.*.tmp"))) == (0 if replaced else 1)
    with whole_files.claimed(Output(tmp_path / "o.pt")):
        assert [path.name for path in tmp_path.glob(".*")] == [".o.pt.lock"]


def test_the_next_command_cleans_up(tmp_path: Path) -> None:
    (tmp_path / ".o.pt.01234567.tmp").write_bytes(DIGITS.read_bytes()[:1000])  # as a write that was cut off leaves it
    (tmp_path / ".o.pt.partial.01234567.tmp").touch()
    finish(tmp_path, "prune", DIGITS, "--ratios", "0.5", "-o", "o.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["o.pt"]


def test_nothing_else_is_swept_away(tmp_path: Path) -> None:
    """Only what a killed run left of this very output, and no link to anything."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    ours = [".o.pt.0123abcd.tmp", ".o.pt.partial.fedcba98.tmp"]
    others = [".oxpt.0123abcd.tmp", ".o.pt.0123abcd.tmp2", ".o.pt.0123ABCD.tmp", ".o.pt.0123abc.tmp",
              "o.pt.0123abcd.tmp", ".p.pt.0123abcd.tmp", ".o.pt.partial.partial.0123abcd.tmp", ".o.pt.tmp"]  # fmt: skip
    for name in (*ours, *others):
        (tmp_path / name).write_text("x")
    (tmp_path / ".o.pt.11111111.tmp").symlink_to(elsewhere)
    (tmp_path / ".o.pt.22222222.tmp").mkdir()
    with whole_files.claimed(Output(tmp_path / "o.pt")):
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {*others, "elsewhere", ".o.pt.11111111.tmp", ".o.pt.22222222.tmp", ".o.pt.lock"}
    assert elsewhere.read_text() == "mine"


@pytest.mark.parametrize("call", [1, 2])
def test_a_disk_that_fails_to_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """The file, and then its folder."""
    calls = iter(range(1, 9))

    def fsync(_: int) -> None:
        if next(calls) == call:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    said = "could not be written" if call == 1 else "may not survive a power cut"
    with pytest.raises(GregError, match=said), whole_files.written_whole(tmp_path / "o", replace=False):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["o"] * (call == 2)


def small_state(value: float = 0.0) -> State:
    run = {"momentum": torch.full((3,), value), "log": [{"loss": value}]}
    return State("dense", Architecture("x.py:y"), ((1, 8, 8),), {"w": torch.full((3,), value)}, run=run)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Writes wait until it is set."""
    opened, save = threading.Event(), files.save

    def late(*args: Any, **kwargs: Any) -> None:
        assert opened.wait(60)
        save(*args, **kwargs)

    monkeypatch.setattr(files, "save", late)
    yield opened
    opened.set()


def test_what_is_written_is_what_was_there_when_it_was_saved(tmp_path: Path, gate: threading.Event) -> None:
    state = small_state()
    with Saver(tmp_path / "o") as saver:
        saver.save(state)
        state.run["momentum"].fill_(7)  # type: ignore[index]
        state.run["log"].append({"loss": 7.0})  # type: ignore[index]
        assert not (tmp_path / "o").exists()
        gate.set()
        saver.wait()
    run = torch.load(tmp_path / "o", weights_only=True)["run"]
    assert_same(run, {"momentum": torch.zeros(3), "log": [{"loss": 0.0}]})


def test_one_write_at_a_time_and_none_after_the_end(tmp_path: Path, gate: threading.Event) -> None:
    with Saver(tmp_path / "o") as saver:
        saver.save(small_state(1))
        threading.Timer(0.2, gate.set).start()
        saver.save(small_state(2))  # waits for the first
        assert gate.is_set()
        assert torch.load(tmp_path / "o", weights_only=True)["weights"]["w"][0] in (1, 2)
    before = (tmp_path / "o").stat()
    assert torch.load(tmp_path / "o", weights_only=True)["weights"]["w"][0] == 2
    time.sleep(0.1)
    assert (tmp_path / "o").stat() == before


def test_a_failed_write_is_told_at_the_next_save_and_at_the_end(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "nowhere" / "o")
    for tell in (lambda: saver.save(small_state()), saver.wait, lambda: saver.save_now(small_state())):
        saver.save(small_state())
        with pytest.raises(GregError, match="nowhere/o cannot be written"):
            tell()
    assert saver.settle() is None


def test_copies_share_no_memory_and_keep_their_strides() -> None:
    conv = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    pointwise = nn.Conv2d(8, 8, 1).to(memory_format=torch.channels_last)
    model = nn.Sequential(conv, pointwise, nn.BatchNorm2d(8))
    before = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert {t.data_ptr() for t in weights_of(model).values()} & before  # without a copy some do
    own = weights_of(model, copies=True)
    assert not {tensor.data_ptr() for tensor in own.values()} & before
    assert_same(own, dict(model.state_dict()))
    again = copied({"a": [conv.weight]})["a"][0]
    assert again.stride() == conv.weight.stride()
    assert again.data_ptr() != conv.weight.data_ptr()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_finite(bad: float) -> None:
    assert is_finite(torch.full((9,), 60_000.0, dtype=torch.float16))  # the sum is not
    assert is_finite(torch.tensor(3))
    assert is_finite(torch.empty(0))
    assert not is_finite(torch.tensor([1.0, bad, 2.0]))
    assert not is_finite(torch.tensor([bad, -bad]))


GROWING: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str]] = {
    # words, the smaller limit, the larger limit, and when to stop
    "stabilize": (GREG_2, ("--stabilize", "40"), STABILIZE, "pushing"),
    "stabilizing": (GREG_2, ("--stabilize", "40"), STABILIZE, "stabilizing"),
    "iterations": (("train", "dense.pt", *DATA, "--decay", "constant", "--warmup", "5", "--save-every", "7"),
                   ("--iterations", "30"), ("--iterations", "60"), "training"),
    "epochs": (("train", "dense.pt", *DATA, "--decay", "constant", "--warmup", "0", "--save-every", "7"),
               ("--epochs", "1.3"), ("--epochs", "2.1"), "training"),
}  # fmt: skip


def saved_in(partial: Path, part: str) -> bool:
    return partial.exists() and (part == "training" or position(partial)[1] == part)


@pytest.mark.parametrize("name", GROWING)
def test_a_limit_may_grow(folder: Path, name: str) -> None:
    words, less, more, part = GROWING[name]
    partial = folder / "o.pt.partial"
    running = program.start(folder, *words, *less, *WORKERS, "-o", "o.pt")
    while running.process.is_alive() and not saved_in(partial, part):
        time.sleep(0.002)
    running.signal(signal.SIGKILL)
    running.finish()
    assert saved_in(partial, part)
    fewer = str(float(less[1]) - 1) if name == "epochs" else str(int(less[1]) - 1)
    before = partial.read_bytes()
    ran = program.greg(folder, *words, less[0], fewer, *WORKERS, "-o", "o.pt", "--resume")
    assert ran.code == 2
    assert f"was begun with {less[0]} {less[1]}, which may only grow" in ran.error()
    assert partial.read_bytes() == before
    finish(folder, *words, *more, *NO_WORKERS, "-o", "o.pt", "--resume")
    finish(folder, *words, *more, *NO_WORKERS, "-o", "whole.pt")
    same(folder, "whole.pt", "o.pt")


def test_a_limit_grows_from_the_very_end_of_a_run(folder: Path) -> None:
    """OUT could not be written: the run stands at its end, within an epoch whose figures it has logged."""
    words = ("train", "dense.pt", *DATA, *NO_WORKERS, "--decay", "constant", "--warmup", "0", "--val-fraction", "0.1")
    running = program.start(folder, *words, "--iterations", "30", "-o", "o.pt")
    running.wait_for("top-1 before")
    (folder / "o.pt").touch()
    assert running.finish().code == 2
    (folder / "o.pt").unlink()
    run = torch.load(folder / "o.pt.partial", weights_only=True)["run"]
    assert [record["iteration"] for record in run["loop"]["log"]] == [22, 30]
    finish(folder, *words, "--iterations", "50", "-o", "o.pt", "--resume")
    finish(folder, *words, "--iterations", "50", "-o", "whole.pt")
    same(folder, "whole.pt", "o.pt")


@pytest.mark.parametrize("more", [(), ("--decay", "constant"), ("--warmup", "3")])
def test_a_length_that_decides_the_rates_may_not_grow(folder: Path, more: tuple[str, ...]) -> None:
    words = ("train", "dense.pt", *DATA, *NO_WORKERS, *more, "-o", "o.pt")
    interrupt(folder, signal.SIGINT, *words, "--iterations", "3000", after="top-1 before")
    ran = program.greg(folder, *words, "--iterations", "3001", "--resume")
    assert ran.code == 2
    assert "begun with other options (iterations 3000)" in ran.error()


def test_another_file_py_under_the_same_name(tmp_path: Path) -> None:
    """Its tensors have the same shapes, so that nothing else would notice."""
    source = (ROOT / "sample_models" / "resnet_cifar.py").read_text()
    (tmp_path / "net.py").write_text(source)
    words = ("train", "--arch", "net.py:resnet20", "--arch-arg", "in_channels=1", "--data", "digits", "--batch-size",
             "64", "--iterations", "3000", "-o", "o.pt")  # fmt: skip
    running = program.start(tmp_path, *words)
    running.wait_for("training 1/")
    (tmp_path / "net.py").write_text(source + "\n# another\n")  # before anything was saved
    running.signal(signal.SIGINT)
    assert running.finish().code == 130
    ran = program.greg(tmp_path, *words, "--resume")
    assert ran.code == 2
    assert "net.py is another file (SHA-256" in ran.error()


def test_another_network_under_the_same_name(folder: Path, halfway: dict[str, Any]) -> None:
    torch.save(halfway, folder / "o.pt.partial")
    words = (*GREG_2, *STABILIZE, *NO_WORKERS, "-o", "o.pt", "--resume")
    old = (folder / "dense.pt").read_bytes()
    finish(folder, "train", "dense.pt", *DATA, *NO_WORKERS, "--iterations", "1", "-o", "dense.pt", "--force")
    ran = program.greg(folder, *words)
    assert (ran.code, ran.out) == (2, "")
    digests = [hashlib.sha256(found).hexdigest()[:12] for found in ((folder / "dense.pt").read_bytes(), old)]
    assert (
        f"dense.pt is another file (SHA-256 {digests[0]}) than o.pt.partial was begun with ({digests[1]})"
        in ran.error()
    )
    assert not (folder / "o.pt").exists()
    (folder / "dense.pt").write_bytes(old)
    finish(folder, *words)
    same(folder, "straight.pt", "o.pt")


@dataclass
class Stepped:
    """A network after one step of SGD, and the state that a run of it would save."""

    model: nn.Module
    state: State


@pytest.fixture(scope="module", params=["resnet18", "mobilenet_v2", "squeezenet1_0"])
def stepped(request: pytest.FixtureRequest) -> Stepped:
    torch.manual_seed(0)
    model = torchvision.models.get_model(request.param)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(p.square().sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    groups = {f"layer{i}": {"channels": 512, "kept": 256, "removed": list(range(256))} for i in range(40)}
    log = [{"epoch": i, "iteration": i, "loss": 1.0, "top1": 2.0, "lr": 0.1, "val_top1": 50.0} for i in range(100)]
    run = {"loop": {"optimizer": optimizer.state_dict(), "log": log, "regularizer": {"picks": groups}}}
    architecture = Architecture(f"torchvision:{request.param}")
    return Stepped(model, State("dense", architecture, ((3, 224, 224),), weights_of(model), plan=groups, run=run))


def test_the_size_of_a_partial_is_known_before(stepped: Stepped, tmp_path: Path) -> None:
    partial = tmp_path / "o.pt.partial"
    files.save(stepped.state, partial, replace=False)
    real = partial.stat().st_size
    assert real <= room.partial_bytes(stepped.model, True, stepped.state) <= 1.05 * real


@pytest.mark.parametrize("short", [0, 1])
@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("there", [0, 1000])
def test_room_for_two(
    stepped: Stepped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: int, replaced: bool, there: int
) -> None:
    partial = tmp_path / "o.pt.partial"
    if there:
        partial.write_bytes(b"x" * there)
    size = room.partial_bytes(stepped.model, True, stepped.state)
    free = size * (1 + replaced) - there - short
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    if not short:
        room.require_room(partial, stepped.model, True, stepped.state, replaced)
        return
    with pytest.raises(GregError, match=r"will need [\d,.]+ MiB.*has [\d,.]+ MiB free; make room"):
        room.require_room(partial, stepped.model, True, stepped.state, replaced)


@pytest.mark.parametrize("words", [("train", *DATA, "--iterations", "2"), GREG_2], ids=["train", "regularize"])
def test_a_disk_too_small_is_said_before_anything_begins(
    begun: Path, greg: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    usage = shutil.disk_usage
    monkeypatch.chdir(begun)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=50_000))
    ran = greg(words[0], "dense.pt", *(word for word in words[1:] if word != "dense.pt"), *NO_WORKERS, "-o", "small.pt")
    assert (ran.code, ran.out) == (1, "")
    assert re.search(r"small.pt.partial will need 0\.[1-9] MiB.* has 0.0 MiB free", ran.error())
    assert "top-1 before" not in ran.err
    assert list(begun.glob("*small.pt*")) == []


def test_a_disk_that_really_is_small(tmp_path: Path) -> None:
    """A file system of 2 MiB, where a user may mount one; OUT.partial of the digits' network takes four times that."""
    inside = f"mount -t tmpfs -o size=2m tmpfs {tmp_path} && cd {tmp_path} && "
    mounted = subprocess.run(["unshare", "-rm", "sh", "-c", inside + "true"], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    words = command("train", DIGITS, "--data", "digits", "--iterations", "2", "-o", "o.pt")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{inside}{shlex.join(words)}; code=$?; ls -A; exit $code"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "will need 8.4 MiB, but" in done.stderr
    assert "has 2.0 MiB free" in done.stderr
    assert "top-1 before" not in done.stderr
