"""What tests of cuts have in common: plans, sliced copies, networks with statistics, and dead units."""

from __future__ import annotations

import copy
from decimal import Decimal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from greg_compress.selection.plan import Plan, Share
from greg_compress.selection.ratios import units_to_remove
from greg_compress.surgery.cut import cut
from greg_compress.wiring.groups import Wiring
from greg_compress.wiring.skeleton import Shapes


def settle(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give BatchNorms statistics and affine values that are neither 0 nor 1, in float64 and eval mode."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data = torch.rand(tensor.shape, generator=random) + 0.5
    return model.double().eval()


def random_plan(wiring: Wiring, ratio: str = "0.5", coupled: bool = False, seed: int = 0) -> Plan:
    """Random units of every group that may be cut."""
    random = torch.Generator().manual_seed(seed)
    shares = {}
    for group in wiring.groups:
        count = units_to_remove(Decimal(ratio), group.channels)
        if count and not group.frozen and (coupled or not group.coupled):
            removed = torch.randperm(group.channels, generator=random)[:count].sort().values
            shares[group.name] = Share(group.channels, group.channels - count, tuple(removed.tolist()))
    return Plan(shares)


def sliced(model: nn.Module, wiring: Wiring, plan: Plan) -> nn.Module:
    small = copy.deepcopy(model)
    cut(small, wiring, plan.removed_units(wiring))
    return small


def examples(shapes: Shapes, seed: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.rand((2, *shape), generator=random, dtype=torch.float64) for shape in shapes]


def silence(model: nn.Module, wiring: Wiring, plan: Plan) -> None:
    """Make the planned units dead: everything of theirs that makes a value is zero, so that what follows
    a ReLU is exactly zero. Knows nothing of consumers."""
    removed = plan.removed_units(wiring)
    parameters = dict(model.named_parameters())
    for layer in wiring.layers:
        dim, units = wiring.filters(layer.weight)
        parameters[layer.weight].data.index_fill_(dim, torch.isin(units, removed).nonzero().flatten(), 0)
    for name, parameter in parameters.items():
        if parameter.dim() == 1:
            parameter.data[torch.isin(wiring.classes[name][0], removed)] = 0


def another(plan: Plan, name: str) -> Plan:
    """The same counts, but another unit of one group."""
    share = plan.shares[name]
    assert share.removed is not None
    kept = next(unit for unit in range(share.channels) if unit not in share.removed)
    wrong = Share(share.channels, share.kept, tuple(sorted((*share.removed[1:], kept))))
    return Plan({**plan.shares, name: wrong})
