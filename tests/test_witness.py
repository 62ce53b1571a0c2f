"""What a phase writes down of its filters' norms: the right figures, at the right iterations, few, and at no cost."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from greg_compress.long_run.saver import Saver
from greg_compress.penalty.growing import GrowingPenalty
from greg_compress.penalty.schedule import GrowthSchedule, Picking
from greg_compress.penalty.targets import Aim, Gauge, Target
from greg_compress.penalty.witness import MOST_GROUPS, MOST_UNITS, Witness, evenly
from tests.conftest import Ran
from tests.test_resume import CODE, DATA, GREG_2, NO_WORKERS

MOST = 50
"""Iterations that may be looked at."""


def four_digits(value: float) -> float:
    return float(np.format_float_scientific(value, precision=3))


def spread(weight: np.ndarray[Any, Any]) -> float:
    """Of the filters' L1 norms, in numpy: standard deviation over mean."""
    norms = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).sum(1)
    return float(norms.std() / norms.mean())


@pytest.mark.parametrize("more", [("--method", "greg-1"), ("--method", "greg-2"), ("--stop-ratio", "2")])
def test_what_is_written_down_is_what_the_weights_were(
    greg: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """The weights after every iteration, as OUT.partial would hold them, and numpy."""
    (tmp_path / "code.py").write_text(CODE)
    words = (*DATA, *NO_WORKERS)
    assert greg("train", "--arch", "code.py:Net", *words, "--iterations", "20", "-o", "dense.pt").code == 0
    seen = {0: torch.load("dense.pt", weights_only=True)["weights"]}

    def keep(_: Saver, state: Any) -> None:
        seen[state.run["loop"]["iteration"]] = state.weights

    monkeypatch.setattr(Saver, "save", keep)
    command = [word for word in GREG_2 if word not in ("--method", "greg-2", "--save-every", "5")]
    if "greg-2" not in more:
        command = [w for at, w in enumerate(command) if not any("pick" in x for x in command[max(0, at - 1) : at + 1])]
    ran = greg(*command, *more, *NO_WORKERS, "--stabilize", "30", "--save-every", "1", "-o", "o.pt")
    assert ran.code == 0, ran.err
    state = torch.load("o.pt", weights_only=True)
    metrics = state["history"][-1]["metrics"]
    seen[metrics["iterations"]] = state["weights"]
    norms = metrics["norms"]
    assert "norms" not in ran.out
    assert (metrics["iterations"] < 91) == ("--stop-ratio" in more)  # before the end that was planned
    assert [norms["iterations"][0], norms["iterations"][-1]] == [0, metrics["iterations"]]
    assert 20 <= len(norms["iterations"]) <= MOST
    assert norms["units"] == {name: share["channels"] for name, share in state["plan"].items()} == {"b": 6}
    wanted = {name: [spread(seen[k][f"{name}.weight"].numpy()) for k in norms["iterations"]] for name in norms["units"]}
    assert {name: [four_digits(v) for v in found] for name, found in wanted.items()} == norms["spread"]
    # Negative control: an iteration later it would be other figures.
    for name, found in norms["spread"].items():
        assert found != [four_digits(v) for v in wanted[name][1:] + wanted[name][:1]]
    for snapshot in norms["snapshots"]:
        for name, values in snapshot["norms"].items():
            sizes = seen[snapshot["iteration"]][f"{name}.weight"].double().abs().flatten(1).mean(1)
            assert values == [four_digits(size) for size in sizes.tolist()]
    lambdas = {line["iteration"]: line["lambda"] for line in metrics["log"]}
    known = dict(zip(norms["iterations"], norms["lambda"], strict=True))
    assert {four_digits(lambdas[k]) for k in known.keys() & lambdas} == {known[k] for k in known.keys() & lambdas}


def schedules() -> st.SearchStrategy[GrowthSchedule]:
    def made(updates: int, every: int, stabilize: int, growing: int) -> GrowthSchedule:
        picking = Picking((growing - 0.5) * 1e-3, 1e-3, -5e-4) if growing else None
        ceiling = round((updates - 0.5) * 1e-3 + growing * 1e-3, 6)
        return GrowthSchedule(ceiling, 1e-3, every, stabilize, picking=picking)

    return st.builds(made, st.integers(1, 400), st.integers(1, 10), st.integers(0, 3000), st.integers(0, 200))


def watched(schedule: GrowthSchedule, looks: list[int], units: dict[str, int] | None = None) -> Witness:
    """A witness of norms that tell one look from another."""
    sizes = units or {"a": 3}

    def norms() -> dict[str, Tensor]:
        looks.append(len(looks))
        return {name: torch.linspace(1.0, 1.0 + len(looks), n, dtype=torch.float64) for name, n in sizes.items()}

    return Witness(norms, sizes, schedule)


def live(witness: Witness, first: int, end: int) -> None:
    for iteration in range(first, end):
        witness.look(iteration, iteration * 1e-4)


@settings(max_examples=60, deadline=None)
@given(schedules())
def test_looks_are_few_and_evenly_spread(schedule: GrowthSchedule) -> None:
    looks: list[int] = []
    witness = watched(schedule, looks)
    end = schedule.iterations
    live(witness, 0, end)
    record = witness.record(end, 1.0)
    found = record["iterations"]
    picked = schedule.picking.updates * schedule.update_every if schedule.picking else 0
    assert (found[0], found[-1], record["picked"]) == (0, end, picked or None)
    assert len(found) <= MOST
    assert len(found) >= min(9, end)
    for part in ([k for k in found if k <= picked], [k for k in found[:-1] if k >= picked]):
        assert len(set(np.diff(part)[: -1 if picked in part[-1:] else None])) <= 1
    at = [snapshot["iteration"] for snapshot in record["snapshots"]]
    assert at == sorted(set(at))
    assert (at[0], at[-1]) == (0, end)
    assert len(at) <= 5
    assert picked in at
    assert len(looks) <= len(found) + MOST * 7  # what was dropped again, in a phase that mostly stabilizes


@settings(max_examples=30, deadline=None)
@given(schedules(), st.data())
def test_a_record_goes_on_and_a_longer_end_changes_nothing(schedule: GrowthSchedule, data: st.DataObject) -> None:
    """--resume from any iteration, also with a larger --stabilize than it was begun with."""
    end = schedule.iterations
    stop, shorter = data.draw(st.integers(0, end)), data.draw(st.integers(0, schedule.stabilize))
    short = GrowthSchedule(schedule.ceiling, schedule.delta, schedule.update_every, shorter, None, schedule.picking)
    looks: list[int] = []
    straight = watched(schedule, looks)
    live(straight, 0, end)
    wanted = straight.record(end, 1.0)
    again: list[int] = []
    first = watched(short, again)
    live(first, 0, stop)
    saved = pickle.loads(pickle.dumps(first.state_dict()))
    second = watched(schedule, again)
    second.load_state_dict(saved)
    live(second, stop, end)
    assert second.record(end, 1.0) == wanted


def test_a_record_is_bounded() -> None:
    """Also of a network of many large layers, in a phase that stabilizes for long."""
    units = {f"features.block{number}.conv": 4096 if number % 2 else 40 for number in range(200)}
    witness = watched(GrowthSchedule(1.0, 1e-2, 1, 3000), [], units)
    live(witness, 0, 3100)
    record = witness.record(3100, 1.0)
    assert all(len(snapshot["norms"]) == MOST_GROUPS for snapshot in record["snapshots"])
    assert max(len(values) for values in record["snapshots"][0]["norms"].values()) == MOST_UNITS
    real = len(pickle.dumps(witness.state_dict()))
    assert real <= witness.most_bytes <= 1.3 * real
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(1024, 4) == [0, 256, 512, 768]


def damage(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved.update({name: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damage("units", {"b": 3}), "other groups"),
        (damage("spread", {"b": [1.0]}), "other groups"),
        (damage("lambda", []), "other iterations"),
        (damage("iterations", [-1]), "impossible iterations"),
        (damage("step", 0), "impossible iterations"),
    ],
)
def test_what_was_saved_is_checked(change: Callable[[dict[str, Any]], None], said: str) -> None:
    schedule = GrowthSchedule(1.0, 0.01, 1, 5)
    witness = watched(schedule, [])
    live(witness, 0, 1)
    saved = pickle.loads(pickle.dumps(witness.state_dict()))
    change(saved)
    with pytest.raises(ValueError, match=said):
        watched(schedule, []).load_state_dict(saved)


def test_a_penalty_under_a_witness_is_the_same_penalty() -> None:
    """No weight, no random number, and no look between two looks."""

    def run(with_witness: bool) -> tuple[Tensor, Tensor, list[int]]:
        torch.manual_seed(0)
        weights, looks = nn.Parameter(torch.ones(4, 2)), list[int]()
        schedule = GrowthSchedule(1.0, 0.01, 3, 40)
        gauge = Gauge(weights, torch.tensor([0]), torch.tensor([1, 2, 3]))
        target = Target(weights, torch.tensor([0.0, 1.0, 1.0, 1.0]).view(-1, 1))
        witness = watched(schedule, looks) if with_witness else None
        penalty = GrowingPenalty(schedule, Aim([target], [gauge]), witness=witness)
        while not penalty.finished:
            weights.grad = torch.zeros_like(weights)
            penalty.add_gradients()
            weights.data -= 0.01 * weights.grad + 1e-4 * torch.rand(4, 2)
        assert (penalty.record() is None) != with_witness
        return weights.detach(), torch.get_rng_state(), looks

    plain, alone, _ = run(False)
    seen, beside, looks = run(True)
    assert torch.equal(plain, seen)
    assert torch.equal(alone, beside)
    assert len(looks) <= MOST


def test_an_older_partial_goes_on_without_its_beginning() -> None:
    schedule = GrowthSchedule(1.0, 0.01, 1, 5)
    old = GrowingPenalty(schedule, Aim([]))
    for _ in range(30):
        old.add_gradients()
    saved = {name: value for name, value in old.state_dict().items() if name != "witness"}
    penalty = GrowingPenalty(schedule, Aim([]), witness=watched(schedule, []))
    penalty.load_state_dict(saved)
    while not penalty.finished:
        penalty.add_gradients()
    record = penalty.record()
    assert record is not None
    assert record["iterations"][0] == 30
