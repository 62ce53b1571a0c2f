"""Learning from a teacher: the loss against its formula, and a teacher that learns nothing itself."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from greg_compress.options.training import Precision
from greg_compress.state import files
from greg_compress.training.objective import Distillation, cross_entropy
from tests import program
from tests.conftest import DIGITS, RESNET, Ran
from tests.test_training import CPU, Small, assert_same, make_loop


class Says(nn.Module):
    """A teacher with one answer."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, _: Tensor) -> Tensor:
        return self.answer


def written_out(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, weight: float) -> float:
    """Hinton et al., 2015, with nothing but Python numbers."""

    def softmax(row: list[float], by: float) -> list[float]:
        top = max(row)
        parts = [math.exp((value - top) / by) for value in row]
        return [part / sum(parts) for part in parts]

    total = 0.0
    for given_, taught, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        hard = -math.log(softmax(given_, 1)[label])
        p, q = softmax(taught, temperature), softmax(given_, temperature)
        soft = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
        total += (1 - weight) * hard + weight * temperature**2 * soft
    return total / len(labels)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 10), st.floats(0.05, 1))
def test_the_loss_is_its_formula(seed: int, temperature: float, weight: float) -> None:
    random = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(5, 4, generator=random) for _ in range(2))
    labels = torch.randint(0, 4, (5,), generator=random)
    objective = Distillation(Says(teacher), temperature, weight, Precision.FP32, CPU)
    found = objective(torch.zeros(5, 1, 2, 2), student, labels).item()
    assert found == pytest.approx(written_out(student, teacher, labels, temperature, weight), rel=1e-4)


def test_the_formula_tells_temperatures_and_weights_apart() -> None:
    """The oracle's own check."""
    random = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(5, 4, generator=random) for _ in range(2))
    found = {written_out(student, teacher, torch.arange(5) % 4, t, w) for t in (1, 2, 4) for w in (0.1, 0.5, 1)}
    assert len({round(value, 3) for value in found}) == 9


def test_the_teacher_stays_as_it_is_and_answers_as_if_evaluated() -> None:
    teacher, student = Small(), Small()
    before = copy.deepcopy(teacher.state_dict())
    loop = make_loop(student, total=6, penalised=False)
    loop.objective = Distillation(teacher.train(), 4.0, 0.9, Precision.FP32, CPU)
    list(loop)
    assert_same(dict(teacher.state_dict()), dict(before))
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_student_of_its_own_answers_learns_nothing() -> None:
    answers = torch.randn(6, 4)
    student = answers.clone().requires_grad_()
    Distillation(Says(answers), 4.0, 1.0, Precision.FP32, CPU)(
        torch.zeros(6, 1), student, torch.zeros(6).long()
    ).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6
    cross_entropy(torch.zeros(6, 1), student, torch.zeros(6).long()).backward()
    assert student.grad.abs().max() > 1e-3  # cross entropy would teach it


def test_a_teacher_that_does_not_fit(tmp_path: Path) -> None:
    data = ("--data", "digits", "--batch-size", "64", "--iterations", "2")
    assert program.greg(tmp_path, "prune", DIGITS, "--ratios", "0.5", "-o", "p.pt").code == 0
    fewer = ("--arch", f"{RESNET}:resnet20", "--arch-arg", "in_channels=1", "--arch-arg", "width=2")
    (tmp_path / "d.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "def other():\n    d = TensorDataset(torch.rand(64, 1, 8, 8), torch.arange(64) % 10)\n    return d, d\n"
    )
    made = program.greg(tmp_path, "train", *fewer, "--data", "d.py:other", "--iterations", "1", "--workers", "0",
                        "-o", "t.pt")  # fmt: skip
    assert made.code == 0, made.err
    for words, code, said in (
        (("--teacher", "t.pt"), 2, "--teacher t.pt reads images otherwise normalised than the student"),
        (("--teacher", "nowhere.pt"), 4, "nowhere.pt does not exist"),
        (("--teacher", "torchvision:resnet18"), 2, "images of 1x8x8, but the network takes 3x224x224"),
        (("--temperature", "3"), 2, "--temperature would have no effect without --teacher"),
        (("--teacher-weight", "0.3"), 2, "--teacher-weight would have no effect without --teacher"),
        (("--teacher", DIGITS, "--teacher-weight", "1.5"), 2, "must be above 0 and at most 1"),
        (("--teacher", DIGITS, "--temperature", "0"), 2, "--temperature 0"),
    ):
        ran = program.greg(tmp_path, "finetune", "p.pt", *data, *words, "-o", "o.pt")
        assert (ran.code, ran.out) == (code, ""), ran.err
        assert said in ran.error()
        assert not (tmp_path / "o.pt").exists()


def test_weights_of_the_students_own_network_may_teach_it(greg: Callable[..., Ran]) -> None:
    """As they may be the baseline of its export: of a library's network nothing more need be said."""
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(num_classes=10).state_dict(), "w.pth")
    Path("d.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "def some():\n    d = TensorDataset(torch.rand(8, 3, 32, 32), torch.arange(8))\n    return d, d\n"
    )
    arch = ("--arch", "torchvision:squeezenet1_1", "--arch-arg", "num_classes=10", "--input-shape", "3,32,32")
    assert greg("prune", "w.pth", *arch, "--ratios", "0.5", "-o", "p.pt").code == 0
    few = ("--data", "d.py:some", "--iterations", 1, "--batch-size", 4, "--workers", 0)
    ran = greg("finetune", "p.pt", *few, "--teacher", "w.pth", "-o", "f.pt")
    assert ran.code == 0, ran.err


def test_the_penalty_can_have_a_teacher_too(greg: Callable[..., Ran]) -> None:
    """The phase learns from it, the history names it, and a run does not go on with another one."""
    phase = ("--data", "digits", "--batch-size", 64, "--ratios", "0.5", "--delta", "1", "--stabilize", "0")
    for name, teacher in {"alone": (), "taught": ("--teacher", DIGITS)}.items():
        ran = greg("regularize", DIGITS, *phase, *teacher, "-o", f"{name}.pt")
        assert ran.code == 0, ran.err
    alone, taught = (files.load(Path(f"{name}.pt"))[0] for name in ("alone", "taught"))
    assert alone.plan == taught.plan
    assert any(not torch.equal(alone.weights[name], taught.weights[name]) for name in alone.weights)
    recorded = [state.history[-1]["options"]["teacher_sha256"] for state in (alone, taught)]
    assert recorded == [None, hashlib.sha256(DIGITS.read_bytes()).hexdigest()]
    again = greg("regularize", DIGITS, *phase, "--resume", "-o", "taught.pt")
    assert again.code == 2
    assert "other options" in again.error()
