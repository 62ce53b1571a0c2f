"""The Python interface: what the command line does, in memory, and the penalty in a loop of somebody else's."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import greg_compress
from greg_compress.errors import CheckFailed
from greg_compress.sources.data import load_data
from greg_compress.sources.specs import parse_data
from greg_compress.state.files import load
from greg_compress.surgery.cut import Form, cut, form_of
from greg_compress.training.batches import Batches
from sample_models.resnet_cifar import resnet20
from tests.conftest import RESNET, ROOT, Ran
from tests.zoo import (
    Chain,
    Depthwise,
    Fixed,
    Functional,
    Grouped,
    GroupNormed,
    Residual,
    Shuffled,
    TwoInputs,
    Upward,
    WholeGroups,
    inputs_of,
)

Greg = Callable[..., Ran]
SHAPE = (1, 8, 8)


ARCH, ARGUMENTS = f"{RESNET}:resnet20", {"in_channels": 1, "width": 4}


def narrow() -> greg_compress.Network:
    """A ResNet-20 that is fast, always with the same weights, and in `base.pt` for the command line."""
    torch.manual_seed(0)
    network = greg_compress.Network(resnet20(**ARGUMENTS), SHAPE)
    network.save("base.pt", ARCH, ARGUMENTS, force=True)
    return network


def same_tensors(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def public(kind: type) -> list[str]:
    return sorted(name for name in vars(kind) if not name.startswith("_"))


def test_the_public_names() -> None:
    assert greg_compress.__all__ == ["GregError", "Network", "Penalty", "__version__", "load"]
    assert public(greg_compress.Network) == [
        *("analyze", "cost", "export", "groups", "plan", "prune", "require_own", "save")
    ]
    assert public(greg_compress.Penalty) == [
        *(
            "add_gradients",
            "finished",
            "iterations",
            "load_state_dict",
            "phase",
            "plan",
            "prune",
            "state_dict",
            "status",
        )
    ]
    assert {"Network", "Penalty"} <= set(dir(greg_compress))
    with pytest.raises(AttributeError, match="no attribute 'Netwrok'"):
        greg_compress.Netwrok  # type: ignore[attr-defined]  # noqa: B018


def test_to_import_it_takes_no_torch_until_it_is_used() -> None:
    script = (
        "import sys, greg_compress as g\n"
        "g.load, g.GregError\nprint('torch' in sys.modules)\ng.Penalty\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True"]


RATIOS: list[tuple[Any, dict[str, Any], list[str]]] = [
    (0.5, {}, ["--ratios", "0.5"]),
    (
        {"layer1": 0.25, "layer2.*.conv1": 0.5, "layer3": 0.75},
        {"skip": ["layer3.1"], "criterion": "random:3", "align": 2},
        [
            *("--ratios", "layer1=0.25,layer2.*.conv1=0.5,layer3=0.75"),
            *("--skip", "layer3.1", "--criterion", "random:3", "--align", "2"),
        ],
    ),
    (
        None,
        {"target_macs": 0.63, "scope": "global", "coupled": True},
        ["--target-macs", "63%", "--scope", "global", "--coupled"],
    ),
]


@pytest.mark.parametrize(("ratios", "words", "typed"), RATIOS, ids=["one", "names", "target"])
def test_plan_analysis_and_cut_are_the_command_lines(
    greg: Greg, ratios: Any, words: dict[str, Any], typed: list[str]
) -> None:
    network = narrow()
    before = copy.deepcopy(network.model)
    plan = network.plan(ratios, **words)
    small = network.prune(plan)
    done = greg("prune", "base.pt", *typed, "-o", "p.pt", "--json")
    assert done.code == 0, done.err
    assert load(Path("p.pt"))[0].plan == plan.to_json()
    assert same_tensors(small.model, greg_compress.load("p.pt"))
    assert done.json["params"] == {"before": small.before.params, "after": small.after.params}
    assert (done.json["macs_speedup"], done.json["sparsity"]) == (small.macs_speedup, small.sparsity)
    assert done.json["self_check"] == small.check.to_json()
    assert same_tensors(network.model, before)
    if "skip" in words:
        shown = greg("analyze", "base.pt", *typed, "--json").json
        assert shown == {**json.loads(json.dumps(network.analyze(plan))), "passed": True}


def test_another_plan_is_another_network(greg: Greg) -> None:
    """What the comparison above must notice: one other unit of one group."""
    network = narrow()
    small, other = (network.prune(network.plan(0.5, criterion=f"random:{seed}")).model for seed in (0, 1))
    assert small.conv1.weight.shape == other.conv1.weight.shape
    assert not same_tensors(small, other)


@pytest.mark.parametrize("method", ["greg-2", pytest.param("greg-1", marks=pytest.mark.slow)])
def test_the_penalty_in_a_plain_loop_is_what_regularize_does(greg: Greg, method: Any) -> None:
    """The same images in the same order: then the same picks, the same weights bit for bit, and the same cut."""
    typed = f"--ratios 0.5 --method {method} --batch-size 64 --scale 0.06 --precision fp32 --seed 5".split()
    network = narrow()
    assert greg("regularize", "base.pt", *typed, "--data", "digits", "--device", "cpu", "-o", "r.pt").code == 0
    assert greg("prune", "r.pt", "-o", "p.pt").code == 0
    model = network.model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), 3e-2, momentum=0.9, weight_decay=5e-4, fused=True)
    data = load_data(parse_data("digits"))
    batches = Batches(data.train, data.normalization, 64, seed=5)
    penalty = greg_compress.Penalty(network, network.plan(0.5), optimizer, len(batches), method=method, scale=0.06)
    steps = 0
    while not penalty.finished:
        images, labels = next(batches.epoch(*divmod(steps, len(batches))))
        optimizer.zero_grad()
        F.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels).backward()
        penalty.add_gradients()
        optimizer.step()
        steps += 1
    state = load(Path("r.pt"))[0]
    assert steps == penalty.iterations == state.history[-1]["metrics"]["iterations"]
    assert penalty.plan is not None
    assert state.plan == penalty.plan.to_json()
    assert same_tensors(model, greg_compress.load("r.pt"))
    small = penalty.prune()
    assert small.folding is not None
    assert same_tensors(small.model, greg_compress.load("p.pt"))
    assert state.history[-1]["metrics"]["log"][-1]["lambda"] == penalty.status()["lambda"]


def flat(network: greg_compress.Network, optimizer: torch.optim.Optimizer, penalty: greg_compress.Penalty) -> None:
    """A step on a loss that is flat."""
    optimizer.zero_grad()
    (0.0 * sum(parameter.sum() for parameter in network.model.parameters())).backward()  # type: ignore[union-attr]
    penalty.add_gradients()
    optimizer.step()


def algorithm_1(weight: float, decay: float, picked: bool, updates: int, grow: int) -> float:
    """GReg-2 on one weight and a flat loss, in Python's numbers: tau' in `grow` updates by 0.01, then `updates` by 0.1,
    one in each step, and 3 steps more; the learning rate is 0.1."""
    for step in range(grow + updates + 3):
        lambda_j = 0.01 * min(step + 1, grow) + 0.1 * min(max(0, step + 1 - grow), updates)
        if step >= grow and not picked:
            lambda_j = -decay
        weight -= 0.1 * (decay + lambda_j) * weight
    return weight


def test_every_parameter_recovers_with_its_own_weight_decay() -> None:
    """GReg-2 in a loop whose BatchNorm has no weight decay, as is usual, against Algorithm 1 in plain Python."""
    model = Chain().double()
    network = greg_compress.Network(model, (3, 8, 8))
    norms = [*model.bn.parameters()]
    others = [p for p in model.parameters() if all(p is not norm for norm in norms)]
    nn.init.uniform_(model.bn.bias)
    optimizer = torch.optim.SGD([{"params": others, "weight_decay": 0.2}, {"params": norms}], lr=0.1)
    start = copy.deepcopy(model)
    plan = network.plan({"a": 0.5})
    settings: Any = {"ceiling": 0.5, "delta": 0.1, "update_every": 1, "stabilize": 3, "penalize": "unit"}
    penalty = greg_compress.Penalty(
        network, plan, optimizer, 1, method="greg-2", pick_ceiling=0.05, pick_delta=0.01, **settings
    )
    assert penalty.plan is None
    steps = 0
    while not penalty.finished:
        flat(network, optimizer, penalty)
        steps += 1
    grow, updates = 6, steps - 6 - 3
    assert steps == penalty.iterations
    assert penalty.status()["lambda"] == pytest.approx(0.06 + 0.1 * updates)
    assert penalty.plan is not None
    gone = penalty.plan.shares["a"].removed or ()
    for name, decay in (("a.weight", 0.2), ("bn.weight", 0.0), ("bn.bias", 0.0)):
        old, new = start.get_parameter(name), model.get_parameter(name)
        for unit in range(6):
            first, last = (each.detach()[unit].flatten()[0].item() for each in (old, new))
            wanted = algorithm_1(first, decay, unit in gone, updates, grow)
            assert last == pytest.approx(wanted, rel=1e-9), (name, unit)
            if decay:
                assert last != pytest.approx(algorithm_1(first, 0.0, unit in gone, updates, grow), rel=1e-3)


def begun(seed: int, method: Any = "greg-2") -> tuple[nn.Module, torch.optim.Optimizer, greg_compress.Penalty]:
    torch.manual_seed(seed)
    model = Residual()
    network = greg_compress.Network(model, (3, 8, 8))
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=5e-4)
    plan = network.plan(0.5)
    return model, optimizer, greg_compress.Penalty(network, plan, optimizer, 5, method=method, scale=0.05)


def steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, penalty: greg_compress.Penalty, start: int, stop: int
) -> None:
    for step in range(start, stop):
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.arange(4)).backward()
        penalty.add_gradients()
        optimizer.step()


def through_a_file(value: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize(("method", "stop"), [("greg-1", 4), ("greg-2", 1), ("greg-2", 7)])
def test_a_loop_that_is_stopped_goes_on_bit_for_bit(method: Any, stop: int) -> None:
    whole = begun(0, method)
    steps(*whole, 0, total := whole[2].iterations)
    assert whole[2].finished
    stopped = begun(0, method)
    steps(*stopped, 0, stop)
    saved = through_a_file([part.state_dict() for part in stopped])
    again = begun(1, method)  # other weights, and so another plan, until the states are loaded
    for part, state in zip(again, saved, strict=True):
        part.load_state_dict(state)
    steps(*again, stop, total)
    assert same_tensors(whole[0], again[0])
    assert whole[2].plan == again[2].plan
    assert again[2].finished
    forgetful = begun(0, method)
    forgetful[0].load_state_dict(saved[0])
    forgetful[1].load_state_dict(saved[1])
    steps(*forgetful, stop, total)
    assert not same_tensors(whole[0], forgetful[0])


def test_a_state_of_other_settings_changes_nothing() -> None:
    model, optimizer, penalty = begun(0, "greg-1")
    steps(model, optimizer, penalty, 0, 3)
    before = penalty.state_dict()
    other = begun(0, "greg-2")[2].state_dict()
    damaged = {**before, "penalty": {**before["penalty"], "updates": 99}}
    for state in (other, damaged, {}, {**before, "plan": {"nothing": {}}}):
        with pytest.raises(greg_compress.GregError, match=r"does not fit the penalty|picks are damaged"):
            penalty.load_state_dict(state)
    assert penalty.state_dict() == before


SOME = (Chain, Residual, Grouped, WholeGroups, Depthwise, Upward, TwoInputs, Functional, Fixed, GroupNormed, Shuffled)


@pytest.mark.parametrize("kind", SOME, ids=lambda kind: kind.__name__)
def test_networks_of_the_zoo(kind: Any) -> None:
    """What an analysis foretells is what the cut leaves, and what a cut network's form is shows beside an uncut one."""
    torch.manual_seed(0)
    model = kind().train()
    network = greg_compress.Network(model, inputs_of(model))
    assert {group.name for group in network.groups} == kind.groups.keys()
    assert str(network).count("\n") == len(kind.groups)
    plan = network.plan({"*": 0.5})
    small = network.prune(plan)
    foretold = network.analyze(plan)["plan"]
    assert (small.after.params, small.after.macs) == (foretold["params"], foretold["macs"])
    assert sum(parameter.numel() for parameter in small.model.parameters()) == small.after.params
    assert small.model.training
    assert form_of(small.model, kind()) == small.form


def test_a_form_knows_whole_groups_from_equal_offsets() -> None:
    """Shapes alone do not tell them: the test above must not pass with groups forgotten."""
    forms = []
    for kind in (WholeGroups, Grouped, Depthwise):
        network = greg_compress.Network(kind(), (3, 8, 8))
        forms.append(network.prune(network.plan(0.5)).form)
    assert any(form.groups for form in forms)
    whole = next(form for form in forms if form.groups)
    assert Form(whole.shapes) != whole


def test_the_command_line_goes_on_from_what_was_saved(greg: Greg) -> None:
    network = narrow()
    small = greg_compress.Network(network.prune(network.plan(0.4)).model, SHAPE)
    again = greg_compress.Network(small.prune(small.plan({"layer3": 0.5})).model, SHAPE)
    again.save("s.pt", ARCH, ARGUMENTS)
    assert same_tensors(greg_compress.load("s.pt", arch=ARCH), again.model)
    assert "saved from Python" in greg("show", "s.pt").out
    words = ("--arch", ARCH, "--data", "digits", "--batch-size", "64", "--iterations", "2", "-o", "f.pt")
    done = greg("finetune", "s.pt", *words)
    assert done.code == 0, done.err
    assert "no trained weights" not in done.err
    with pytest.raises(greg_compress.GregError, match="exists"):
        again.save("s.pt", ARCH, ARGUMENTS)
    kept = Path("s.pt").read_bytes()
    for wrong in ({"in_channels": 1, "width": 3}, {**ARGUMENTS, "num_classes": 9}):
        with pytest.raises(greg_compress.GregError, match=r"fit|cut"):
            again.save("s.pt", ARCH, wrong, force=True)
    assert Path("s.pt").read_bytes() == kept


def test_export_writes_the_network_and_times_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = greg_compress.Network(Chain(), (3, 8, 8))
    small = dense.prune(dense.plan(0.5))
    network = greg_compress.Network(small.model, (3, 8, 8))
    path = tmp_path / "s.onnx"
    report = network.export(path, baseline=dense, runs=20)
    assert report["macs_speedup"] == pytest.approx(small.macs_speedup)
    assert report["parity"]["passed"]
    assert report["speedup"] > 0
    assert report["size"] == path.stat().st_size < report["baseline_size"]
    images = torch.randn(3, 3, 8, 8)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {"input": images.numpy()})
    numpy.testing.assert_allclose(found, small.model.eval()(images).detach().numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(greg_compress.GregError, match="exists"):
        network.export(path)


def chain() -> greg_compress.Network:
    return greg_compress.Network(Chain(), (3, 8, 8))


def penalised(optimizer: Any = torch.optim.SGD, **settings: Any) -> greg_compress.Penalty:
    network = chain()
    return greg_compress.Penalty(
        network, network.plan(0.5), optimizer(network.model.parameters(), lr=0.1), 10, **settings
    )


def half_trained() -> greg_compress.Penalty:
    network = chain()
    optimizer = torch.optim.SGD([*network.model.a.parameters(), *network.model.fc.parameters()], lr=0.1)  # type: ignore[union-attr]
    return greg_compress.Penalty(network, network.plan(0.5), optimizer, 10)


def with_images(criterion: str) -> Any:
    images: list[tuple[Tensor, Tensor]] = [(torch.randn(2, 3, 8, 8), torch.arange(2))]
    return chain().plan(0.5, criterion=criterion, images=images)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: greg_compress.Network("x.pt", (3, 8, 8)), "a torch.nn.Module is wanted, not str"),  # type: ignore[arg-type]
        (lambda: greg_compress.Network(Chain(), 8), "write the shape of one sample"),  # type: ignore[arg-type]
        (lambda: greg_compress.Network(Chain(), (1, 8, 8)), "does not run with input 1x8x8"),
        (lambda: greg_compress.Network(nn.DataParallel(Chain()), (3, 8, 8)), "give its .module"),
        (lambda: chain().plan(), "say what to prune"),
        (lambda: chain().plan(0.5, target_macs=0.5), "not --ratios and --target-macs"),
        (lambda: chain().plan(1.5), "1.5 is not a ratio"),
        (lambda: chain().plan([0.5]), "has 1 numbers, but the network has 2 stages"),
        (lambda: chain().plan({"c": 0.5}), "matches no layer"),
        (lambda: chain().plan(0.5, skip="*"), "removes nothing"),
        (lambda: chain().plan(0.5, coupled=True), "no addition ties layers"),
        (lambda: chain().plan(0.5, scope="globl"), "scope 'globl': write local, global"),  # type: ignore[arg-type]
        (lambda: chain().plan(0.5, criterion="obd"), "obd needs images"),
        (lambda: with_images("l1"), "images would have no effect"),
        (lambda: chain().prune(greg_compress.Network(Residual(), (3, 8, 8)).plan(0.5)), "a plan of another network"),
        (lambda: penalised(torch.optim.AdamW), "needs torch.optim.SGD: AdamW"),
        (lambda: penalised(method="greg-3"), "write greg-1, greg-2"),
        (lambda: penalised(recover=0.0), "no effect without --method greg-2"),
        (lambda: penalised().add_gradients(), "comes after backward"),
        (lambda: penalised().prune(), "still pushing"),
        (lambda: penalised(method="greg-2").prune(), "still growing"),
        (half_trained, "does not train b.weight"),
        (lambda: chain().save("x.pt", "no such thing"), "is no architecture"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(wrong: Callable[[], Any], said: str) -> None:
    with pytest.raises(greg_compress.GregError) as caught:
        wrong()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_criterion_of_images() -> None:
    assert with_images("taylor").counts == chain().plan(0.5).counts


def test_a_cut_that_is_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is made here as well: a cut that takes a weight too much of what stays."""
    network = chain()
    plan = network.plan(0.5)

    def careless(model: nn.Module, wiring: Any, removed: Tensor) -> Form:
        form = cut(model, wiring, removed)
        with torch.no_grad():
            model.b.weight[0, 0] = 0  # type: ignore[union-attr,index]
        return form

    monkeypatch.setattr("greg_compress.surgery.pruned.cut", careless)
    with pytest.raises(CheckFailed, match="masked and sliced outputs differ"):
        network.prune(plan)
