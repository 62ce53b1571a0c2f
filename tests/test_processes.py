"""Several processes: they compute what one computes, stay alike bit for bit, and end together."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from greg_compress.options.penalty import Penalize
from greg_compress.options.training import Decay, Precision
from greg_compress.penalty.growing import GrowingPenalty
from greg_compress.penalty.schedule import GrowthSchedule, Picking
from greg_compress.penalty.targets import Aim, Units
from greg_compress.processes.place import Place, place
from greg_compress.selection.choose import by_l1
from greg_compress.selection.plan import Plan, Share, picks_from_json
from greg_compress.sources import samples
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.training.batches import Batches
from greg_compress.training.evaluation import evaluate
from greg_compress.training.loop import Loop, Settings
from greg_compress.training.schedule import Schedule
from greg_compress.training.world import ALONE, World
from tests import program
from tests.conftest import DIGITS, ROOT
from tests.test_interrupt import tensors_and_figures
from tests.test_recipes import TINY
from tests.test_training import CPU, NORMAL, assert_same, part

STEPS = 20


class Doubled(nn.Module):
    """Convolutions in float64; with `norm`, what sees the other images of a batch. One layer is never used."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 3)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.fc, self.idle = nn.Linear(4, 3), nn.Linear(2, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(F.relu(self.norm(self.a(x.double())))).mean((2, 3)))


def make_loop(
    world: World, norm: bool = False, sync_bn: bool = False, accumulate: int = 1, batch: int = 10
) -> tuple[Loop, GrowingPenalty]:
    """GReg-2 on both convolutions: it picks at iteration 6."""
    model = Doubled(norm)
    wiring = prunable_wiring(model, ((1, 6, 6),))
    at_first = by_l1(model, wiring, Plan({"a": Share(6, 3), "b": Share(4, 2)}))
    units = Units(model, wiring, Penalize.UNIT)

    def pick(saved: dict[str, object] | None) -> tuple[dict[str, object], Aim]:
        plan = by_l1(model, wiring, at_first) if saved is None else picks_from_json(saved, wiring)
        return plan.to_json(), units.picked_by(plan, recover=True)

    growth = GrowthSchedule(10.0, 0.1, 1, STEPS, picking=Picking(0.05, 0.01, -5e-4))
    penalty = GrowingPenalty(growth, units.all_of(at_first), pick)
    batches = Batches(part(43), NORMAL, batch, 0, samples.Share(world.rank, world.size))
    settings = Settings(0.9, 5e-4, Precision.FP32, CPU, 0, accumulate, sync_bn)
    schedule = Schedule(0.05, STEPS, Decay.COSINE, 2)
    return Loop(model, batches, schedule, settings, penalty, world=world), penalty


def result(world: World, **options: Any) -> dict[str, Any]:
    loop, penalty = make_loop(world, **options)
    list(loop)
    accuracy = evaluate(loop.model, part(43), NORMAL, CPU, world=world)
    weights = copy.deepcopy(loop.model.state_dict())
    return {
        "weights": weights,
        "picks": penalty.picks,
        "penalty": penalty.state_dict(),
        "log": loop.log,
        "accuracy": [accuracy.top1, accuracy.top5, accuracy.loss, float(accuracy.samples)],
    }


def _worker(rank: int, size: int, folder: str, work: Callable[..., Any], options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    torch.save(work(World(rank, size), **options), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def together(size: int, work: Callable[..., Any], **options: Any) -> list[Any]:
    """What each of so many gloo processes returns."""
    with tempfile.TemporaryDirectory() as folder:
        running = [
            program.context.Process(target=_worker, args=(rank, size, folder, work, options)) for rank in range(size)
        ]
        for process in running:
            process.start()
        for process in running:
            process.join(120)
            assert process.exitcode == 0
        return [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(size)]


def assert_close(a: Any, b: Any, only: tuple[str, ...] = ("weights", "accuracy")) -> None:
    for name in only:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-9)
    for mine, other in zip(a["log"], b["log"], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("size", "accumulate", "batch"), [(2, 1, 10), (3, 2, 10), (2, 1, 100)])
def test_several_processes_equal_one(size: int, accumulate: int, batch: int) -> None:
    """Also where shares differ by an image (10 = 4 + 3 + 3), and where the data are smaller than a batch."""
    alone = result(ALONE, batch=batch)
    found = together(size, result, accumulate=accumulate, batch=batch)
    for ours in found:
        assert_same(ours, found[0])  # bit for bit: weights, penalties and picks
        assert_close(ours, alone)
        assert ours["picks"] == alone["picks"]


@pytest.mark.parametrize("accumulate", [2, 3, 10])
def test_accumulated_pieces_equal_a_whole_batch(accumulate: int) -> None:
    assert_close(result(ALONE, accumulate=accumulate), result(ALONE))


def test_sync_bn_sees_the_images_of_all_processes() -> None:
    alone = result(ALONE, norm=True)
    for ours in together(2, result, norm=True, sync_bn=True):
        assert_close(ours, alone)
    with pytest.raises(AssertionError):
        assert_close(together(2, result, norm=True)[0], alone)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, Place()),
        ({"WORLD_SIZE": "1", "RANK": "0"}, Place()),
        ({"WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "1"}, Place(2, 3, 1)),
    ],
)
def test_the_environment_says_who_is_who(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: Place
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert place() == found


# the program itself


TRAIN = ("train", DIGITS, "--data", "digits", "--batch-size", "63", "--precision", "fp32", "--save-every", "7")
FOR_EVER = ("regularize", DIGITS, "--data", "digits", "--ratios", "0.5", "--batch-size", "64",
            "--ceiling", "500", "--delta", "0.01")  # fmt: skip


def codes(running: list[program.Running]) -> list[tuple[int, str]]:
    """Exit code and last line of each process."""
    return [(ran.code, (ran.err.splitlines() or [""])[-1]) for ran in (process.finish() for process in running)]


def test_a_run_in_two_processes_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    words = (*TRAIN, "--iterations", "40")
    assert [code for code, _ in codes(program.start_together(tmp_path, 2, *words, "-o", "straight.pt"))] == [0, 0]
    stopped = program.start_together(tmp_path, 2, *words, "-o", "o.pt")
    stopped[0].wait_for("training 1/")
    stopped[1].signal(signal.SIGTERM)  # one of them hears it, and all stop at the same step
    ended = codes(stopped)
    assert [code for code, _ in ended] == [143, 143]
    assert ended[0][1].startswith("greg: interrupted; repeat the command with --resume to go on from o.pt.partial")
    again = codes(program.start_together(tmp_path, 2, *words, "-o", "o.pt", "--resume"))
    assert [code for code, _ in again] == [0, 0]
    assert_same(tensors_and_figures(tmp_path / "straight.pt"), tensors_and_figures(tmp_path / "o.pt"))


def test_another_number_of_processes_may_go_on_and_claims_nothing(tmp_path: Path) -> None:
    words = (*TRAIN, "--iterations", "40", "-o", "o.pt")
    stopped = program.start_together(tmp_path, 2, *words)
    stopped[0].wait_for("training 1/")
    stopped[0].signal(signal.SIGINT)
    assert [code for code, _ in codes(stopped)] == [130, 130]
    ran = program.greg(tmp_path, *words, "--resume")
    assert ran.code == 0
    assert "it was begun by 2 processes and goes on with 1: the result will not be bit for bit" in ran.err


@pytest.mark.parametrize("dead", [0, 1])
def test_a_process_that_dies_ends_the_others_with_a_clear_line(tmp_path: Path, dead: int) -> None:
    running = program.start_together(tmp_path, 2, *FOR_EVER, "-o", "o.pt")
    running[0].wait_for("pushing 1/")
    running[dead].signal(signal.SIGKILL)
    ended = codes(running)
    assert ended[dead][0] == -signal.SIGKILL
    code, line = ended[1 - dead]
    assert code == 1
    assert line.startswith(f"greg: process {dead} died")
    assert not (tmp_path / "o.pt").exists()


BROKEN = """
import os, torch
class Images(torch.utils.data.Dataset):
    classes = list(range(10))
    def __len__(self): return 640
    def __getitem__(self, index):
        if os.environ.get("RANK") == "1" and index == 600:
            raise ValueError("cosmic rays")
        return torch.zeros(1, 8, 8), index % 10
def make(): return Images(), Images()
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("train", DIGITS, "--data", "broken.py:make", "--workers", "0", "-o", "o.pt"), 4,
         "process 1: training image 600 of broken.py:make cannot be read (ValueError: cosmic rays)"),
        ((*TRAIN, "--lr", "-1", "-o", "o.pt"), 2, "--lr -1.0: it must be above 0"),
        ((*TRAIN, "-o", "missing/o.pt"), 1, "missing/o.pt cannot be written"),
        ((*TRAIN, "--accumulate", "40", "-o", "o.pt"), 2, "63 images cannot be shared out in 80 pieces"),
        ((*TRAIN, "--device", "cuda:0", "-o", "o.pt"), 2, "each of several processes takes its own; write cuda"),
        ((*TRAIN, "--lr", "1e5", "-o", "o.pt"), 1, "the loss is not finite at iteration"),
        (("prune", DIGITS, "--ratios", "0.5", "-o", "o.pt"), 2, "runs in one process; start it without torchrun"),
    ],
    ids=["one", "flag", "folder", "pieces", "device", "nan", "prune"],
)  # fmt: skip
def test_all_end_with_one_code_and_one_line(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    running = program.start_together(tmp_path, 2, *words)
    first, second = (process.finish() for process in running)
    assert (first.code, second.code) == (code, code)
    lines = [line for line in (first.err + second.err).splitlines() if line.startswith("greg:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not list(tmp_path.glob("*.pt*"))


def test_torchrun_starts_it_as_the_readme_says(tmp_path: Path) -> None:
    """Also with a budget, which is measured by both and chosen by the first."""
    (tmp_path / "tiny.py").write_text(TINY.replace("(in_channels, 16, 16)", "(in_channels, 8, 8)"))
    words = ["regularize", "tiny.py:tiny", "--arch-arg", "in_channels=1", "--data", "digits", "--ratios", "0.5",
             "--batch-size", "64", "--budget", "8s", "--log", "o.jsonl", "-o", "o.pt", "--json"]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--", "greg_compress"]
    ran = subprocess.run(
        [*launch, *map(str, words)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False, timeout=180,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["processes"] == 2
    assert ran.stderr.count("top-1 before") == 1
    assert json.loads((tmp_path / "o.jsonl").read_text().splitlines()[-1])["iteration"] == result["iterations"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.jsonl", "o.pt", "tiny.py"]


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        ({"WORLD_SIZE": "two"}, 2, "the environment says WORLD_SIZE=two; start several processes with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, 2, "the environment says RANK=2 WORLD_SIZE=2"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 1, "the other processes cannot be reached"),
    ],
)
def test_an_environment_that_contradicts_itself(
    tmp_path: Path, environment: dict[str, str], code: int, said: str
) -> None:
    ran = program.start(tmp_path, *TRAIN, "-o", "o.pt", environment=environment).finish()
    assert ran.code == code
    assert said in ran.error()
    assert ("waiting up to 10 minutes until all 2 processes are here" in ran.err) == (code == 1)
    assert list(tmp_path.iterdir()) == []


def test_flags_for_several_processes_are_refused_in_one(tmp_path: Path) -> None:
    ran = program.greg(tmp_path, *TRAIN, "--sync-bn", "-o", "o.pt")
    assert ran.code == 2
    assert "--sync-bn would have no effect in one process" in ran.error()
