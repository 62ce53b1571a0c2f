"""What hangs together with what: on the zoo, by labels and by poking; and networks that cannot be followed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from greg_compress.errors import TraceError
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import Group, find_groups
from greg_compress.wiring.labels import Labels
from tests.cutting import settle
from tests.poking import disagreement
from tests.zoo import COUPLED, FREE, FROZEN, INPUT, ZOO, Chain, Concat, inputs_of

IMAGE = (INPUT,)


def state(group: Group) -> str:
    if group.frozen:
        return FROZEN
    return COUPLED if group.coupled else FREE


@pytest.mark.parametrize("net", ZOO)
def test_groups_are_the_expected_ones(net: Callable[[], nn.Module]) -> None:
    model = net()
    wiring = prunable_wiring(model, inputs_of(net))
    assert {g.name: (g.channels, state(g)) for g in wiring.groups} == model.groups


@pytest.mark.parametrize("net", ZOO)
def test_groups_by_labels_are_groups_by_poking(net: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = settle(net())
    wiring = prunable_wiring(model, inputs_of(net))
    for group in wiring.groups:
        if not group.frozen:
            for position in range(group.channels):
                assert disagreement(model, wiring, group, position) == set()


def test_poking_notices_a_wrong_group() -> None:
    """The oracle's own test: two inputs of one reader are swapped."""
    model = settle(Concat())
    wiring = prunable_wiring(model, IMAGE)
    group = next(group for group in wiring.groups if group.name == "a")
    rows, fan, *rest = wiring.classes["c.weight"]
    wrong = fan.clone()
    wrong[[0, 1]] = fan[[1, 0]]
    wiring.classes["c.weight"] = (rows, wrong, *rest)
    assert disagreement(model, wiring, group, 0) == {("c.weight", 0), ("c.weight", 1)}


@pytest.mark.parametrize("net", ZOO)
def test_analysis_leaves_the_network_alone(net: Callable[[], nn.Module]) -> None:
    model = settle(net()).train()
    before = copy.deepcopy(model.state_dict())
    prunable_wiring(model, inputs_of(net))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_last_convs_of_blocks_share_one_coupled_group_and_shortcuts_are_known() -> None:
    from torchvision.models import resnet50

    wiring = find_groups(resnet50(), ((3, 64, 64),))
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

    wiring = prunable_wiring(Sorted(), IMAGE)
    assert "aten.sort" in (wiring.groups[0].reason or "")
    assert wiring.groups[1].reason is None


def test_outputs_that_cannot_be_looked_into_are_refused() -> None:
    """Else the output layer would be cut, and a self-check that compares nothing would pass."""

    class Hidden(Chain):
        def forward(self, x: Tensor) -> Any:
            return SimpleNamespace(logits=super().forward(x))

    with pytest.raises(TraceError, match="returns a SimpleNamespace"):
        find_groups(Hidden(), IMAGE)


class Needy(Chain):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x) + y


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("the user's own\nlong story")


class Broken(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Inner())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    ("model", "shapes", "words"),
    [
        (Chain(), ((4, 8, 8),), r"input 4x8x8: aten.convolution.default in a \(RuntimeError"),
        (Chain(), ((3, 12, 12),), "aten.addmm.default in fc"),
        (Needy(), IMAGE, r"in the network itself \(TypeError: .*missing 1 required positional argument: 'y'.*repeats"),
        (Broken(), IMAGE, r"in inner.0 \(RuntimeError: the user's own\);"),
    ],
)
def test_networks_that_cannot_be_traced_get_one_line(model: nn.Module, shapes: Any, words: str) -> None:
    with pytest.raises(TraceError, match=words) as caught:
        find_groups(model, shapes)
    assert "\n" not in str(caught.value)


def test_wrapped_networks_are_refused() -> None:
    with pytest.raises(TraceError, match=r"the network is wrapped in DataParallel; give its \.module"):
        find_groups(nn.DataParallel(Chain()), IMAGE)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_scripted_modules_are_refused() -> None:
    model = nn.Sequential(nn.ReLU(), torch.jit.script(nn.Conv2d(3, 4, 3)))
    with pytest.raises(TraceError, match=r"^1 is a scripted module \(torch.jit\)"):
        find_groups(model, IMAGE)


def test_shapes_that_data_decide_freeze_what_passes() -> None:
    class Chosen(Chain):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            return self.fc(F.max_pool2d(F.relu(self.b(x[x[:, 0, 0, 0] > -1])), 2).flatten(1))

    first, second, _ = prunable_wiring(Chosen(), IMAGE).groups
    assert "aten.index" in (first.reason or "")
    assert second.reason is None


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
    assert labels.classes()[0].tolist() == [find(x) for x in range(13)]
