"""The growing penalty against the paper's equations and a plain-Python loop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from greg_compress.errors import RequestError
from greg_compress.options.penalty import Method, Penalize, PenaltyOptions, Preset
from greg_compress.penalty.growing import GrowingPenalty
from greg_compress.penalty.presets import PRESETS
from greg_compress.penalty.schedule import GrowthSchedule, Picking, resolve_schedule
from greg_compress.penalty.targets import Aim, Gauge, Target, Units
from greg_compress.selection.choose import by_l1
from greg_compress.selection.plan import Plan, Share, picks_from_json
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import Wiring
from tests.zoo import INPUT, Depthwise, Grouped, Residual, Upward, WholeGroups


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

    def pick(saved: dict[str, object] | None) -> tuple[Plan, Aim]:
        plan = by_l1(model, wiring, at_first) if saved is None else picks_from_json(saved, wiring)
        return plan, units.picked_by(plan, recover=True)

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
