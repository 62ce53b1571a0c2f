"""Single weights: picked like a plain sort does, held at exactly zero, counted in the end; and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from greg_compress import finetune
from greg_compress.criteria.weights import weight_scores
from greg_compress.errors import InputError, RequestError
from greg_compress.long_run import room
from greg_compress.options.network import ModelOptions
from greg_compress.options.penalty import Method
from greg_compress.penalty.fused import WeightSeparation
from greg_compress.penalty.growing import GrowingPenalty
from greg_compress.penalty.schedule import GrowthSchedule, Picking
from greg_compress.penalty.targets import WeightGauge
from greg_compress.penalty.weights import picked_by
from greg_compress.reporting import Reporter
from greg_compress.selection.ratios import parse_ratios
from greg_compress.selection.resolve import asked_weights
from greg_compress.sources.specs import Architecture
from greg_compress.state.format import State
from greg_compress.state.models import open_model, weights_of
from greg_compress.unstructured.hold import Hold
from greg_compress.unstructured.masks import counts_of, differing, least, zero
from greg_compress.unstructured.phase import WeightPhase
from greg_compress.wiring.groups import find_groups
from tests.conftest import DIGITS, Ran
from tests.test_interrupt import tensors_and_figures
from tests.test_penalty import WAITS, operations
from tests.test_state import content, written
from tests.test_training import assert_same

Greg = Callable[..., Ran]
DATA = ("--data", "digits", "--batch-size", "64", "--device", "cpu")


def digits() -> nn.Module:
    return open_model(ModelOptions(str(DIGITS))).model


def masked(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The masks of a state and its weights, as a file holds them."""
    data = torch.load(path, weights_only=True)
    return data["masks"], data["weights"]


# Picks.


def by_plain_sort(weights: list[float], count: int, gone: set[int]) -> set[int]:
    order = sorted(range(len(weights)), key=lambda at: (at not in gone, abs(weights[at])))  # Python's sort is stable
    return set(order[:count])


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12), st.data())
@settings(max_examples=100, deadline=None)
def test_picks_are_those_of_a_stable_sort_by_magnitude(weights: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(weights) - 1))
    gone = data.draw(st.sets(st.integers(0, len(weights) - 1), max_size=count))
    model = nn.Linear(len(weights), 1)
    model.weight.data = torch.tensor([weights], dtype=torch.float32)
    before = torch.tensor([[at in gone for at in range(len(weights))]])
    found = least({"weight": count}, {"weight": before} if gone else {}, weight_scores(model, ["weight"]))["weight"]
    assert set(found.flatten().nonzero().flatten().tolist()) == by_plain_sort(list(map(float, weights)), count, gone)
    assert counts_of({"weight": found}) == {"weight": count}


def test_that_comparison_sees_an_unstable_pick() -> None:
    assert by_plain_sort([1, -1, 1], 2, set()) == {0, 1} != by_plain_sort([1, -1, 1], 2, {2})


# Ratios.


@pytest.mark.parametrize(
    ("ratios", "skip", "wanted"),
    [
        ("0.8", (), "all but conv1"),
        ("0.8", ("layer*",), "fc"),
        ("[0.5, 0, 0, 0.25]", (), "conv1 layer3"),  # stages hold convolutions: the output layer is none of them
        ("[0-2:0.5]", (), "conv1 layer1.0.conv1 layer1.0.conv2"),
        ("layer1.0=0.3,fc=0.5,layer1.0.conv2=0", (), "layer1.0.conv1 fc"),
        ("layer1=0.5", ("layer1.1", "layer1.2.conv1"), "layer1.0.conv1 layer1.0.conv2 layer1.2.conv2"),
    ],
)
def test_ratios_reach_layers(ratios: str, skip: tuple[str, ...], wanted: str) -> None:
    model = digits()
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    found = asked_weights(parse_ratios(ratios), skip, find_groups(model, ((1, 8, 8),)), model)
    names = layers[1:] if wanted == "all but conv1" else wanted.split()
    below = [layer for layer in layers if any(layer == name or layer.startswith(f"{name}.") for name in names)]
    assert list(found) == [f"{layer}.weight" for layer in below]
    assert set(found.values()) <= {Decimal(part) for part in ("0.8", "0.5", "0.25", "0.3")}


class Loose(nn.Module):
    """Layers whose input or weight cannot be followed, and one whose weight is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.behind = nn.Linear(4, 5)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        sorted_ = self.conv(self.first(x)).mean((2, 3)).sort(dim=1).values
        return self.normed(self.behind(sorted_))


def test_what_cannot_be_followed_is_pruned_where_its_weight_is_its_own() -> None:
    model = Loose()
    wiring = find_groups(model, ((3, 8, 8),))
    assert {"conv.weight", "behind.weight"} == set(asked_weights(parse_ratios("0.5"), (), wiring, model))
    with pytest.raises(RequestError, match="nothing in normed can be pruned"):
        asked_weights(parse_ratios("normed=0.5"), (), wiring, model)


# The penalty.


def in_pairs(seed: int, layers: int = 3) -> tuple[nn.ParameterDict, dict[str, tuple[Tensor, Tensor]]]:
    random = torch.Generator().manual_seed(seed)
    model = nn.ParameterDict({f"w{at}": torch.randn(4, 3, 2, 2, generator=random) for at in range(layers)})
    picked = {name: torch.rand(weight.shape, generator=random) < 0.5 for name, weight in model.items()}
    return model, {name: (mask, ~mask) for name, mask in picked.items()}


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_gauges_are_means_over_single_weights(seed: int) -> None:
    model, parts = in_pairs(seed)
    aim = picked_by(model, parts, recover=False)
    assert all(isinstance(gauge, WeightGauge) for gauge in aim.gauges)
    found = WeightSeparation([gauge for gauge in aim.gauges if isinstance(gauge, WeightGauge)]).ratios()
    weights = {name: weight.detach().abs() for name, weight in model.items()}
    wanted = [float(weights[n][~gone].mean() / weights[n][gone].mean()) for n, (gone, _) in parts.items()]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_lambda_pulls_at_single_weights() -> None:
    model, parts = in_pairs(1)
    for weight in model.values():
        weight.grad = torch.zeros_like(weight)
    picking = Picking(0.05, 0.1, -0.01)
    aim = picked_by(model, parts, recover=True)
    penalty = GrowingPenalty(GrowthSchedule(1.0, 0.5, 1, 3, None, picking), aim, lambda _: ({}, aim))
    for _ in range(2):
        for weight in model.values():
            weight.grad.zero_()
        penalty.add_gradients()
    assert penalty.strength == 0.6
    for name, (picked, _) in parts.items():
        weight = model[name].detach()
        torch.testing.assert_close(model[name].grad, torch.where(picked, 0.6, -0.01) * weight)


def test_nothing_waits_for_the_device_or_takes_more_calls_with_more_weights() -> None:
    def seen(layers: int) -> list[str]:
        model, parts = in_pairs(1, layers)
        for weight in model.values():
            weight.grad = torch.zeros_like(weight)
        return operations(GrowingPenalty(GrowthSchedule(1.0, 1e-4, 1, 9, 5.0), picked_by(model, parts, False)))

    assert seen(3) == seen(30)
    assert "_foreach_norm" in seen(3)
    assert not set(seen(3)) & set(WAITS)


SCHEDULE = GrowthSchedule(1.0, 0.05, 1, 4, None, Picking(0.05, 0.01, -5e-4))


def phase_of(method: Method, model: nn.Module, gone: dict[str, Tensor]) -> WeightPhase:
    schedule = SCHEDULE if method is Method.GREG_2 else GrowthSchedule(1.0, 0.05, 1, 4)
    return WeightPhase(model, gone, {"0.weight": 30, "2.weight": 7}, schedule, method, Reporter(), {})


def test_frozen_weights_are_not_said_to_shrink() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model[2].requires_grad_(False)
    with pytest.raises(RequestError, match=r"2.weight is frozen"):
        phase_of(Method.GREG_1, model, {})
    gone = least({"2.weight": 7}, {}, weight_scores(model, ["2.weight"]))
    phase_of(Method.GREG_1, model, gone)  # those went before


def advance(model: nn.Module, phase: WeightPhase, optimizer: torch.optim.Optimizer, steps: int, first: int) -> None:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        images = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        model(images).square().sum().backward()
        phase.add_gradients()
        optimizer.step()


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("stop", [2, 9, 20])
def test_the_phase_goes_on_as_if_never_stopped_and_holds_what_went_before(method: Method, stop: int) -> None:
    """Resumed before GReg-2 picks, after, and while it stabilizes."""
    torch.manual_seed(0)
    straight = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    gone = least({"0.weight": 10}, {}, weight_scores(straight, ["0.weight"]))
    zero(straight, gone)
    interrupted = copy.deepcopy(straight)

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)

    whole, its = phase_of(method, straight, gone), optimizer(straight)
    advance(straight, whole, its, 25, 0)
    first, own = phase_of(method, interrupted, gone), optimizer(interrupted)
    advance(interrupted, first, own, stop, 0)
    saved = copy.deepcopy(first.state_dict())
    second = phase_of(method, interrupted, gone)
    second.load_state_dict(saved)
    advance(interrupted, second, own, 25 - stop, stop)
    assert_same(dict(straight.state_dict()), dict(interrupted.state_dict()))
    masks, others = whole.conclude()[0]["masks"], second.conclude()[0]["masks"]
    assert_same(masks, others)
    assert whole.conclude()[1] == second.conclude()[1]
    assert counts_of(masks) == {"0.weight": 30, "2.weight": 7}
    assert differing(gone, masks) == 0
    assert int((straight[0].weight == 0).sum()) == 10
    with pytest.raises(ValueError, match="masks of other weights"):
        second.load_state_dict(saved | {"first": {name: ~mask for name, mask in saved["first"].items()}})


def test_the_size_of_a_partial_counts_masks() -> None:
    model = nn.Linear(300, 400)
    masks = {"weight": torch.zeros(400, 300, dtype=torch.bool)}
    state = State("finetuned", Architecture("x"), ((300,),), weights_of(model), masks=masks)
    plain = State("finetuned", Architecture("x"), ((300,),), weights_of(model))
    more = room.partial_bytes(model, True, state, {"first": masks}) - room.partial_bytes(model, True, plain)
    assert 3 * 120_000 <= more <= 3 * 120_000 + 4000


# The chain.


@pytest.fixture(scope="module")
def one_shot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned state: 90 % of every layer but the first convolution."""
    from tests import program

    folder = tmp_path_factory.mktemp("unstructured")
    ran = program.greg(folder, "prune", DIGITS, "--unstructured", "--ratios", "0.9", "-o", "p.pt", "--json")
    assert ran.code == 0, ran.err
    report = ran.json
    assert report["macs_speedup"] == 1.0
    assert report["params"]["before"] == report["params"]["after"] == 1_073_386
    assert report["zeros"] == {"before": 0, "after": sum(at["weights"] - at["kept"] for at in report["layers"])}
    assert report["sparsity"] == pytest.approx(100 * report["zeros"]["after"] / 1_073_386)
    assert report["self_check"] == {"max_rel_error": 0.0, "passed": True, "unchecked": []}
    return folder / "p.pt"


def held(before: Path, after: Path) -> bool:
    """Whether all that was masked is exactly zero still, and something else has moved."""
    masks, _ = masked(before)
    _, weights = masked(after)
    assert_same(masks, masked(after)[0])
    assert any(not torch.equal(weights[name], old) for name, old in masked(before)[1].items())
    return all(not weights[name][mask].any() for name, mask in masks.items())


def test_the_chain_ends_in_an_onnx_file_with_zeros(greg: Greg, one_shot: Path, tmp_path: Path) -> None:
    assert greg("finetune", one_shot, *DATA, "--iterations", "6", "--accumulate", "2", "-o", "f.pt").code == 0
    assert held(one_shot, tmp_path / "f.pt")
    evaluated = greg("evaluate", "f.pt", "--data", "digits", "--json").json
    masks, weights = masked(tmp_path / "f.pt")
    removed = sum(counts_of(masks).values())
    assert evaluated["zeros"] == removed == sum(int((w == 0).sum()) for n, w in weights.items() if "running" not in n)
    assert evaluated["sparsity"] == pytest.approx(100 * removed / 1_073_386)
    layers = greg("analyze", "f.pt", "--json").json["layers"]
    assert sum(layer["zeros"] for layer in layers) == removed
    assert "zero" in greg("evaluate", "f.pt", "--data", "digits").out
    exported = greg("export", "f.pt", "-o", "f.onnx", "--runs", "5", "--json")
    assert "was never cut" not in exported.err
    dense = greg("export", DIGITS, "-o", "d.onnx", "--runs", "5", "--json").json
    assert exported.json["parity"]["passed"]
    assert (exported.json["zeros"], dense["zeros"]) == (removed, 0)
    arrays = [onnx.numpy_helper.to_array(held) for held in onnx.load(tmp_path / "f.onnx").graph.initializer]
    assert removed == sum(int((array == 0).sum()) for array in arrays if array.dtype.kind == "f")
    assert exported.json["size"] == pytest.approx(dense["size"], rel=0.01)
    assert exported.json["compressed_size"] < 0.25 * dense["compressed_size"]


def test_without_the_hold_zeros_move(
    greg: Greg, one_shot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "Hold", lambda *_: None)
    assert greg("finetune", one_shot, *DATA, "--iterations", "2", "-o", "f.pt").code == 0
    assert not held(one_shot, tmp_path / "f.pt")


def test_finetuning_goes_on_from_where_it_stopped(
    greg: Greg, one_shot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("finetune", one_shot, *DATA, "--precision", "fp32", "--decay", "constant", "--warmup", "0")
    assert greg(*words, "--iterations", "6", "-o", "straight.pt").code == 0
    step = Hold.add_gradients
    calls: list[int] = []

    def failing(self: Hold) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise MemoryError
        step(self)

    with monkeypatch.context() as patched:
        patched.setattr(Hold, "add_gradients", failing)
        assert greg(*words, "--iterations", "6", "--save-every", "2", "-o", "o.pt").code == 1
    assert (tmp_path / "o.pt.partial").exists()
    assert greg(*words, "--iterations", "6", "--save-every", "2", "-o", "o.pt", "--resume").code == 0
    assert_same(tensors_and_figures(tmp_path / "straight.pt"), tensors_and_figures(tmp_path / "o.pt"))
    assert held(one_shot, tmp_path / "o.pt")


PHASE = ("--ceiling", "0.1", "--delta", "0.03", "--stabilize", "2")


@pytest.mark.parametrize("method", Method)
def test_regularize_and_prune_take_the_same_weights(greg: Greg, tmp_path: Path, method: Method) -> None:
    words = ("regularize", DIGITS, *DATA, "--unstructured", "--ratios", "0.8", *PHASE, "--method", method)
    more = ("--pick-ceiling", "0.01", "--pick-delta", "0.004") if method is Method.GREG_2 else ()
    ran = greg(*words, *more, "-o", "r.pt", "--json")
    assert ran.code == 0, ran.err
    masks, weights = masked(tmp_path / "r.pt")
    assert all(bool(weights[name][mask].any()) for name, mask in masks.items())  # small, not gone
    assert greg("prune", "r.pt", "-o", "p.pt", "--json").json["l1_differs"] is not None
    assert_same(masked(tmp_path / "p.pt")[0], masks)
    assert all(not masked(tmp_path / "p.pt")[1][name][mask].any() for name, mask in masks.items())
    assert greg("prune", "r.pt", "--unstructured", "--ratios", "0.8", "-o", "q.pt").code == 0
    if method is Method.GREG_1:  # and one-shot takes exactly these
        assert greg("prune", DIGITS, "--unstructured", "--ratios", "0.8", "-o", "o.pt").code == 0
        assert_same(masked(tmp_path / "o.pt")[0], masks)
    ran = greg("prune", "r.pt", "--unstructured", "--ratios", "0.7", "-o", "x.pt")
    assert ran.code == 2
    assert "was regularized to lose 7373; leave --unstructured and --ratios out" in ran.error()


def test_a_second_round_takes_what_is_gone_first(greg: Greg, one_shot: Path, tmp_path: Path) -> None:
    assert greg("prune", one_shot, "--unstructured", "--ratios", "layer1=0.95,layer2=0.5", "-o", "again.pt").code == 0
    first, second = masked(one_shot)[0], masked(tmp_path / "again.pt")[0]
    assert differing(first, second) == 0
    grown = {name for name in second if int(second[name].sum()) > int(first[name].sum())}
    assert grown == {name for name in first if name.startswith("layer1")}
    words = ("regularize", one_shot, *DATA, "--unstructured", "--ratios", "0.95", *PHASE, "-o", "r.pt")
    assert greg(*words).code == 0
    masks, weights = masked(tmp_path / "r.pt")
    assert differing(first, masks) == 0
    assert all(not weights[name][mask].any() for name, mask in first.items())
    ran = greg("prune", one_shot, "--unstructured", "--ratios", "0.9", "-o", "x.pt")
    assert ran.code == 3
    assert "removes no weight more than is gone already" in ran.error()


def test_single_weights_of_a_smaller_network(greg: Greg, tmp_path: Path) -> None:
    assert greg("prune", DIGITS, "--ratios", "0.5", "-o", "small.pt").code == 0
    assert greg("prune", "small.pt", "--unstructured", "--ratios", "0.5", "-o", "both.pt").code == 0
    opened = open_model(ModelOptions(str(tmp_path / "both.pt")))
    assert opened.state.shapes
    assert opened.state.masks
    assert greg("finetune", "both.pt", *DATA, "--iterations", "2", "-o", "f.pt").code == 0
    assert held(tmp_path / "both.pt", tmp_path / "f.pt")


# What is refused.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--align", "8"), "--align would have no effect: --unstructured"),
        (("--coupled",), "--coupled would have no effect: --unstructured"),
        (("--scope", "global"), "--scope would have no effect: --unstructured"),
        (("--max-ratio", "0.5"), "--max-ratio would have no effect: --unstructured"),
        (("--target-macs", "50%"), "--target-macs would have no effect: --unstructured"),
        (("--target-params", "50%"), "--target-params would have no effect: --unstructured"),
        (("--plan", "p.json"), "--plan would have no effect: --unstructured"),
    ],
)
@pytest.mark.parametrize("command", ["analyze", "prune", "regularize"])
def test_options_for_channels(greg: Greg, command: str, words: tuple[str, ...], says: str) -> None:
    more = {"analyze": (), "prune": ("-o", "x.pt"), "regularize": ("-o", "x.pt", "--data", "digits")}[command]
    for ratios in (("--ratios", "0.5"), ()):
        ran = greg(command, DIGITS, "--unstructured", *ratios, *words, *more)
        assert ran.code == 2
        assert says in ran.error()


def test_other_requests_that_are_wrong(greg: Greg, one_shot: Path) -> None:
    regularize = ("regularize", DIGITS, "--data", "digits", "-o", "x.pt")
    wanted = {
        ("prune", DIGITS, "--unstructured", "-o", "x.pt"): "--unstructured would have no effect without --ratios",
        (
            *regularize,
            "--unstructured",
            "--ratios",
            "0.5",
            "--penalize",
            "unit",
        ): "--penalize unit would have no effect",
        ("analyze", DIGITS, "--unstructured", "--ratios", "0.5", "--plan-out", "p.json"): "--plan-out would have no",
        ("prune", one_shot, "--ratios", "0.5", "-o", "x.pt"): "loses single weights, and a cut of channels",
        ("analyze", one_shot, "--ratios", "0.5"): "loses single weights, and a cut of channels",
        ("regularize", one_shot, "--data", "digits", "--ratios", "0.5", "-o", "x.pt"): "loses single weights",
        ("prune", one_shot, "-o", "x.pt"): "carries no picks",
        ("prune", DIGITS, "--unstructured", "--ratios", "nothing=0.5", "-o", "x.pt"): "matches no layer",
    }
    for words, says in wanted.items():
        ran = greg(*words)
        assert (ran.code, says in ran.error()) == (2, True), words


def test_analyze_says_what_would_be_zero(greg: Greg) -> None:
    report = greg("analyze", DIGITS, "--unstructured", "--ratios", "fc=0.5", "--json").json
    assert (report["zeros"], report["plan"]["zeros"], report["plan"]["macs_speedup"]) == (0, 640, 1.0)
    assert {layer["name"]: layer["left"]["zeros"] for layer in report["layers"]}["fc"] == 640
    assert "640 zeros" in greg("analyze", DIGITS, "--unstructured", "--ratios", "fc=0.5").out


FC = torch.zeros(10, 128, dtype=torch.bool)


@pytest.mark.parametrize(
    ("masks", "stage", "says"),
    [
        ([], "pruned", "'masks' is missing or of the wrong type"),
        ({"fc.weight": FC.float()}, "pruned", "not all tensors of yes and no"),
        ({"fc.weight": [True]}, "pruned", "not all tensors of yes and no"),
        ({5: FC}, "pruned", "not all tensors of yes and no"),
        ({"nowhere": FC}, "pruned", "a mask of 10x128 for nowhere"),
        ({"fc.weight": FC.T}, "pruned", "a mask of 128x10 for fc.weight"),
        ({"bn1.running_var": torch.zeros(32, dtype=torch.bool)}, "pruned", "no such parameter"),
        ({"fc.weight": ~FC}, "finetuned", "that its mask removes are not zero"),
        ({"fc.weight": FC}, "dense", "a dense state has no masks"),
        ({"fc.weight": torch.zeros(1, dtype=torch.bool).expand(10**12)}, "pruned", "too little storage"),
    ],
)
def test_masks_that_do_not_belong(tmp_path: Path, masks: Any, stage: str, says: str) -> None:
    data = content()
    data.update(version=3, groups={}, input_shapes=[[1, 8, 8]], masks=masks, stage=stage)
    with pytest.raises(InputError, match=says):
        open_model(ModelOptions(str(written(tmp_path / "s.pt", data))))
