"""Criteria against oracles: the exact Gauss-Newton diagonal, the Hessian, and removals that are carried out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from greg_compress.criteria.loss import obd, taylor
from greg_compress.criteria.scores import Scores
from greg_compress.errors import RequestError
from greg_compress.options.criterion import Criterion, Kind, parse_criterion
from greg_compress.options.selecting import Scope, Selection
from greg_compress.selection.choose import choose
from greg_compress.selection.ratios import parse_ratios
from greg_compress.state import files
from greg_compress.surgery.trial import prunable_wiring
from tests.conftest import DIGITS, Ran
from tests.zoo import INPUT, ZOO, Chain, Residual, inputs_of

KINDS = list(Kind)
MAKES = {"a.weight": 0, "b.weight": 0}


class Tiny(nn.Module):
    """Small enough for a full Hessian."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)).mean((2, 3)))


def tiny(count: int, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    return Tiny(), torch.randn(count, 1, 5, 5), torch.randint(4, (count,))


def exact_diagonal(model: nn.Module, images: Tensor, name: str) -> Tensor:
    """The Gauss-Newton diagonal: the mean over images of diag(J^T (diag p - p p^T) J)."""
    parameters = dict(model.named_parameters())

    def logits(weight: Tensor) -> Tensor:
        return functional_call(model, {**parameters, name: weight}, (images,))

    jacobian = jacrev(logits)(parameters[name].detach()).flatten(2)
    p = logits(parameters[name]).softmax(1).detach()
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nck,ncd,ndk->k", jacobian, middle, jacobian).div(len(images)).view_as(parameters[name])


def batches(images: Tensor, labels: Tensor, times: int = 1, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    return [pair for _ in range(times) for pair in zip(images.split(size), labels.split(size), strict=True)]


def test_obd_estimates_the_gauss_newton_diagonal() -> None:
    model, images, labels = tiny(32)
    found = obd(model, MAKES, batches(images, labels, times=500))
    for name in MAKES:
        weight = model.get_parameter(name).detach()
        exact = (exact_diagonal(model, images, name) * weight**2 / 2).flatten(1).sum(1)
        torch.testing.assert_close(found[name].float(), exact, rtol=0.1, atol=1e-6)
        with pytest.raises(AssertionError):  # the comparison's own test: L1 is something else
            torch.testing.assert_close(weight.abs().flatten(1).mean(1), exact, rtol=0.1, atol=1e-6)


def test_that_diagonal_is_the_hessians_where_the_network_is_linear() -> None:
    """An independent second opinion on the oracle: for logits linear in a weight, Gauss-Newton is the Hessian."""
    model, images, labels = tiny(6)
    parameters = dict(model.named_parameters())

    def loss(weight: Tensor) -> Tensor:
        output: Tensor = functional_call(model, {**parameters, "b.weight": weight}, (images,))
        return F.cross_entropy(output, labels)

    weight = parameters["b.weight"].detach()
    hessian = torch.autograd.functional.hessian(loss, weight).view(weight.numel(), -1)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(
        exact_diagonal(model, images, "b.weight").flatten(), hessian.diagonal(), rtol=1e-4, atol=1e-7
    )


def test_taylor_is_the_square_of_what_a_small_removal_costs() -> None:
    """First order: take a thousandth of a filter away, and see what the loss of each batch does."""
    model, images, labels = tiny(16)
    model = model.double()
    pairs = batches(images.double(), labels)
    found = taylor(model, MAKES, pairs)
    for name in MAKES:
        weight = model.get_parameter(name)
        for index in range(len(weight)):
            changes = []
            for image, label in pairs:
                with torch.no_grad():
                    before = F.cross_entropy(model(image), label)
                    kept = weight[index].clone()
                    weight[index] *= 1 - 1e-6
                    changes.append((F.cross_entropy(model(image), label) - before) / 1e-6)
                    weight[index] = kept
            assert float(found[name][index]) == pytest.approx(float(torch.stack(changes).square().mean()), rel=1e-3)


@pytest.mark.parametrize("measure", [obd, taylor])
def test_measuring_leaves_a_network_as_it_was(measure: Callable[..., dict[str, Tensor]]) -> None:
    torch.manual_seed(0)
    model = Chain().train()
    first = next(iter(model.parameters()))
    first.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.rand(4, *INPUT)
    measure(model, {"a.weight": 0}, [(images, torch.zeros(4, dtype=torch.int64))])
    assert model.training
    assert not first.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def given_images(net: type[nn.Module]) -> Callable[[], list[tuple[Tensor, Tensor]]]:
    return lambda: [(torch.rand(4, *inputs_of(net)[0]), torch.arange(4))]


def classifies(net: type[nn.Module]) -> bool:
    inputs = inputs_of(net)
    made = net().eval()(*(torch.rand(4, *shape) for shape in inputs))
    return len(inputs) == 1 and isinstance(made, Tensor) and made.dim() == 2


CLASSIFIERS = [net for net in ZOO if classifies(net)]


@pytest.mark.parametrize("net", CLASSIFIERS)
@pytest.mark.parametrize("kind", [Kind.OBD, Kind.TAYLOR, Kind.RANDOM, Kind.MAX])
def test_every_wiring_is_scored(net: type[nn.Module], kind: Kind) -> None:
    torch.manual_seed(0)
    model = net()
    wiring = prunable_wiring(model, inputs_of(net))
    scores = Scores(model, wiring, Criterion(kind), given_images(net))
    for group in wiring.groups:
        assert scores[group.name].shape == (group.channels,)
        assert bool((scores[group.name] >= 0).all())


def test_a_coupled_units_loss_is_the_sum_over_its_summands() -> None:
    torch.manual_seed(0)
    model = Residual()
    wiring = prunable_wiring(model, (INPUT,))
    images = given_images(Residual)()
    scores = Scores(model, wiring, Criterion(Kind.TAYLOR), lambda: images)
    (group,) = [group for group in wiring.groups if group.coupled]
    parts = taylor(model, dict.fromkeys(group.scored, 0), images)
    assert len(parts) > 1
    torch.testing.assert_close(scores[group.name], torch.stack(list(parts.values())).sum(0))


@given(seed=st.integers(0, 10**9 - 1))
@settings(max_examples=20)
def test_random_depends_on_its_seed_alone(seed: int) -> None:
    model, wiring = CHAIN, CHAIN_WIRING
    first, again, other = (Scores(model, wiring, Criterion(Kind.RANDOM, s))["a"] for s in (seed, seed, seed + 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


CHAIN = Chain()
CHAIN_WIRING = prunable_wiring(CHAIN, (INPUT,))


def test_max_takes_what_l1_would_keep() -> None:
    by = {
        kind: Scores(CHAIN, CHAIN_WIRING, Criterion(kind))[CHAIN_WIRING.groups[0].name] for kind in (Kind.L1, Kind.MAX)
    }
    assert torch.equal(by[Kind.L1].argsort(), by[Kind.MAX].argsort().flip(0))


def test_one_threshold_compares_losses_as_they_are() -> None:
    """A group whose every unit costs less than any of another's goes first; norms are taken relative to their group."""
    model, wiring = CHAIN, CHAIN_WIRING
    selection = Selection(parse_ratios("0.3"), scope=Scope.GLOBAL, criterion=Criterion(Kind.TAYLOR))
    images = given_images(Chain)()
    plan = choose(model, wiring, selection, lambda: images)
    scores = Scores(model, wiring, selection.criterion, lambda: images)
    gone = [scores[name][list(share.removed or ())] for name, share in plan.shares.items()]
    limit = max(float(each.max()) for each in gone)
    free = [group for group in wiring.groups if group.reason is None and group.sources[0] != wiring.layers[0].weight]
    total = sum(int((scores[group.name] <= limit).sum()) for group in free)
    assert total == sum(len(each) for each in gone)


@pytest.mark.parametrize("text", ["l1", "max", "random", "random:7", "obd", "taylor"])
def test_names_are_read_back(text: str) -> None:
    assert str(parse_criterion(text)).startswith(text)


@pytest.mark.parametrize("text", ["", "L1", "random:", "random:x", "obd:3", "hessian", "random:-1"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--criterion"):
        parse_criterion(text)


@pytest.mark.parametrize("criterion", ["l1", "max", "random:3", "obd", "taylor"])
def test_greg_1_and_one_shot_remove_the_same_units(greg: Callable[..., Ran], narrow: Path, criterion: str) -> None:
    """The paper's Tables 1, 7 and 10: two schedules, the same weights."""
    chosen = ("--criterion", criterion, "--ratios", "0.5", *(("--scope", "global") if criterion == "obd" else ()))
    images = ("--data", "digits") if criterion in ("obd", "taylor") else ()
    assert greg("prune", narrow, *chosen, *images, "-o", "once.pt").code == 0
    phase = ("--data", "digits", "--batch-size", 64, "--val-fraction", "0.1", "--delta", "1", "--stabilize", "0")
    ran = greg("regularize", narrow, *chosen, *phase, "-o", "r.pt", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["l1_differs"] == (0 if criterion == "l1" else None)
    assert greg("prune", "r.pt", "-o", "grown.pt").code == 0
    plans = [files.load(path)[0].plan for path in map(Path, ("once.pt", "grown.pt"))]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("criterion", ["l1", "random:3", "obd", "taylor"])
def test_greg_1_and_one_shot_remove_the_same_single_weights(
    greg: Callable[..., Ran], narrow: Path, criterion: str
) -> None:
    chosen = ("--unstructured", "--ratios", "0.5", "--criterion", criterion)
    images = ("--data", "digits") if criterion in ("obd", "taylor") else ()
    ran = greg("prune", narrow, *chosen, *images, "-o", "once.pt")
    assert ran.code == 0, ran.err
    phase = ("--data", "digits", "--batch-size", 64, "--delta", "1", "--stabilize", "0")
    ran = greg("regularize", narrow, *chosen, *phase, "-o", "r.pt", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["l1_differs"] == (0 if criterion == "l1" else None)
    masks = [files.load(Path(name))[0].masks for name in ("once.pt", "r.pt")]
    assert masks[0].keys() == masks[1].keys()
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


@pytest.mark.parametrize("kind", [(), ("--unstructured",)])
def test_those_comparisons_see_other_picks(greg: Callable[..., Ran], narrow: Path, kind: tuple[str, ...]) -> None:
    """And a state that carries picks takes no other ones."""
    chosen = (*kind, "--ratios", "0.5", "--criterion")
    for name in ("max", "random:4"):
        assert greg("prune", narrow, *chosen, name, "-o", f"{name[0]}.pt").code == 0
    one, other = (files.load(Path(name))[0] for name in ("m.pt", "r.pt"))
    if kind:
        assert any(not torch.equal(one.masks[name], other.masks[name]) for name in one.masks)
    else:
        assert one.plan != other.plan
    phase = ("--data", "digits", "--batch-size", 64, "--delta", "1", "--stabilize", "0")
    assert greg("regularize", narrow, *chosen, "max", *phase, "-o", "grown.pt").code == 0
    refused = greg("prune", "grown.pt", *chosen, "max", "-o", "x.pt")
    assert (refused.code, "carries its picks" in refused.error()) == (2, True)


def test_single_weights_are_scored_as_their_filters_are() -> None:
    """A filter's OBD is the sum of its weights', and Taylor's of one weight the square of gradient times weight."""
    model, images, labels = tiny(16)
    pairs = batches(images, labels, size=16)
    singly = obd(model, dict.fromkeys(MAKES), pairs)
    filters = obd(model, MAKES, pairs)
    for name in MAKES:
        torch.testing.assert_close(singly[name].flatten(1).sum(1), filters[name])
    F.cross_entropy(model(images), labels).backward()
    for name, found in taylor(model, dict.fromkeys(MAKES), pairs).items():
        weight = model.get_parameter(name)
        assert weight.grad is not None
        torch.testing.assert_close(found, (weight.grad * weight.detach()).double() ** 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prune", "--ratios", "0.5", "--criterion", "obd"), "measured on training images; name them with --data"),
        (("prune", "--ratios", "0.5", "--criterion", "l1", "--data", "digits"), "--data would have no effect"),
        (("prune", "--criterion", "max"), "--criterion would have no effect without one of"),
        (("analyze", "--ratios", "0.5", "--criterion", "taylor"), "name them with --data"),
        (("analyze", "--ratios", "0.5", "--criterion", "hessian"), "known: l1, max, random"),
        (
            ("regularize", "--ratios", "0.5", "--data", "digits", "--criterion", "max", "--method", "greg-2"),
            "--criterion would have no effect: greg-2",
        ),
    ],
)
def test_a_criterion_that_cannot_be(greg: Callable[..., Ran], words: tuple[str, ...], said: str) -> None:
    command, *others = words
    ran = greg(command, DIGITS, *others, *(() if command == "analyze" else ("-o", "x.pt")))
    assert ran.code == 2
    assert said in ran.error()


def test_analyze_scores_by_loss_too(greg: Callable[..., Ran], narrow: Path) -> None:
    chosen = ("--ratios", "0.5", "--scope", "global", "--criterion", "obd", "--data", "digits")
    ran = greg("analyze", narrow, *chosen, "--plan-out", "p.json", "--json")
    assert ran.code == 0, ran.err
    assert greg("prune", narrow, "--plan", "p.json", "-o", "a.pt").code == 0
    assert greg("prune", narrow, *chosen, "-o", "b.pt").code == 0
    assert files.load(Path("a.pt"))[0].plan == files.load(Path("b.pt"))[0].plan
