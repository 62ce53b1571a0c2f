"""Groups, cuts and proofs on the zoo, by oracles that do not share code with them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from greg_compress import criteria
from greg_compress.errors import TraceError
from greg_compress.selection.plan import Plan, Share
from greg_compress.selection.ratios import units_to_remove
from greg_compress.surgery.cut import cut, reshape
from greg_compress.surgery.effect import cost_after
from greg_compress.surgery.proof import first_difference, masked_equals_sliced, prunable_wiring
from greg_compress.wiring.groups import Group, Wiring, find_groups
from greg_compress.wiring.labels import Labels
from tests.zoo import COUPLED, FREE, FROZEN, INPUT, KINDS, ZOO, Block, Chain, OptionA, Random, Strided, settle


def state(group: Group) -> str:
    if group.frozen:
        return FROZEN
    return COUPLED if group.coupled else FREE


def plan_for(wiring: Wiring, ratio: str = "0.5", coupled: bool = False) -> Plan:
    """The first units of every group that may be cut."""
    shares = {}
    for group in wiring.groups:
        count = units_to_remove(Decimal(ratio), group.channels)
        if count and not group.frozen and (coupled or not group.coupled):
            shares[group.name] = Share(group.channels, group.channels - count, tuple(range(count)))
    return Plan(shares)


def sliced(model: nn.Module, wiring: Wiring, plan: Plan) -> nn.Module:
    small = copy.deepcopy(model)
    cut(small, wiring, plan.removed_units(wiring))
    return small


def example(seed: int = 1) -> Tensor:
    return torch.rand((2, *INPUT), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("net", ZOO)
def test_groups_are_the_expected_ones(net: Callable[[], nn.Module]) -> None:
    model = net()
    wiring = prunable_wiring(model, INPUT)
    assert {g.name: (g.channels, state(g)) for g in wiring.groups} == model.groups


@pytest.mark.parametrize("net", ZOO)
@pytest.mark.parametrize("coupled", [False, True])
def test_masked_equals_sliced(net: Callable[[], nn.Module], coupled: bool) -> None:
    model = settle(net())
    wiring = prunable_wiring(model, INPUT)
    plan = plan_for(wiring, coupled=coupled)
    removed = plan.removed_units(wiring)
    assert first_difference(model, wiring, removed) is None
    check = masked_equals_sliced(model, sliced(model, wiring, plan), wiring, removed)
    assert check.passed


@pytest.mark.parametrize("net", ZOO)
def test_every_cut_network_can_be_built_again(net: Callable[[], nn.Module]) -> None:
    """Factory and recorded shapes are enough, whatever kind of module owns a tensor."""
    torch.manual_seed(0)
    model = settle(net())
    wiring = prunable_wiring(model, INPUT)
    small = copy.deepcopy(model)
    shapes = cut(small, wiring, plan_for(wiring, "0.9", coupled=True).removed_units(wiring))
    again = net().double().eval()
    reshape(again, shapes)
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        assert torch.equal(again(example()), small(example()))


@pytest.mark.parametrize("net", ZOO)
def test_analysis_leaves_the_network_alone(net: Callable[[], nn.Module]) -> None:
    model = settle(net()).train()
    before = copy.deepcopy(model.state_dict())
    prunable_wiring(model, INPUT)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def silence(model: nn.Module, wiring: Wiring, plan: Plan) -> None:
    """Make the planned units dead: everything of theirs that makes a value is zero, so that what follows
    a ReLU is exactly zero. Knows nothing of consumers."""
    removed = plan.removed_units(wiring)
    parameters = dict(model.named_parameters())
    for group in wiring.groups:
        for weight in group.sources:
            dead = torch.isin(wiring.classes[weight][0], removed)
            parameters[weight].data[dead] = 0
    for name, parameter in parameters.items():
        if parameter.dim() == 1:
            parameter.data[torch.isin(wiring.classes[name][0], removed)] = 0


RANDOM = given(
    blocks=st.lists(st.builds(Block, st.sampled_from(KINDS), st.integers(1, 4)), min_size=1, max_size=4),
    ratio=st.sampled_from(["0.3", "0.5", "0.9"]),
    coupled=st.booleans(),
)


def lose_dead_units_and_nothing_else(blocks: list[Block], ratio: str, coupled: bool) -> None:
    torch.manual_seed(0)
    model = settle(Random(blocks))
    wiring = prunable_wiring(model, INPUT)
    plan = plan_for(wiring, ratio, coupled)
    check = masked_equals_sliced(model, sliced(model, wiring, plan), wiring, plan.removed_units(wiring))
    assert check.passed
    # A gate makes 0.5 of a dead unit; times the unit's own zero that is zero all the same.
    silence(model, wiring, plan)
    with torch.no_grad():
        torch.testing.assert_close(sliced(model, wiring, plan)(example()), model(example()), rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@RANDOM
def test_random_networks_lose_dead_units_and_nothing_else(blocks: list[Block], ratio: str, coupled: bool) -> None:
    lose_dead_units_and_nothing_else(blocks, ratio, coupled)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@RANDOM
def test_thousands_of_random_networks(blocks: list[Block], ratio: str, coupled: bool) -> None:
    lose_dead_units_and_nothing_else(blocks, ratio, coupled)


def test_l1_picks_exactly_the_dead_filters() -> None:
    model = settle(Chain())
    wiring = prunable_wiring(model, INPUT)
    plan = Plan({"a": Share(6, 3, (1, 2, 5)), "b": Share(5, 2, (0, 3, 4))})
    silence(model, wiring, plan)
    scores = {g.name: criteria.l1(model, wiring, g) for g in wiring.groups if g.name in plan.shares}
    assert plan.decide(scores) == plan


def test_a_wrong_cut_fails_the_numeric_check() -> None:
    """The oracle's own test: mask other units than were sliced."""
    model = settle(Chain())
    wiring = prunable_wiring(model, INPUT)
    right, wrong = (Plan({"a": Share(6, 4, picks)}) for picks in ((0, 1), (0, 2)))
    check = masked_equals_sliced(model, sliced(model, wiring, wrong), wiring, right.removed_units(wiring))
    assert not check.passed
    assert check.max_rel_error > 1e-3


def test_a_cut_that_runs_but_reads_wrong_channels_is_found() -> None:
    """`y[:, 0::2]`: shapes alone would pass a cut of two neighbours."""
    model = settle(Strided())
    wiring = find_groups(model, INPUT)
    removed = wiring.groups[0].units[:1]
    difference = first_difference(model, wiring, removed)
    assert difference is not None
    assert "slice" in difference.operation.name


def test_option_a_edges_fail_where_the_padding_is_added() -> None:
    wiring = prunable_wiring(OptionA(), INPUT)
    edge = next(group for group in wiring.groups if group.name == "layer2.0.conv2")
    assert edge.reason is not None
    assert "layer2.0" in edge.reason


def test_last_convs_of_blocks_share_one_coupled_group_and_shortcuts_are_known() -> None:
    from torchvision.models import resnet50

    wiring = find_groups(resnet50(), (3, 64, 64))
    coupled = [group for group in wiring.groups if group.coupled]
    assert [group.name for group in coupled] == [f"layer{n}.0.conv3" for n in (1, 2, 3, 4)]
    assert [len(group.sources) for group in coupled] == [4, 5, 7, 4]
    assert [layer.module for layer in wiring.layers if layer.shortcut] == [
        f"layer{n}.0.downsample.0" for n in (1, 2, 3, 4)
    ]


def test_unknown_operations_freeze_by_name() -> None:
    class Sorted(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.b(self.a(x).sort(1).values)[:, :, :4, :4].flatten(1))

    wiring = prunable_wiring(Sorted(), INPUT)
    assert "aten.sort" in (wiring.groups[0].reason or "")
    assert wiring.groups[1].reason is None


def test_outputs_that_cannot_be_looked_into_are_refused() -> None:
    """Else the output layer would be cut, and a self-check that compares nothing would pass."""

    class Hidden(Chain):
        def forward(self, x: Tensor) -> Any:
            return SimpleNamespace(logits=super().forward(x))

    with pytest.raises(TraceError, match="returns a SimpleNamespace"):
        find_groups(Hidden(), INPUT)


def test_what_must_stay_a_product_is_not_cut_at_will() -> None:
    """A reshape in training only: the flattened order of what is left would look right."""

    class Regrouped(Chain):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            if self.training:
                x = (x.view(x.shape[0], -1, 2, 8, 8) * torch.ones(1, 1, 2, 1, 1, device=x.device)).flatten(1, 2)
            return self.fc(F.max_pool2d(F.relu(self.b(x)), 2).flatten(1))

    wiring = find_groups(Regrouped(), INPUT)
    assert first_difference(Regrouped(), wiring, wiring.groups[0].units[[0, 3]]) is not None


def test_planned_cost_is_the_cost_of_the_cut() -> None:
    model = settle(Random([Block("plain", 4), Block("residual", 4), Block("concat", 3)]))
    wiring = prunable_wiring(model, INPUT)
    plan = plan_for(wiring)
    small = sliced(model, wiring, plan)
    assert cost_after(model, wiring, plan.removed_units(wiring)).params == sum(p.numel() for p in small.parameters())


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=20))
def test_classes_are_connected_components(pairs: list[tuple[int, int]]) -> None:
    labels = Labels()
    labels.new(12)
    parent = list(range(13))

    def find(x: int) -> int:
        return x if parent[x] == x else find(parent[x])

    for a, b in pairs:
        labels.unite(torch.tensor([a]), torch.tensor([b]))
        low, high = sorted((find(a), find(b)))
        parent[high] = low
    assert labels.classes().tolist() == [find(x) for x in range(13)]
