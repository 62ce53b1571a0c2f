"""Folding at the cut: what picked filters still make is constant, and their readers can hold it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

import greg_compress
from greg_compress.errors import RequestError
from greg_compress.prune import _tell
from greg_compress.reporting import Reporter
from greg_compress.selection.plan import Plan, Share
from greg_compress.state import files
from greg_compress.surgery.folding import Folding, folded, zero_filters
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.training.recalibration import recalibrate
from greg_compress.wiring.skeleton import output_tensors
from tests.conftest import DIGITS, Ran
from tests.cutting import examples, random_plan, settle, sliced
from tests.zoo import INPUT, ZOO, Upward, conv, inputs_of

EXACT = 1e-9


def without_borders(model: nn.Module) -> nn.Module:
    """Every position of a convolution sees as much as any other."""
    for module in model.modules():
        if isinstance(module, _ConvNd) and not module.transposed and any(module.padding):
            module.padding_mode = "circular"
    return model


def apart(one: nn.Module, other: nn.Module, net: object) -> float:
    with torch.no_grad():
        both = [output_tensors(each(*examples(inputs_of(net)))) for each in (one, other)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*both, strict=True))


def at_zero(net: type[nn.Module]) -> tuple[float, float, tuple[str, ...]]:
    """How far a cut of filters at zero is from the whole network: without folding, with it, and what was left."""
    torch.manual_seed(0)
    model = without_borders(settle(net()))
    wiring = prunable_wiring(model, inputs_of(net))
    removed = random_plan(wiring).removed_units(wiring)
    zero_filters(model, wiring, removed)
    small = sliced(model, wiring, random_plan(wiring))
    found = folded(model, small, wiring, removed)
    return apart(small, model, net), apart(found.network, model, net), found.left


@pytest.mark.parametrize("net", ZOO)
def test_a_cut_of_filters_at_zero_changes_nothing_once_it_is_folded(net: type[nn.Module]) -> None:
    before, after, left = at_zero(net)
    assert after < EXACT or left or net is Upward  # a transposed convolution has borders that nothing takes away
    assert after <= before + EXACT


def test_that_test_is_no_empty_one() -> None:
    """Most networks lose something without folding, and few readers are left over."""
    found = {net.__name__: at_zero(net) for net in ZOO}
    assert sum(before > 1e-3 for before, _, _ in found.values()) > 15
    mended = [name for name, (before, after, left) in found.items() if before > 1e-3 and after < EXACT and not left]
    assert len(mended) > 12, found


def cut_at_zero(model: nn.Module, plan: Plan) -> tuple[nn.Module, Folding]:
    """Put the filters that a plan removes to zero; the network cut, and what folding makes of that."""
    wiring = prunable_wiring(model, (INPUT,))
    removed = plan.removed_units(wiring)
    zero_filters(model, wiring, removed)
    small = sliced(model, wiring, plan)
    return small, folded(model, small, wiring, removed)


class Unbiased(nn.Module):
    """A reader with neither bias nor BatchNorm behind it, and one whose BatchNorm is not its only reader."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = conv(3, 6, bias=False), nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 5, 1, bias=False)
        self.c, self.d, self.after = nn.Conv2d(5, 4, 1), nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        y = self.d(x)
        return (self.after(y) + y + self.c(torch.relu(self.b(x)))).mean((2, 3))


def test_a_new_bias_where_no_norm_alone_reads() -> None:
    model = without_borders(settle(Unbiased()))
    _, found = cut_at_zero(model, Plan({"a": Share(6, 3, (0, 2, 5))}))
    assert found.biases == {"b.bias": [5], "d.bias": [4]}
    assert apart(found.network, model, Unbiased) < EXACT


class OneNormForTwo(nn.Module):
    """Two readers behind which one BatchNorm stands: its running mean cannot hold what both of them read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 6), nn.BatchNorm2d(6)
        self.a, self.b = nn.Conv2d(6, 4, 1, bias=False), nn.Conv2d(6, 4, 1, bias=False)
        self.both, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.fc(torch.relu(self.both(self.a(x)) - self.both(self.b(x))).mean((2, 3)))


def test_a_norm_behind_two_readers_holds_neither() -> None:
    model = without_borders(settle(OneNormForTwo()))
    small, found = cut_at_zero(model, Plan({"stem": Share(6, 3, (0, 2, 5))}))
    assert found.biases == {"a.bias": [4], "b.bias": [4]}
    assert apart(found.network, model, OneNormForTwo) < EXACT < apart(small, model, OneNormForTwo)


def test_a_strided_transposed_convolution_makes_no_constant() -> None:
    """Its weights differ from one position to the next, and so does what it makes of a constant."""
    model = settle(
        nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1))
    )
    model[1].bias.data.fill_(1.0)  # type: ignore[union-attr,operator]
    _, found = cut_at_zero(model, Plan({"0": Share(4, 2, (1, 3))}))
    assert (found.left, found.layers) == (("3",), 0)


def test_at_a_border_the_inner_value_counts() -> None:
    """With zero padding a constant is less at the border; the interior is exact all the same."""
    torch.manual_seed(0)
    model = settle(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2)))
    small, found = cut_at_zero(model, Plan({"0": Share(4, 2, (1, 3))}))
    (image,) = examples((INPUT,))
    with torch.no_grad():
        wanted, got, bare = (each(image)[:, :, 1:-1, 1:-1] for each in (model, found.network, small))
    torch.testing.assert_close(got, wanted, rtol=0, atol=EXACT)
    assert float((bare - wanted).abs().max()) > 1e-3


def test_what_is_not_constant_is_named() -> None:
    """A map that differs from place to place is multiplied with the channels: no constant is left of them."""

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = conv(3, 4), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.norm(self.a(x))) * x.mean(1, keepdim=True)).mean((2, 3))

    model = settle(Placed())
    model.norm.bias.data.fill_(5.0)  # type: ignore[union-attr,operator]
    wiring = prunable_wiring(model, (INPUT,))
    plan = Plan({"a": Share(4, 2, (0, 1))})
    found = folded(model, sliced(model, wiring, plan), wiring, plan.removed_units(wiring))
    assert (found.left, found.layers) == (("b",), 0)


def test_nothing_is_folded_where_it_would_do_harm() -> None:
    """Filters far from zero make more than the constants that they would make at zero."""
    torch.manual_seed(0)
    model = settle(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2)))
    model[1].running_mean.fill_(50.0)  # type: ignore[operator,union-attr]
    model[0].bias.data.fill_(50.0)  # type: ignore[union-attr]
    model[0].weight.data[1] = -60  # type: ignore[index,operator,union-attr]
    wiring = prunable_wiring(model, (INPUT,))
    plan = Plan({"0": Share(4, 3, (1,))})
    small = sliced(model, wiring, plan)
    before = copy.deepcopy(small.state_dict())
    found = folded(model, small, wiring, plan.removed_units(wiring))
    assert found.in_vain
    assert all(torch.equal(before[name], tensor) for name, tensor in found.network.state_dict().items())


PROGRAM = """
import torch
from torch import nn
def made():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
    net.input_shape = (1, 8, 8)
    return net
"""


def test_new_biases_live_in_the_state(greg: Callable[..., Ran], tmp_path: Path) -> None:
    """Pruned, opened, fine-tuned, exported: with a bias that the factory does not make."""
    Path("net.py").write_text(PROGRAM)
    train = ("--data", "digits", "--device", "cpu", "--batch-size", "64")
    assert greg("train", "--arch", "net.py:made", *train, "--epochs", "1", "-o", "base.pt").code == 0
    phase = ("--delta", "0.5", "--stabilize", "1", "--ratios", "*=0.5")
    assert greg("regularize", "base.pt", *train, *phase, "-o", "r.pt").code == 0
    state, _ = files.load(Path("r.pt"))
    assert state.plan is not None
    for name, share in state.plan.items():  # what an endless phase would leave
        state.weights[f"{name}.weight"][share["removed"]] = 0
    state.weights["1.bias"].fill_(1.0)
    files.save(state, Path("r.pt"), replace=True)
    ran = greg("prune", "r.pt", "-o", "p.pt", "--json")
    assert ran.code == 0, ran.err
    fold = ran.json["fold"]
    assert fold["folded"] == 1
    assert fold["rel_change"]["after"] < fold["rel_change"]["before"]
    network = greg_compress.load("p.pt")
    assert network[3].bias is not None  # type: ignore[index]
    assert network[3].bias.shape == (3,)  # type: ignore[index,union-attr]
    assert greg("finetune", "p.pt", *train, "--iterations", "3", "-o", "f.pt").code == 0
    assert greg("export", "f.pt", "-o", "f.onnx", "--runs", "1").code == 0
    again = greg("prune", "f.pt", "--ratios", "*=0.5", "-o", "pp.pt")
    assert again.code == 0, again.err
    assert greg_compress.load("pp.pt")[3].bias.shape == (1,)  # type: ignore[index,union-attr]


def test_recalibrating_measures_what_the_cut_network_sees(greg: Callable[..., Ran]) -> None:
    train = ("--data", "digits", "--device", "cpu", "--batch-size", "64")
    assert (
        greg("regularize", DIGITS, *train, "--ratios", "0.5", "--delta", "1", "--stabilize", "0", "-o", "r.pt").code
        == 0
    )
    for name, words in {"cut": (), "new": ("--recalibrate", 10, "--data", "digits")}.items():
        ran = greg("prune", "r.pt", *words, "-o", f"{name}.pt", "--json")
        assert ran.code == 0, ran.err
        assert (
            (ran.json["fold"] is None) == ("measured anew after the cut, on 10 batches" in ran.err) == (name == "new")
        )
    top1 = {name: greg("evaluate", f"{name}.pt", "--data", "digits", "--json").json["top1"] for name in ("cut", "new")}
    assert top1["new"] > top1["cut"]
    weights = [greg_compress.load(f"{name}.pt").state_dict() for name in ("cut", "new")]
    differing = {name.rpartition(".")[2] for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert differing == {"running_mean", "running_var", "num_batches_tracked"}


def test_recalibrating_draws_the_same_each_time_and_from_nobody() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3))
    batches = [torch.rand(8, 3, 4, 4) for _ in range(3)]
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        recalibrate(model, batches, 3)
        found.append(copy.deepcopy(model[1].running_var))
        assert torch.initial_seed() == seed
    assert torch.equal(*found)


def test_recalibrating_is_for_batch_norm_alone() -> None:
    with pytest.raises(RequestError, match="no BatchNorm with running statistics"):
        recalibrate(nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True)), [torch.rand(2, 3, 4, 4)], 1)


@pytest.mark.parametrize(("after", "warned"), [(0.1, False), (0.8, True)])
def test_a_cut_that_changes_much_is_a_warning(after: float, warned: bool) -> None:
    class Heard(Reporter):
        said = ""

        def warn(self, text: str) -> None:
            self.said += text

    ui = Heard()
    _tell(Folding(nn.Identity(), 1, (), (0.9, after), {}), ui)
    assert ("the cut changes the output by 80% of its norm" in ui.said) is warned


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--recalibrate", 3), "--recalibrate is measured on training images; name them with --data"),
        (("--recalibrate", 0, "--data", "digits"), "recalibrate"),
        (("--data", "digits"), "--data would have no effect"),
        (("--workers", 1), "--workers would have no effect"),
    ],
)
def test_recalibrating_needs_data_and_data_a_use(greg: Callable[..., Ran], words: tuple[str, ...], said: str) -> None:
    ran = greg("prune", DIGITS, "--ratios", "0.5", *words, "-o", "p.pt")
    assert ran.code == 2
    assert said in ran.error()
