"""The growing penalty against the paper's equations and a plain-Python loop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from greg_compress.options import Penalize, PenaltyOptions
from greg_compress.penalty import Gauge, GrowingPenalty, GrowthSchedule, Target, gauges, resolve_schedule, targets
from greg_compress.selection.plan import Plan, Share
from greg_compress.surgery.trial import prunable_wiring
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
    penalty = GrowingPenalty(schedule, [whole(weights)], [])
    found = settle(hessian, optimum, penalty, weights, 1500)
    grown = penalty.strength * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(found, torch.linalg.solve(hessian + grown, hessian @ optimum), rtol=1e-9, atol=1e-9)


def test_equilibrium_of_independent_weights_follows_curvature() -> None:
    """Equation 6: r_i = h_ii / (h_ii + dl); of equal weights the one with the larger curvature stays larger."""
    curvature = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    optimum = torch.ones(3, dtype=torch.float64)
    weights = nn.Parameter(optimum.clone())
    penalty = GrowingPenalty(GrowthSchedule(1.0, 0.1, 1, 10**6), [whole(weights)], [])
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
    penalty = GrowingPenalty(schedule, [Target(weights, mask)], [])
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
    schedule, penalize = resolve_schedule(PenaltyOptions(), steps)
    assert least <= schedule.iterations <= most
    assert schedule.ceiling == 5.0
    assert penalize is Penalize.UNIT


def picked_rows(found: list[Target], model: nn.Module) -> dict[str, list[int]]:
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
    assert picked_rows(targets(model, wiring, Plan(plan), Penalize.WEIGHTS), model) == filters
    found = picked_rows(targets(model, wiring, Plan(plan), Penalize.UNIT), model)
    biases = {name.replace("weight", "bias"): rows for name, rows in filters.items()}
    assert {name: rows for name, rows in found.items() if not name.startswith("bn")} == filters | biases


def test_batch_norm_belongs_to_the_unit() -> None:
    model = Residual()
    wiring = prunable_wiring(model, (INPUT,))
    plan = Plan({"stem": Share(6, 5, (2,))})
    found = picked_rows(targets(model, wiring, plan, Penalize.UNIT), model)
    assert {name for name in found if name.startswith("bn")} == {"bn.weight", "bn.bias"}
    assert all(rows == [2] for rows in found.values())


def test_consumers_and_unpicked_groups_get_no_penalty() -> None:
    model = Residual()
    wiring = prunable_wiring(model, (INPUT,))
    plan = Plan({"a1": Share(5, 3, (0, 4))})
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    penalty = GrowingPenalty(
        GrowthSchedule(1.0, 0.5, 1, 0),
        targets(model, wiring, plan, Penalize.WEIGHTS),
        gauges(model, wiring, plan),
    )
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
    penalty = GrowingPenalty(GrowthSchedule(1.0, 1e-4, 1, 3, stop_ratio=5.0), [], measured)
    penalty.add_gradients()
    weights[0].data[2:] = 1e-30  # the clamp keeps the ratio finite
    for _ in range(50):
        penalty.add_gradients()
    assert penalty.phase == "pushing"
    weights[1].data[2:] = 0
    penalty.add_gradients()
    assert penalty.phase == "stabilizing"
    assert penalty.status()["weakest_ratio"] < float("inf")


def test_a_penalty_goes_on_from_its_state() -> None:
    def fresh() -> tuple[GrowingPenalty, nn.Parameter]:
        weights = nn.Parameter(torch.ones(4, 2))
        gauge = Gauge(weights, torch.tensor([0]), torch.tensor([1, 2, 3]))
        target = Target(weights, torch.tensor([0.0, 1.0, 1.0, 1.0]).view(-1, 1))
        return GrowingPenalty(GrowthSchedule(1.0, 0.1, 2, 4), [target], [gauge]), weights

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
