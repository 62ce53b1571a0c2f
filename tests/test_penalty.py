"""The growing penalty against the paper's equations and a plain-Python loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from greg_compress.errors import RequestError
from greg_compress.options.penalty import Method, Penalize, PenaltyOptions, Preset
from greg_compress.penalty.fused import Pull, Separation
from greg_compress.penalty.growing import GrowingPenalty
from greg_compress.penalty.phase import UnitPhase
from greg_compress.penalty.presets import PRESETS
from greg_compress.penalty.schedule import GrowthSchedule, Picking, resolve_schedule
from greg_compress.penalty.targets import Aim, Gauge, Target, Units, row_mask
from greg_compress.selection.choose import by_l1
from greg_compress.selection.plan import Plan, Share, picks_from_json
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import Wiring
from tests.zoo import INPUT, Depthwise, Grouped, Keywords, OwnNorms, Residual, Upward, WholeGroups


def whole(weights: nn.Parameter) -> Target:
    return Target(weights, torch.ones_like(weights))


def settle(hessian: Tensor, optimum: Tensor, penalty: GrowingPenalty, weights: nn.Parameter, steps: int) -> Tensor:
    """SGD on 0.5 (w - w*)^T H (w - w*) under the penalty."""
    optimizer = torch.optim.SGD([weights], lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (weights - optimum) @ hessian @ (weights - optimum)).backward()
        penalty.add_gradients()
        optimizer.step()
    return weights.detach()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 2.0]))
def test_equilibrium_on_a_correlated_quadratic(seed: int, ceiling: float) -> None:
    """Equation 5: w = (H + dl I)^-1 H w*, dl being the lambda at which the penalty stays."""
    random = torch.Generator().manual_seed(seed)
    root = torch.randn(4, 4, dtype=torch.float64, generator=random)
    hessian = root @ root.T / 4 + torch.eye(4, dtype=torch.float64)
    optimum = torch.randn(4, dtype=torch.float64, generator=random)
    weights = nn.Parameter(optimum.clone())
    schedule = GrowthSchedule(ceiling, ceiling / 10, 1, 10**6)
    penalty = GrowingPenalty(schedule, Aim([whole(weights)]))
    found = settle(hessian, optimum, penalty, weights, 1500)
    grown = penalty.strength * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(found, torch.linalg.solve(hessian + grown, hessian @ optimum), rtol=1e-9, atol=1e-9)


def test_equilibrium_of_independent_weights_follows_curvature() -> None:
    """Equation 6: r_i = h_ii / (h_ii + dl); of equal weights the one with the larger curvature stays larger."""
    curvature = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    optimum = torch.ones(3, dtype=torch.float64)
    weights = nn.Parameter(optimum.clone())
    penalty = GrowingPenalty(GrowthSchedule(1.0, 0.1, 1, 10**6), Aim([whole(weights)]))
    found = settle(torch.diag(curvature), optimum, penalty, weights, 3000)
    torch.testing.assert_close(found, curvature / (curvature + penalty.strength), rtol=1e-9, atol=1e-9)
    assert found[0] < found[1] < found[2]


def plain_loop(
    start: Sequence[float], picked: Sequence[int], delta: float, every: int, ceiling: float, stabilize: int
) -> tuple[list[float], list[str]]:
    """Algorithm 1 for GReg-1 on a flat loss, with nothing but Python numbers: w -= 0.1 * lambda * w."""
    weights, phases = list(start), []
    updates, iteration, since = 0, 0, None
    while since is None or iteration - since < stabilize:
        if since is None and iteration % every == 0:
            updates += 1
        phases.append("pushing" if since is None else "stabilizing")
        for j in picked:
            weights[j] -= 0.1 * (updates * delta) * weights[j]
        iteration += 1
        if since is None and updates * delta > ceiling + 1e-12:
            since = iteration
    return weights, phases


@given(
    every=st.integers(1, 4),
    count=st.integers(1, 12),
    stabilize=st.integers(0, 5),
    picked=st.sets(st.integers(0, 5), max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_growth_equals_a_plain_loop(every: int, count: int, stabilize: int, picked: set[int]) -> None:
    start = [1.0, -2.0, 3.0, 0.5, -0.25, 4.0]
    ceiling = count * 0.05
    weights = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    mask = torch.tensor([float(j in picked) for j in range(6)], dtype=torch.float64)
    schedule = GrowthSchedule(round(ceiling, 2), 0.05, every, stabilize)
    penalty = GrowingPenalty(schedule, Aim([Target(weights, mask)]))
    optimizer = torch.optim.SGD([weights], lr=0.1)
    phases = []
    while not penalty.finished:
        weights.grad = torch.zeros_like(weights)
        phases.append(penalty.phase)
        penalty.add_gradients()
        optimizer.step()
    wanted, wanted_phases = plain_loop(start, sorted(picked), 0.05, every, ceiling, stabilize)
    torch.testing.assert_close(weights.detach(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)
    assert phases == wanted_phases
    assert len(phases) == schedule.iterations


def test_the_papers_ceiling_takes_10001_updates() -> None:
    schedule = GrowthSchedule(ceiling=1.0, delta=1e-4, update_every=10, stabilize=5000)
    assert schedule.updates == 10_001
    assert schedule.iterations == 100_001 + 5000


@pytest.mark.parametrize(("steps", "least", "most"), [(22, 300, 350), (469, 2800, 3200), (5005, 3000, 3400)])
def test_quick_takes_a_few_hundred_to_three_thousand_iterations(steps: int, least: int, most: int) -> None:
    for method in Method:
        schedule = resolve_schedule(PenaltyOptions(method), steps, 5e-4)
        assert least <= schedule.iterations <= most
        assert schedule.ceiling == 5.0
    assert PRESETS[Preset.QUICK].penalize is Penalize.UNIT


def aimed(model: nn.Module, wiring: Wiring, plan: dict[str, Share], penalize: Penalize, recover: bool = False) -> Aim:
    return Units(model, wiring, penalize).picked_by(Plan(plan), recover)


def picked_rows(found: Sequence[Target], model: nn.Module) -> dict[str, list[int]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[t.parameter]: t.picked.flatten().nonzero().flatten().tolist() for t in found}


@pytest.mark.parametrize(
    ("net", "plan", "filters"),
    [
        (Grouped, {"g": Share(4, 3, (1,))}, {"g.weight": [1, 5]}),  # offset 1 in both groups
        (WholeGroups, {"a": Share(4, 3, (1,))}, {"a.weight": [2, 3], "g.weight": [3, 4, 5]}),
        (Depthwise, {"b": Share(5, 4, (1,))}, {"b.weight": [1], "m.weight": [2, 3]}),  # a multiplier of 2
        (Upward, {"up": Share(3, 2, (1,))}, {"up.weight": [1, 4]}),  # read by two groups; filters in dimension 1
    ],
)
def test_what_is_pulled_at(net: type[nn.Module], plan: dict[str, Share], filters: dict[str, list[int]]) -> None:
    """Filters of sources and of the depthwise convolutions that follow; biases only as part of the unit."""
    model = net()
    wiring = prunable_wiring(model, (INPUT,))
    assert picked_rows(aimed(model, wiring, plan, Penalize.WEIGHTS).targets, model) == filters
    found = picked_rows(aimed(model, wiring, plan, Penalize.UNIT).targets, model)
    biases = {name.replace("weight", "bias"): rows for name, rows in filters.items()}
    assert {name: rows for name, rows in found.items() if not name.startswith("bn")} == filters | biases


def test_batch_norm_belongs_to_the_unit() -> None:
    model = Residual()
    wiring = prunable_wiring(model, (INPUT,))
    found = picked_rows(aimed(model, wiring, {"stem": Share(6, 5, (2,))}, Penalize.UNIT).targets, model)
    assert {name for name in found if name.startswith("bn")} == {"bn.weight", "bn.bias"}
    assert all(rows == [2] for rows in found.values())


def test_a_scalar_belongs_to_no_unit() -> None:
    model = OwnNorms()
    found = aimed(model, prunable_wiring(model, (INPUT,)), {"a": Share(6, 5, (2,))}, Penalize.UNIT)
    assert set(picked_rows(found.targets, model)) == {"a.weight", "a.bias", "one.bias"}


@pytest.mark.parametrize("name", ["a.weight", "norm.bias"])
def test_what_is_frozen_is_not_said_to_shrink(name: str) -> None:
    model = Keywords()
    model.get_parameter(name).requires_grad_(False)
    wiring = prunable_wiring(model, (INPUT,))
    schedule = GrowthSchedule(1.0, 0.1, 1, 0)
    with pytest.raises(RequestError, match=f"{name} is frozen"):
        UnitPhase(model, wiring, Plan({"a": Share(6, 3, (0, 1, 2))}), schedule, Penalize.UNIT)
    UnitPhase(model, wiring, Plan({"b": Share(5, 4, (1,))}), schedule, Penalize.UNIT)


def test_consumers_and_unpicked_groups_get_no_penalty() -> None:
    model = Residual()
    wiring = prunable_wiring(model, (INPUT,))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    aim = aimed(model, wiring, {"a1": Share(5, 3, (0, 4))}, Penalize.WEIGHTS)
    penalty = GrowingPenalty(GrowthSchedule(1.0, 0.5, 1, 0), aim)
    penalty.add_gradients()
    for name, parameter in model.named_parameters():
        expected = torch.zeros_like(parameter)
        if name == "a1.weight":
            expected[[0, 4]] = 0.5 * parameter.detach()[[0, 4]]
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, expected), name


def test_stop_ratio_ends_pushing_when_the_weakest_group_has_separated() -> None:
    weights = [nn.Parameter(torch.ones(4, 2)) for _ in range(2)]
    measured = [Gauge(w, torch.tensor([0, 1]), torch.tensor([2, 3])) for w in weights]
    penalty = GrowingPenalty(GrowthSchedule(1.0, 1e-4, 1, 3, stop_ratio=5.0), Aim([], measured))
    penalty.add_gradients()
    weights[0].data[2:] = 1e-30  # the clamp keeps the ratio finite
    for _ in range(50):
        penalty.add_gradients()
    assert penalty.phase == "pushing"
    weights[1].data[2:] = 0
    penalty.add_gradients()
    measured_at = penalty.strength
    penalty.add_gradients()  # what an update measures, the next one reads
    assert penalty.phase == "stabilizing"
    assert penalty.strength == measured_at
    assert penalty.status()["weakest_ratio"] < float("inf")


def test_a_penalty_goes_on_from_its_state() -> None:
    def fresh() -> tuple[GrowingPenalty, nn.Parameter]:
        weights = nn.Parameter(torch.ones(4, 2))
        gauge = Gauge(weights, torch.tensor([0]), torch.tensor([1, 2, 3]))
        target = Target(weights, torch.tensor([0.0, 1.0, 1.0, 1.0]).view(-1, 1))
        return GrowingPenalty(GrowthSchedule(1.0, 0.1, 2, 4), Aim([target], [gauge])), weights

    def advance(penalty: GrowingPenalty, weights: nn.Parameter, steps: int) -> None:
        for _ in range(steps):
            weights.grad = torch.zeros_like(weights)
            penalty.add_gradients()
            weights.data -= 0.01 * weights.grad

    straight, a = fresh()
    advance(straight, a, 20)
    first, b = fresh()
    advance(first, b, 7)
    second, c = fresh()
    c.data.copy_(b.data)
    second.load_state_dict(first.state_dict())
    advance(second, c, 13)
    assert torch.equal(a, c)
    assert straight.status() == second.status()


def test_a_penalty_goes_on_where_all_filters_are_zero() -> None:
    """A layer that begins at zero has a ratio of 0."""
    weights = nn.Parameter(torch.zeros(4, 2))
    penalty, other = (
        GrowingPenalty(
            GrowthSchedule(1.0, 0.1, 2, 4), Aim([], [Gauge(weights, torch.tensor([0]), torch.tensor([1, 2, 3]))])
        )
        for _ in range(2)
    )
    penalty.add_gradients()
    other.load_state_dict(penalty.state_dict())
    assert other.status() == penalty.status() == {"lambda": 0.1, "weakest_ratio": 0.0}


# GReg-2


@pytest.mark.parametrize(
    ("preset", "method", "iterations"),
    [
        (Preset.PAPER_CIFAR, Method.GREG_1, 10_000 * 10 + 1 + 5_000),
        (Preset.PAPER_CIFAR, Method.GREG_2, (1001 + 9900 - 1) * 10 + 1 + 5_000),  # 0.01001 + 9900 * 1e-4 > 1
        (Preset.PAPER_IMAGENET, Method.GREG_1, 10_000 * 5 + 1 + 40_000),
        (Preset.PAPER_IMAGENET, Method.GREG_2, (1001 + 9900 - 1) * 5 + 1 + 40_000),
        (Preset.REPO_CIFAR, Method.GREG_1, 10_000 * 10 + 1 + 10_000),
    ],
)
def test_presets_are_tables_5_and_8(preset: Preset, method: Method, iterations: int) -> None:
    chosen = PRESETS[preset]
    assert (chosen.lr, chosen.penalize) == (1e-3, Penalize.WEIGHTS)
    schedule = resolve_schedule(PenaltyOptions(method, preset), 391, chosen.weight_decay)
    assert schedule.iterations == iterations
    if schedule.picking is not None:
        assert schedule.picking.recover == -chosen.weight_decay


def test_the_repositorys_recovery_does_not_follow_the_weight_decay() -> None:
    picking = resolve_schedule(PenaltyOptions(Method.GREG_2, Preset.REPO_CIFAR), 391, 5e-4).picking
    assert picking is not None
    assert picking.recover == -1e-4


def test_a_pick_ceiling_lies_below_the_ceiling() -> None:
    with pytest.raises(RequestError, match="--pick-ceiling 5 must be below --ceiling 5"):
        resolve_schedule(PenaltyOptions(Method.GREG_2, pick_ceiling=5.0), 100, 5e-4)
    smaller = resolve_schedule(PenaltyOptions(Method.GREG_2, ceiling=1.0), 100, 5e-4).picking
    assert smaller is not None
    assert smaller.ceiling == pytest.approx(0.01)  # the preset's proportion


class Filters(nn.Module):
    """Four filters of one weight each, which hypothesis or a test gives a loss of their own."""

    def __init__(self, start: Sequence[float]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, len(start), 1, bias=False), nn.Conv2d(len(start), 2, 1, bias=False)
        self.double()
        self.a.weight.data[:, 0, 0, 0] = torch.tensor(start, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def greg_2(model: nn.Module, schedule: GrowthSchedule, kept: int) -> GrowingPenalty:
    """As the stage builds it, for group `a`."""
    wiring = prunable_wiring(model, ((1, 8, 8),))
    channels = len(model.get_parameter("a.weight"))
    at_first = by_l1(model, wiring, Plan({"a": Share(channels, kept)}))
    units = Units(model, wiring, Penalize.WEIGHTS)

    def pick(saved: dict[str, object] | None) -> tuple[dict[str, object], Aim]:
        plan = by_l1(model, wiring, at_first) if saved is None else picks_from_json(saved, wiring)
        return plan.to_json(), units.picked_by(plan, recover=True)

    return GrowingPenalty(schedule, units.all_of(at_first), pick)


def descend(model: nn.Module, penalty: GrowingPenalty, hessian: Tensor, optimum: Tensor, decay: float = 0.0) -> None:
    """SGD on 0.5 (w - w*)^T H (w - w*) until the phase is over."""
    weights = model.get_parameter("a.weight")
    optimizer = torch.optim.SGD([weights], lr=0.05, momentum=0.9, weight_decay=decay)
    while not penalty.finished:
        optimizer.zero_grad()
        apart = weights.flatten() - optimum
        (0.5 * apart @ hessian @ apart).backward()
        penalty.add_gradients()
        optimizer.step()


def test_the_hessian_decides_who_survives() -> None:
    """Equation 6: the smaller filters sit in steep valleys. L1 would remove them; under the penalty the flat fall."""
    curvature = torch.tensor([5.0, 0.05, 5.0, 0.05], dtype=torch.float64)
    optimum = torch.tensor([0.8, 1.0, -0.9, -1.2], dtype=torch.float64)
    schedule = GrowthSchedule(4.0, 0.1, 20, 400, picking=Picking(0.5, 0.05, 0.0))
    model = Filters(optimum.tolist())
    at_first = by_l1(model, prunable_wiring(model, ((1, 8, 8),)), Plan({"a": Share(4, 2)}))
    assert at_first.shares["a"].removed == (0, 2)
    penalty = greg_2(model, schedule, kept=2)
    descend(model, penalty, torch.diag(curvature), optimum)
    assert penalty.picks is not None
    assert penalty.picks["a"]["removed"] == [1, 3]
    left = model.get_parameter("a.weight").detach().flatten()
    torch.testing.assert_close(left[[0, 2]], optimum[[0, 2]], rtol=1e-6, atol=0)  # recovered: nothing pulls any more
    assert (left[[1, 3]].abs() < 0.02).all()


@settings(max_examples=20, deadline=None)
@given(
    every=st.integers(1, 3),
    grow=st.integers(1, 8),
    push=st.integers(1, 8),
    stabilize=st.integers(0, 4),
    kept=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_greg_2_equals_algorithm_1_written_out(
    every: int, grow: int, push: int, stabilize: int, kept: int, seed: int
) -> None:
    """Lines 5 to 15, with nothing but Python numbers, on independent quadratics under weight decay."""
    random = torch.Generator().manual_seed(seed)
    start = (torch.rand(4, generator=random, dtype=torch.float64) + 0.1).tolist()
    curvature = (torch.rand(4, generator=random, dtype=torch.float64) * 3).tolist()
    delta, pick_delta, gamma = 0.5, 0.25, 5e-4
    pick_ceiling, ceiling = grow * pick_delta, grow * pick_delta + push * delta + 0.1

    model = Filters(start)
    schedule = GrowthSchedule(ceiling, delta, every, stabilize, picking=Picking(pick_ceiling, pick_delta, -gamma))
    penalty = greg_2(model, schedule, kept)
    weights = model.get_parameter("a.weight")
    optimizer = torch.optim.SGD([weights], lr=0.05, weight_decay=gamma)
    phases = []
    while not penalty.finished:
        phases.append(penalty.phase)
        apart = weights.detach().flatten() - torch.tensor(start, dtype=torch.float64)
        weights.grad = (torch.tensor(curvature, dtype=torch.float64) * apart).view_as(weights)
        penalty.add_gradients()
        optimizer.step()

    w, lam, picked, growing, iteration, end = list(start), [0.0] * 4, [0, 1, 2, 3], True, 0, None
    while end is None or iteration < end:
        if end is None and iteration % every == 0:
            if growing and lam[picked[0]] > pick_ceiling + 1e-9:
                picked, growing = sorted(sorted(range(4), key=lambda j: abs(w[j]))[: 4 - kept]), False
            for j in range(4):
                lam[j] = lam[j] + (pick_delta if growing else delta) if j in picked else -gamma
        w = [w[j] - 0.05 * (curvature[j] * (w[j] - start[j]) + (gamma + lam[j]) * w[j]) for j in range(4)]
        iteration += 1
        if end is None and lam[picked[0]] > ceiling:
            end = iteration + stabilize
    torch.testing.assert_close(weights.detach().flatten(), torch.tensor(w, dtype=torch.float64), rtol=1e-9, atol=1e-15)
    assert penalty.picks is not None
    assert penalty.picks["a"]["removed"] == picked
    assert len(phases) == iteration == schedule.iterations
    assert phases == sorted(phases, key=["growing", "pushing", "stabilizing"].index)
    assert phases.count("stabilizing") == stabilize


def test_recovery_cancels_the_weight_decay() -> None:
    """lambda = -gamma: on a flat loss a kept filter stays as it is, a picked one falls."""
    model = Filters([1.0, 2.0, 3.0, 4.0])
    penalty = greg_2(model, GrowthSchedule(1.0, 0.1, 1, 50, picking=Picking(0.01, 0.01, -0.3)), kept=2)
    weights = model.get_parameter("a.weight")
    while penalty.phase == "growing":
        weights.grad = torch.zeros_like(weights)
        penalty.add_gradients()
    before = weights.detach().clone().flatten()
    descend(model, penalty, torch.zeros(4, 4).double(), torch.zeros(4).double(), decay=0.3)
    after = weights.detach().flatten()
    torch.testing.assert_close(after[2:], before[2:], rtol=1e-12, atol=0)
    assert (after[:2] < 0.1 * before[:2]).all()


def test_groups_that_lose_nothing_are_not_even_penalised_while_growing() -> None:
    model = Residual()
    wiring = prunable_wiring(model, (INPUT,))
    aim = Units(model, wiring, Penalize.UNIT).all_of(Plan({"a1": Share(5, 3)}))
    assert picked_rows(aim.targets, model) == {"a1.weight": [0, 1, 2, 3, 4], "a1.bias": [0, 1, 2, 3, 4]}


@settings(max_examples=10, deadline=None)
@given(stop=st.integers(1, 25))
def test_greg_2_goes_on_from_its_state_with_its_picks(stop: int) -> None:
    schedule = GrowthSchedule(1.0, 0.1, 2, 3, picking=Picking(0.05, 0.01, -1e-3))
    curvature, optimum = torch.tensor([0.2, 3.0, 0.1, 2.0]), torch.tensor([1.0, 0.9, 1.1, 0.8])

    def advance(model: nn.Module, penalty: GrowingPenalty, steps: int) -> None:
        weights = model.get_parameter("a.weight")
        for _ in range(steps):
            weights.grad = (curvature * (weights.detach().flatten() - optimum)).view_as(weights)
            penalty.add_gradients()
            weights.data -= 0.1 * weights.grad

    straight, stopped = Filters(optimum.tolist()), Filters(optimum.tolist())
    whole, first = greg_2(straight, schedule, 2), greg_2(stopped, schedule, 2)
    advance(straight, whole, 30)
    advance(stopped, first, stop)
    second = greg_2(stopped, schedule, 2)
    second.load_state_dict(first.state_dict())
    advance(stopped, second, 30 - stop)
    assert torch.equal(straight.a.weight, stopped.a.weight)
    assert whole.picks == second.picks
    assert (whole.status(), whole.phase) == (second.status(), second.phase)


# All layers at once


@st.composite
def layers(draw: st.DrawFn) -> list[tuple[nn.Parameter, int, list[str]]]:
    """Weights, the dimension of their filters, and the fate of each filter."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        filters, dims = draw(st.integers(2, 6)), draw(st.integers(1, 4))
        makes = draw(st.integers(0, min(1, dims - 1)))
        shape = [draw(st.integers(1, 4)) for _ in range(dims)]
        shape[makes] = filters
        weight = torch.randn(
            shape, dtype=torch.float64, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))
        )
        if dims == 4 and draw(st.booleans()):
            weight = weight.to(memory_format=torch.channels_last)
        rest = draw(st.lists(st.sampled_from(["picked", "kept", "other"]), min_size=filters - 2, max_size=filters - 2))
        found.append((nn.Parameter(weight), makes, draw(st.permutations(["picked", "kept", *rest]))))
    return found


def mask(weight: Tensor, makes: int, fates: Sequence[str], fate: str) -> Tensor:
    rows = torch.tensor([float(each == fate) for each in fates], dtype=weight.dtype)
    return rows.view([-1 if dim == makes else 1 for dim in range(weight.dim())])


@settings(max_examples=60, deadline=None)
@given(layers(), st.sampled_from([0.0, -0.3]), st.floats(1e-5, 5), st.data())
def test_pulling_at_all_layers_equals_a_loop_over_filters(
    network: list[tuple[nn.Parameter, int, list[str]]], recover: float, strength: float, data: st.DataObject
) -> None:
    recovers = data.draw(st.booleans())
    targets, wanted = [], []
    for weight, makes, fates in network:
        kept = mask(weight, makes, fates, "kept") if recovers else None
        targets.append(Target(weight, mask(weight, makes, fates, "picked"), kept))
        weight.grad = None if data.draw(st.booleans()) else torch.randn_like(weight)
        if weight.grad is not None and data.draw(st.booleans()):
            weight.grad = weight.grad.contiguous()
        plain = None if weight.grad is None else weight.grad.clone()
        for j, fate in enumerate(fates if plain is not None else ()):
            factor = {"picked": strength, "kept": recover * recovers, "other": 0.0}[fate]
            plain.select(makes, j).add_(factor * weight.detach().select(makes, j))
        wanted.append(plain)
    pull = Pull(targets, recover)
    others = [weight.grad for weight, _, _ in network]
    for weight, _, _ in network:
        weight.grad = None
    pull.add(0.5 * strength)  # nothing to pull at, and another lambda than the one that counts
    for (weight, _, _), gradient in zip(network, others, strict=True):
        weight.grad = gradient
    pull.add(strength)
    for (weight, _, _), gradient in zip(network, wanted, strict=True):
        assert (weight.grad is None) == (gradient is None)
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, gradient, rtol=1e-12, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(layers(), st.sampled_from([1, 20, 2**20]), st.sampled_from([1.0, 1e-9, 0.0]))
def test_measuring_all_layers_equals_a_loop_over_filters(
    network: list[tuple[nn.Parameter, int, list[str]]], block: int, scale: float
) -> None:
    """Also where picked filters are 1e9 times smaller, and where they are nothing at all."""
    gauges, wanted = [], []
    for weight, makes, fates in network:
        means = {}
        for fate in ("picked", "kept"):
            chosen = [j for j, each in enumerate(fates) if each == fate]
            for j in chosen if fate == "picked" else ():
                weight.data.select(makes, j).mul_(scale)
            means[fate] = sum(float(weight.detach().select(makes, j).abs().mean()) for j in chosen) / len(chosen)
        kept, picked = (
            torch.tensor([j for j, each in enumerate(fates) if each == fate]) for fate in ("kept", "picked")
        )
        gauges.append(Gauge(weight, kept, picked, makes))
        wanted.append(means["kept"] / max(means["picked"], 1e-12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("greg_compress.penalty.fused.BLOCK", block)
        separation = Separation(gauges)
    for _ in range(2):  # the memory is used again
        found = separation.ratios()
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)


def test_ratios_of_large_layers_are_those_of_double_precision() -> None:
    """A running sum over chunks in single precision would be off by 1e-5; these sizes have no common divisor."""
    random = torch.Generator().manual_seed(0)
    picked, kept = torch.arange(0, 192, 3), torch.arange(192)[torch.arange(192) % 3 > 0]
    weights = [nn.Parameter(torch.rand(192, size, generator=random)) for size in (4099, 27, 1021)]
    means = torch.stack([weight.detach().double().mean(1) for weight in weights])
    wanted = means[:, kept].mean(1) / means[:, picked].mean(1)
    found = Separation([Gauge(weight, kept, picked) for weight in weights]).ratios()
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)


WAITS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select")


class Operations(TorchDispatchMode):
    """Writes down what reaches the device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.copies: list[bool] = []
        """Whether each copy to another device lets Python go on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        result = func(*args, **(kwargs or {}))
        if self.names[-1] == "_to_copy" and result.device != args[0].device:
            self.copies.append(bool(kwargs and kwargs.get("non_blocking")))
        return result


class Calls(TorchFunctionMode):
    """Counts what Python asks of torch; attributes alone are free."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") != "__get__"
        return func(*args, **(kwargs or {}))


def many(layers: int, filters: int, device: str = "cpu") -> GrowingPenalty:
    """GReg-2 that has picked."""
    targets, gauges = [], []
    for _ in range(layers):
        weight = nn.Parameter(torch.ones(filters, 3, 2, 2, device=device))
        weight.grad = torch.zeros_like(weight)
        rows = (torch.arange(filters, device=device) % 2).float().view(-1, 1, 1, 1)
        targets.append(Target(weight, rows, 1 - rows))
        numbers = torch.arange(filters, device=device)
        gauges.append(Gauge(weight, numbers[::2], numbers[1::2]))
    # Nothing can be brought to the host from a device without memory.
    stop_ratio = None if device == "meta" else 5.0
    schedule = GrowthSchedule(1.0, 1e-4, 1, 3, stop_ratio, Picking(0.5e-4, 1e-4, -5e-4))
    aim = Aim(targets, gauges)
    penalty = GrowingPenalty(schedule, Aim(targets), lambda saved: ({}, aim))
    for _ in range(2):
        penalty.add_gradients()
    return penalty


def operations(penalty: GrowingPenalty) -> list[str]:
    with Operations() as seen:
        for _ in range(3):
            penalty.add_gradients()
    return seen.names


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_no_call_waits_for_the_device(device: str) -> None:
    names = operations(many(3, 4, device))
    assert "_foreach_addcmul_" in names
    assert not set(names) & set(WAITS)


class Promise:
    """An answer that has not arrived: there is no GPU that could have sent it."""

    def __init__(self, answer: Tensor) -> None:
        answer.to("cpu", non_blocking=True)

    def __bool__(self) -> bool:
        return False


def on_a_gpu() -> GrowingPenalty:
    """Of shapes alone, under a FakeTensorMode, where to look at a value is an error."""
    weight = nn.Parameter(torch.empty(4, 3, 2, 2, device="cuda"))
    weight.grad = torch.empty_like(weight)
    rows = row_mask(torch.arange(4) % 2, weight, (-1, 1, 1, 1))
    numbers = torch.arange(4, device="cuda")
    gauge = Gauge(weight, numbers[::2], numbers[1::2])
    return GrowingPenalty(GrowthSchedule(1.0, 1e-4, 1, 3, 5.0), Aim([Target(weight, rows)], [gauge]))


def test_no_call_waits_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that leaves the GPU is the answer, and nobody waits for it before the next update."""
    monkeypatch.setattr("greg_compress.penalty.growing.Answer", Promise)
    with FakeTensorMode():
        try:
            penalty = on_a_gpu()
        except torch.AcceleratorError:
            pytest.skip("without a driver this torch makes no CUDA tensor, not even a fake one")
        with Operations() as seen:
            for _ in range(3):
                penalty.add_gradients()
        assert not set(seen.names) & set(WAITS)
        assert seen.copies == [True] * 3
        with Operations() as seen:
            penalty.state_dict()["ratios"].cpu()
        assert seen.copies == [False]
        with pytest.raises(DataDependentOutputException):
            penalty.status()


def test_that_check_sees_a_penalty_that_waits() -> None:
    class Impatient(GrowingPenalty):
        def _measure(self) -> None:
            super()._measure()
            assert self._ratios is None or bool((self._ratios > 0).all())

    penalty = many(3, 4)
    penalty.__class__ = Impatient
    assert set(operations(penalty)) & set(WAITS)


def test_more_filters_and_more_layers_take_no_more_calls() -> None:
    def counted(penalty: GrowingPenalty) -> int:
        with Calls() as seen:
            for _ in range(3):
                penalty.add_gradients()
        return seen.count

    assert operations(many(3, 4)) == operations(many(3, 40)) == operations(many(30, 4))
    assert counted(many(3, 4)) == counted(many(3, 40)) == counted(many(30, 4))


@pytest.mark.parametrize("every", [1, 3])
def test_pushing_ends_at_the_same_iteration_wherever_it_was_interrupted(every: int) -> None:
    def fresh() -> tuple[GrowingPenalty, Callable[[int], None]]:
        weights = nn.Parameter(torch.ones(4, 2))
        gauge = Gauge(weights, torch.tensor([0]), torch.tensor([1, 2, 3]))
        target = Target(weights, torch.tensor([0.0, 1.0, 1.0, 1.0]).view(-1, 1))
        penalty = GrowingPenalty(GrowthSchedule(100.0, 0.1, every, 4, stop_ratio=2.0), Aim([target], [gauge]))

        def advance(steps: int) -> None:
            for _ in range(steps):
                weights.grad = torch.zeros_like(weights)
                penalty.add_gradients()
                weights.data -= 0.1 * weights.grad

        return penalty, advance

    straight, advance = fresh()
    advance(60)
    wanted = straight.state_dict()
    assert wanted["stabilizing_since"] in range(every, 50)
    assert wanted["stabilizing_since"] % every == 0
    for stop in range(wanted["stabilizing_since"] + 2):
        first, before = fresh()
        before(stop)
        second, after = fresh()
        second.load_state_dict(first.state_dict())
        for cell_from, cell_to in zip(first._gauges, second._gauges, strict=True):
            cell_to.weight.data.copy_(cell_from.weight.data)
        after(60 - stop)
        found = second.state_dict()
        assert torch.equal(found.pop("ratios"), wanted["ratios"])
        assert found == {name: value for name, value in wanted.items() if name != "ratios"}
