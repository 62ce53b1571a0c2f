"""What a cut would leave, found by cutting a copy without memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from greg_compress.cost import Cost, cost, layer_macs
from greg_compress.surgery.cut import cut
from greg_compress.wiring.groups import Wiring
from greg_compress.wiring.skeleton import skeleton


def cost_of(model: nn.Module, wiring: Wiring) -> Cost:
    """What a network costs: the one that was traced, or one cut from it."""
    macs = layer_macs(model, wiring.input_shapes, wiring.layers)
    return cost(model, [*macs.values(), *(layer.macs for layer in wiring.trace.unfollowed.values())])


def cost_after(model: nn.Module, wiring: Wiring, removed: Tensor) -> Cost:
    """What the network would cost without the units `removed` (classes); no weights are touched."""
    return cost_of(without(model, wiring, removed), wiring)


def without(model: nn.Module, wiring: Wiring, removed: Tensor) -> nn.Module:
    """A skeleton of what is left of `model` without the units `removed` (classes)."""
    bones = skeleton(model)
    cut(bones, wiring, removed)
    return bones


def reduction(before: Cost, after: Cost) -> dict[str, Any]:
    """`macs_speedup`, the ratio of MACs (never time), and `sparsity`, the percentage of parameters gone."""
    return {
        "macs_speedup": before.macs / after.macs if after.macs else float("nan"),
        "sparsity": 100 * (1 - after.params / before.params),
    }
