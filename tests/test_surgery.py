"""Cuts and their proofs on the zoo and on random networks; each oracle is shown to notice a wrong cut."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from greg_compress.criteria.scores import l1
from greg_compress.selection.plan import Plan
from greg_compress.surgery import masking
from greg_compress.surgery.cut import cut, reshape
from greg_compress.surgery.effect import cost_after, cost_of
from greg_compress.surgery.masking import masked_equals_sliced
from greg_compress.surgery.replay import first_difference
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring import rules
from greg_compress.wiring.call import Call
from greg_compress.wiring.groups import Wiring, find_groups
from greg_compress.wiring.layout import Layouts
from greg_compress.wiring.skeleton import output_tensors
from tests.cutting import another, examples, random_plan, settle, silence, sliced
from tests.poking import disagreement
from tests.random_networks import BLOCKS, Block, Random
from tests.zoo import (
    INPUT,
    ZOO,
    Attending,
    Chain,
    GatedHalves,
    GroupNormed,
    LayerNormed,
    OptionA,
    OwnNorms,
    Strided,
    WholeGroups,
    inputs_of,
)

IMAGE = (INPUT,)


def flops(model: nn.Module, inputs: list[Tensor]) -> float:
    """Multiply-adds of one sample by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*(tensor[:1] for tensor in inputs))
    return counter.get_total_flops() / 2


def scores(model: nn.Module, wiring: Wiring, plan: Plan) -> dict[str, Tensor]:
    return {group.name: l1(model, wiring, group) for group in wiring.groups if group.name in plan.shares}


@pytest.mark.parametrize("net", ZOO)
@pytest.mark.parametrize("coupled", [False, True])
def test_masked_equals_sliced(net: Callable[[], nn.Module], coupled: bool) -> None:
    model = settle(net())
    wiring = prunable_wiring(model, inputs_of(net))
    plan = random_plan(wiring, coupled=coupled)
    removed = plan.removed_units(wiring)
    assert first_difference(model, wiring, removed) is None
    assert masked_equals_sliced(model, sliced(model, wiring, plan), wiring, removed).passed


@pytest.mark.parametrize("net", ZOO)
def test_parameters_and_macs_are_the_expected_ones(net: type[nn.Module]) -> None:
    model = settle(net())
    wiring = prunable_wiring(model, inputs_of(net))
    plan = random_plan(wiring)
    small = sliced(model, wiring, plan)
    costs = [cost_of(each, wiring) for each in (model, small)]
    assert tuple(cost.params for cost in costs) == net.params  # type: ignore[attr-defined]
    assert tuple(cost.macs for cost in costs) == net.macs  # type: ignore[attr-defined]
    assert tuple(flops(each, examples(inputs_of(net))) for each in (model, small)) == net.macs  # type: ignore[attr-defined]
    assert cost_after(model, wiring, plan.removed_units(wiring)).params == costs[1].params


@pytest.mark.parametrize("net", ZOO)
def test_every_cut_network_can_be_built_again(net: Callable[[], nn.Module]) -> None:
    """Factory and recorded form are enough, whatever kind of module owns a tensor."""
    torch.manual_seed(0)
    model = settle(net())
    wiring = prunable_wiring(model, inputs_of(net))
    small = copy.deepcopy(model)
    form = cut(small, wiring, random_plan(wiring, "0.9", coupled=True).removed_units(wiring))
    again = net().double().eval()
    reshape(again, form)
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        for one, other in zip(
            *(output_tensors(each(*examples(inputs_of(net)))) for each in (again, small)), strict=True
        ):
            assert torch.equal(one, other)


def test_a_second_cut_of_whole_groups_is_built_again_too() -> None:
    """What is left may prefer the other of a grouped convolution's two cuts."""
    model = settle(WholeGroups())
    small = copy.deepcopy(model)
    shapes: dict[str, list[int]] = {}
    groups: dict[str, int] = {}
    for _ in range(2):
        wiring = prunable_wiring(small, IMAGE)
        form = cut(small, wiring, random_plan(wiring).removed_units(wiring))
        shapes, groups = shapes | form.shapes, groups | form.groups
    assert small.g.groups == 2
    assert small.g.weight.shape[1] == 1
    again = WholeGroups().double().eval()
    reshape(again, type(form)(shapes, groups))
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        assert torch.equal(again(*examples(IMAGE)), small(*examples(IMAGE)))


def cut_is_right(model: nn.Module, ratio: str, coupled: bool, seed: int) -> None:
    """By every oracle: labels, numbers, poking, torch's counter, and dead units."""
    wiring = prunable_wiring(model, IMAGE)
    plan = random_plan(wiring, ratio, coupled, seed)
    removed = plan.removed_units(wiring)
    assert first_difference(model, wiring, removed) is None
    small = sliced(model, wiring, plan)
    assert masked_equals_sliced(model, small, wiring, removed).passed
    assert cost_of(small, wiring).macs == flops(small, examples(IMAGE))
    free = [group for group in wiring.groups if not group.frozen]
    if free:
        group = free[seed % len(free)]
        assert disagreement(model, wiring, group, seed % group.channels) == set()
    # A gate makes 0.5 of a dead unit; times the unit's own zero that is zero all the same.
    silence(model, wiring, plan)
    assert plan.decide(scores(model, wiring, plan)) == plan
    with torch.no_grad():
        got, wanted = (each(*examples(IMAGE)) for each in (sliced(model, wiring, plan), model))
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


RANDOM = given(BLOCKS, st.sampled_from(["0.3", "0.5", "0.9"]), st.booleans(), st.integers(0, 2**16))
TOO_SLOW = [HealthCheck.too_slow]


@settings(max_examples=120, deadline=None, suppress_health_check=TOO_SLOW)
@RANDOM
def test_random_networks_are_cut_right(blocks: list[Block], ratio: str, coupled: bool, seed: int) -> None:
    torch.manual_seed(0)
    cut_is_right(settle(Random(blocks)), ratio, coupled, seed)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=TOO_SLOW)
@RANDOM
def test_thousands_of_random_networks_are_cut_right(blocks: list[Block], ratio: str, coupled: bool, seed: int) -> None:
    torch.manual_seed(0)
    cut_is_right(settle(Random(blocks)), ratio, coupled, seed)


def test_a_wrong_rule_shrinks_to_a_printable_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracles' own test: concatenation that mixes up its operands is found, down to one block."""
    right = rules.movement

    def wrong(call: Call) -> Layouts:
        if call.func is torch.ops.aten.cat.default:
            operands, *rest = call.args
            call = Call(call.tracer, call.func, [operands[::-1], *rest], call.kwargs, call.read[::-1], call.made)
        return right(call)

    monkeypatch.setattr(rules, "movement", wrong)

    def fails(blocks: list[Block]) -> bool:
        torch.manual_seed(0)
        try:
            cut_is_right(settle(Random(blocks)), "0.5", False, 0)
        except Exception:
            return True
        return False

    found = find(BLOCKS, fails, settings=settings(max_examples=200, deadline=None, database=None))
    assert len(found) == 1
    again = eval(repr(Random(found)), {"Random": Random, "Block": Block})
    assert again.blocks == found
    assert found[0].kind in ("concat", "dense", "chunked")


@pytest.mark.parametrize("net", [Chain, GatedHalves, WholeGroups])
def test_a_wrong_cut_fails_the_numeric_check(net: type[nn.Module]) -> None:
    """The oracle's own test: mask other units than were sliced."""
    model = settle(net())
    wiring = prunable_wiring(model, IMAGE)
    right = random_plan(wiring)
    for name in right.shares:
        small = sliced(model, wiring, another(right, name))
        check = masked_equals_sliced(model, small, wiring, right.removed_units(wiring))
        assert not check.passed
        assert check.max_rel_error > 1e-4


def test_l1_and_the_cut_notice_a_filter_that_is_not_dead() -> None:
    """The oracle's own test: the plan names one unit that is alive."""
    model = settle(Chain())
    wiring = prunable_wiring(model, IMAGE)
    right = random_plan(wiring)
    wrong = another(right, "b")
    silence(model, wiring, right)
    assert right.decide(scores(model, wiring, right)) == right
    assert wrong.decide(scores(model, wiring, wrong)) != wrong
    with torch.no_grad():
        got, wanted = (each(*examples(IMAGE)) for each in (sliced(model, wiring, wrong), model))
    assert not torch.allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("net", [LayerNormed, GroupNormed, OwnNorms])
def test_the_check_of_a_norm_over_channels_needs_its_statistics(
    net: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle's own test: with the removed channels in the means, or with another unit, masked is not sliced."""
    model = settle(net())
    wiring = prunable_wiring(model, IMAGE)
    plan = random_plan(wiring, coupled=True)
    removed, small = plan.removed_units(wiring), sliced(model, wiring, plan)
    assert masked_equals_sliced(model, small, wiring, removed).passed
    for name in plan.shares:
        other = sliced(model, wiring, another(plan, name))
        assert masked_equals_sliced(model, other, wiring, removed).max_rel_error > 1e-4
    monkeypatch.setattr(masking, "unseen", lambda *_: nullcontext())
    assert masked_equals_sliced(model, small, wiring, removed).max_rel_error > 1e-4


def test_attention_keeps_its_heads_and_what_surrounds_them_goes() -> None:
    model = settle(Attending())
    wiring = prunable_wiring(model, IMAGE)
    assert {group.name: (group.channels, bool(group.frozen)) for group in wiring.groups} == {
        name: (channels, state == "frozen") for name, (channels, state) in Attending.groups.items()
    }
    assert "heads have a fixed shape" in str(wiring.groups[1].reason)
    plan = random_plan(wiring)
    small = sliced(model, wiring, plan)
    assert masked_equals_sliced(model, small, wiring, plan.removed_units(wiring)).passed


def test_a_cut_that_runs_but_reads_wrong_channels_is_found() -> None:
    """`y[:, 0::2]`: shapes alone would pass a cut of two units that are no neighbours."""
    model = settle(Strided())
    wiring = find_groups(model, IMAGE)
    removed = torch.stack([wiring.groups[0].units[0], wiring.groups[1].units[2]])
    small = copy.deepcopy(model)
    cut(small, wiring, removed)
    assert small(*examples(IMAGE)).shape == (2, 4)
    difference = first_difference(model, wiring, removed)
    assert difference is not None
    assert "slice" in difference.operation.name


def test_what_meets_other_weights_after_a_cut_is_found() -> None:
    """Constant channels may become fewer, but not move: here the zeros change sides."""

    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(6, 5, 1), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            left = 2 if x.shape[1] == 4 else 0
            return self.fc(self.b(F.pad(x, (0, 0, 0, 0, left, 2 - left))).mean((2, 3)))

    model = Moving()
    wiring = find_groups(model, IMAGE)
    difference = first_difference(model, wiring, wiring.groups[0].units[:1])
    assert difference is not None
    assert "convolution in b" in str(difference.operation).replace(".default", "")


def test_padding_that_wraps_around_is_followed_or_frozen() -> None:
    """Whether functionalize sees its writes depends on the version of torch; a wrong cut must not."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Conv2d(5, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(F.relu(self.a(x)), (1, 1, 1, 1), mode="circular")
            return F.pad(self.c(F.relu(self.b(x))), (1, 1, 1, 1), mode="circular")

    model = settle(Around())
    wiring = prunable_wiring(model, IMAGE)
    assert wiring.groups_of("c.weight")[0].frozen
    assert not wiring.groups_of("b.weight")[0].frozen
    plan = random_plan(wiring)
    removed = plan.removed_units(wiring)
    assert masked_equals_sliced(model, sliced(model, wiring, plan), wiring, removed).passed


def test_option_a_edges_fail_where_the_padding_is_added() -> None:
    wiring = prunable_wiring(OptionA(), IMAGE)
    edge = next(group for group in wiring.groups if group.name == "layer2.0.conv2")
    assert edge.reason is not None
    assert "layer2.0" in edge.reason


def test_what_must_stay_a_product_is_not_cut_at_will() -> None:
    """A reshape in training only: the flattened order of what is left would look right."""

    class Regrouped(Chain):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            if self.training:
                x = (x.view(x.shape[0], -1, 2, 8, 8) * torch.ones(1, 1, 2, 1, 1, device=x.device)).flatten(1, 2)
            return self.fc(F.max_pool2d(F.relu(self.b(x)), 2).flatten(1))

    wiring = find_groups(Regrouped(), IMAGE)
    assert first_difference(Regrouped(), wiring, wiring.groups[0].units[[0, 3]]) is not None
