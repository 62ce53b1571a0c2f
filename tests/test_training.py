"""The loop: a run that stops anywhere and goes on equals one that never stopped, bit for bit."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from greg_compress.errors import GregError, InputError, RequestError
from greg_compress.options.penalty import Penalize
from greg_compress.options.training import Decay, Precision
from greg_compress.penalty.growing import GrowingPenalty
from greg_compress.penalty.schedule import GrowthSchedule
from greg_compress.penalty.targets import Units
from greg_compress.selection.plan import Plan, Share
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Part, augment, windows
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.training.batches import Batches
from greg_compress.training.evaluation import evaluate
from greg_compress.training.loop import Loop, Settings
from greg_compress.training.numerics import configure_cuda
from greg_compress.training.randomness import generator, seed_of
from greg_compress.training.schedule import Schedule

CPU = torch.device("cpu")
NORMAL = Normalization(1 / 255, (0.5,), (0.25,))


class Small(nn.Module):
    """BatchNorm and dropout: everything that carries state between steps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3)
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.bn(self.a(x))), 0.3, self.training)
        return self.fc(self.b(x).mean((2, 3)))


def part(count: int = 40) -> Part:
    random = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 1, 6, 6), dtype=torch.uint8, generator=random)
    return Part(images, torch.arange(count) % 3, padding=1, flips=True)


def make_loop(
    model: nn.Module,
    total: int = 20,
    penalised: bool = True,
    seed: int = 0,
    lr: float = 0.05,
    precision: Precision = Precision.FP32,
    accumulate: int = 1,
) -> Loop:
    batches = Batches(part(), NORMAL, batch_size=8, seed=seed)
    penalty = None
    if penalised:
        wiring = prunable_wiring(model, ((1, 6, 6),))
        plan = Plan({"a": Share(4, 2, (1, 3)), "b": Share(3, 2, (0,))})
        aim = Units(model, wiring, Penalize.UNIT).picked_by(plan, recover=False)
        penalty = GrowingPenalty(GrowthSchedule(1.0, 0.1, 1, total), aim)
    chosen = Settings(0.9, 5e-4, precision, CPU, seed, accumulate)
    return Loop(model, batches, Schedule(lr, total, Decay.COSINE, 2), chosen, penalty)


def everything(loop: Loop) -> dict[str, Any]:
    return {"weights": copy.deepcopy(loop.model.state_dict()), **copy.deepcopy(loop.state_dict())}


def assert_same(a: Any, b: Any, path: str = "") -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


@settings(max_examples=10, deadline=None)
@given(
    stop=st.integers(1, 19),
    penalised=st.booleans(),
    precision=st.sampled_from([Precision.FP32, Precision.BF16, Precision.FP16]),
    accumulate=st.integers(1, 3),
)
def test_resumed_equals_uninterrupted(stop: int, penalised: bool, precision: Precision, accumulate: int) -> None:
    kind: dict[str, Any] = {"penalised": penalised, "precision": precision, "accumulate": accumulate}
    torch.manual_seed(1)
    model = Small()
    straight, stopped, resumed = (copy.deepcopy(model) for _ in range(3))
    whole = make_loop(straight, **kind)
    list(whole)

    loop = make_loop(stopped, **kind)
    for iteration in loop:
        if iteration == stop:
            break
    buffer = io.BytesIO()
    torch.save({"weights": stopped.state_dict(), "loop": loop.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    torch.rand(17)  # whatever else a new process draws first
    resumed.load_state_dict(saved["weights"])
    again = make_loop(resumed, **kind)
    again.load_state_dict(saved["loop"])
    list(again)
    assert_same(everything(whole), everything(again))


def test_another_seed_gives_another_run() -> None:
    """The comparison's own test."""
    torch.manual_seed(1)
    a, b = Small(), Small()
    b.load_state_dict(a.state_dict())
    first, second = make_loop(a, seed=0), make_loop(b, seed=1)
    list(first), list(second)
    with pytest.raises(AssertionError):
        assert_same(everything(first), everything(second))


def test_the_loop_equals_sgd_written_out() -> None:
    """One network, the same batches, torch's own optimizer, nothing of ours in between."""
    torch.manual_seed(1)
    ours = Small()
    theirs = copy.deepcopy(ours)
    loop = make_loop(ours, total=7, penalised=False)
    list(loop)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1, momentum=0.9, weight_decay=5e-4, fused=True)
    for step in range(7):
        torch.manual_seed(seed_of(0, "dropout", step, 0))
        epoch, index = divmod(step, 5)
        images, labels = next(loop.batches.epoch(epoch, index))
        optimizer.param_groups[0]["lr"] = loop.schedule.at(step)
        optimizer.zero_grad()
        F.cross_entropy(theirs(images), labels).backward()
        optimizer.step()
    assert_same(ours.state_dict(), theirs.state_dict())


class Loud(Small):
    """Too loud for half precision at first: the gradient scaler skips steps until it has halved itself often enough."""

    def forward(self, x: Tensor) -> Tensor:
        return 20 * super().forward(x)


class Leaving(Small):
    """Its first steps leave a part out, which has no gradient then."""

    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        x = F.relu(self.bn(self.a(x)))
        return self.fc(self.b(x).mean((2, 3)) if self.steps > 3 else x[:, :3].mean((2, 3)))


@pytest.mark.parametrize(("kind", "precision"), [(Loud, Precision.FP16), (Leaving, Precision.FP32)])
def test_steps_that_are_skipped_whole_or_in_part(kind: type[Small], precision: Precision) -> None:
    """The fused optimizer against torch's plain one; what is not initialised is filled with NaN."""
    torch.manual_seed(1)
    ours = kind()
    theirs = copy.deepcopy(ours)
    loop, other = (make_loop(model, penalised=False, lr=1e-3, precision=precision) for model in (ours, theirs))
    other.optimizer = torch.optim.SGD(theirs.parameters(), 1, momentum=0.9, weight_decay=5e-4, foreach=False)
    torch.use_deterministic_algorithms(True)
    try:
        for each in (loop, other):
            assert all(torch.stack(each._unchecked).isfinite().all() for _ in each if each._unchecked)
    finally:
        torch.use_deterministic_algorithms(False)
    before = dict(kind().named_parameters())
    for (name, got), wanted in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
        assert not torch.equal(got, before[name])


@pytest.mark.parametrize("kind", ["frozen", "empty", "constant"])
def test_what_cannot_learn_is_said(kind: str) -> None:
    class Constant(Small):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 3)

    model: nn.Module = nn.Flatten() if kind == "empty" else Constant() if kind == "constant" else Small()
    model.requires_grad_(kind != "frozen")
    with pytest.raises(InputError, match=r"nothing of the network can be|not depend on anything that is trained"):
        list(make_loop(model, penalised=False))


class Drawing(Small):
    """Draws from every generator that there is."""

    def forward(self, x: Tensor) -> Tensor:
        drawn = random.random() + float(numpy.random.rand()) if self.training else 1.0
        return drawn * super().forward(x)


def test_whatever_a_network_draws_depends_on_the_position_alone() -> None:
    torch.manual_seed(1)
    models = [Drawing()]
    models.append(copy.deepcopy(models[0]))
    for number, model in enumerate(models):
        random.seed(number), numpy.random.seed(number)
        list(make_loop(model, total=6))
    assert_same(*(dict(model.state_dict()) for model in models))


class Watching:
    """A regularizer that only looks at the gradients that it gets."""

    finished, phase = False, "watching"

    def __init__(self, model: nn.Module) -> None:
        self.parameters, self.seen = list(model.parameters()), list[Tensor]()

    def add_gradients(self) -> None:
        self.seen.append(torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None]))

    def status(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def test_the_penalty_meets_unscaled_gradients_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 scales the loss by 65,536; two pieces are added up. The penalty sees what it would see without both."""
    monkeypatch.setattr(F, "dropout", lambda x, *_: x)
    seen = []
    for precision, accumulate in ((Precision.FP32, 1), (Precision.FP16, 1), (Precision.FP16, 2)):
        torch.manual_seed(1)
        model = Small()
        model.bn = nn.Identity()  # type: ignore[assignment]
        loop = make_loop(model, total=3, penalised=False, precision=precision, accumulate=accumulate)
        loop.regularizer = watching = Watching(model)
        list(loop)
        assert len(watching.seen) == 3
        seen.append(watching.seen[0])
    for half in seen[1:]:
        torch.testing.assert_close(half, seen[0], rtol=2e-2, atol=2e-3)
    assert seen[0].norm() > 0.05


def test_flags_of_cuda_are_refused_on_the_cpu() -> None:
    for flag in ("tf32", "deterministic"):
        with pytest.raises(RequestError, match=f"--{flag} would have no effect on the CPU"):
            configure_cuda(CPU, **{"tf32": False, "deterministic": False, flag: True})
    configure_cuda(CPU, tf32=False, deterministic=False)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 45))
def test_nan_stops_with_the_iteration_where_it_began(when: int) -> None:
    calls = 0

    class Fails(Small):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().forward(x) * (float("nan") if calls >= when else 1)

    with pytest.raises(GregError, match=f"the loss is not finite at iteration {when}; lower --lr"):
        list(make_loop(Fails(), total=60, penalised=False))


def test_a_label_without_a_logit_is_said() -> None:
    loop = make_loop(Small(), penalised=False)
    loop.batches.samples.labels[3] = 7  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match="an image has label 7, but the network has 3 outputs"):
        list(loop)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(3)), "another shape or type"),
        (lambda s: s["optimizer"]["param_groups"][0].update(weight_decay=-1e30), "other settings"),
        (lambda s: s["optimizer"]["param_groups"][0].update(nesterov=True), "other settings"),
        (lambda s: s.update(iteration=5.5), "iteration 5.5"),
        (lambda s: s.update(iteration=True), "iteration True"),
        (lambda s: s.update(iteration=9), "iteration 9 of 8"),
        (lambda s: s["epoch"].fill_(-5), "figures of the epoch"),
        (lambda s: s.update(epoch=torch.zeros(3)), "figures of the epoch"),
        (lambda s: s.update(epoch=torch.ones(1, 3, dtype=torch.int64)), "figures of the epoch"),
        (lambda s: s.update(scaler={"scale": 1.0}), "another precision"),
        (lambda s: s["log"].append({"loss": "x"}), "other things than numbers"),
        (lambda s: s["regularizer"].update(updates=3), "3 updates in 4 iterations"),
        (lambda s: s["regularizer"].update(iteration=-7), "impossible counts"),
        (lambda s: s["regularizer"].update(growths=0.5), "impossible counts"),
        (lambda s: s["regularizer"].update(stabilizing_since=9), "updates in 4 iterations"),
        (lambda s: s["regularizer"].update(picks={}), "picks that do not belong"),
        (lambda s: s["regularizer"].update(ratios=torch.full((2,), float("nan"))), "other moving ratios"),
    ],
)
def test_an_edited_position_is_refused(change: Callable[[Any], Any], said: str) -> None:
    loop = make_loop(Small(), total=4)
    list(loop)
    state = copy.deepcopy(loop.state_dict())
    make_loop(Small(), total=8).load_state_dict(copy.deepcopy(state))  # as it is, it fits
    change(state)
    with pytest.raises((ValueError, AssertionError), match=said):
        make_loop(Small(), total=8).load_state_dict(state)


def test_outputs_that_are_no_logits_are_refused() -> None:
    class Pair(Small):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(RequestError, match="returns tuple; only cross entropy"):
        list(make_loop(Pair(), penalised=False))


@given(st.integers(0, 1000), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_randomness_depends_on_seed_purpose_and_position_alone(seed: int, a: int, b: int, c: int) -> None:
    def drawn(*key: Any) -> list[int]:
        return torch.randint(0, 2**40, (4,), generator=generator(*key)).tolist()

    assert drawn(seed, "x", a, b) == drawn(seed, "x", a, b)
    assert drawn(seed, "x", a, b) != drawn(seed, "y", a, b)
    assert (drawn(seed, "x", a, b) == drawn(seed, "x", a, c)) == (b == c)


@given(st.integers(1, 200), st.integers(0, 50), st.sampled_from(Decay))
def test_schedules_stay_within_their_rate(total: int, warmup: int, decay: Decay) -> None:
    schedule = Schedule(0.3, total, decay, warmup)
    rates = [schedule.at(step) for step in range(total)]
    assert all(0 < rate <= 0.3 + 1e-12 for rate in rates)
    falling = rates[min(warmup, total - 1) :]
    assert falling == sorted(falling, reverse=True) or total <= warmup
    if decay is Decay.CONSTANT:
        assert all(rate == 0.3 for rate in rates[warmup:])


@given(st.integers(0, 3), st.booleans(), st.integers(0, 999))
def test_augmented_images_are_shifted_or_mirrored_windows(padding: int, flips: bool, seed: int) -> None:
    images = torch.arange(1, 3 * 2 * 5 * 5 + 1, dtype=torch.uint8).view(3, 2, 5, 5)
    random = torch.Generator().manual_seed(seed)
    found = augment(images, padding, *windows(len(images), 5, 5, padding, flips, random))
    padded = F.pad(images, (padding,) * 4)
    for sample, result in zip(padded, found, strict=True):
        crops = [
            sample[:, top : top + 5, left : left + 5]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        candidates = crops + [crop.flip(2) for crop in crops] * flips
        assert any(torch.equal(result, window) for window in candidates)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.sampled_from([1, 3]), st.booleans())
def test_fused_steps_equal_plain_ones_in_any_memory(seed: int, kernel: int, grouped: bool) -> None:
    """torch's fused kernel walks through memory: weights, gradients and momentum have to lie alike."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 6, kernel), nn.Conv2d(6, 3, kernel, groups=3 if grouped else 1)).double()
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    model.to(memory_format=torch.channels_last)
    optimizers = [
        torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=fused)
        for m, fused in ((model, True), (plain, False))
    ]
    for _ in range(3):
        images = torch.randn(2, 3, 7, 7, dtype=torch.float64)
        for network, optimizer in zip((model, plain), optimizers, strict=True):
            optimizer.zero_grad()
            network(images).square().mean().backward()  # a sum's steps diverge, and blow rounding up
            optimizer.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11, check_stride=False)


def test_an_epoch_shows_every_image_at_most_once() -> None:
    batches = Batches(part(40), NORMAL, batch_size=8, seed=0)
    assert len(batches) == 5
    assert sorted(batches.order(0).tolist()) == list(range(40))
    assert batches.order(0).tolist() != batches.order(1).tolist()


def test_accuracy_of_a_network_that_knows_the_answer() -> None:
    class Oracle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot(x[:, 0, 0, 0].round().long(), 7).float() * 20

    images = (torch.arange(70) % 7).to(torch.uint8).view(70, 1, 1, 1)
    labels = torch.arange(70) % 7
    labels[:14] = (labels[:14] + 1) % 7
    found = evaluate(Oracle(), Part(images, labels), Normalization(1.0, (0.0,), (1.0,)), CPU)
    assert found.top1 == pytest.approx(80.0)
    assert found.samples == 70
    assert found.top5 >= found.top1
