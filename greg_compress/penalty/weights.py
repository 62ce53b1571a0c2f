"""What the penalty pulls at where weights go one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from greg_compress.penalty.targets import Aim, Target, WeightGauge, row_mask


def all_of(model: nn.Module, names: Sequence[str]) -> Aim:
    """Every weight of the parameters `names`, as before GReg-2's picking."""
    weights = [model.get_parameter(name) for name in names]
    return Aim([Target(weight, row_mask(torch.ones(1), weight, [1] * weight.dim())) for weight in weights])


def picked_by(model: nn.Module, parts: Mapping[str, tuple[Tensor, Tensor]], recover: bool) -> Aim:
    """The weights that go; with `recover` those that stay in the same layers, too.

    Args:
        parts: for each parameter's name the masks (bool, of its shape) of those that go now and of those that stay;
            a weight that went in an earlier round is neither.
    """
    targets, gauges = [], []
    for name, (picked, kept) in parts.items():
        if not picked.any():
            continue
        weight = model.get_parameter(name)
        target = Target(weight, _full(picked, weight), _full(kept, weight) if recover else None)
        targets.append(target)
        gauges.append(WeightGauge(weight, target.picked, int(kept.sum()), int(picked.sum())))
    return Aim(targets, gauges)


def _full(mask: Tensor, like: Tensor) -> Tensor:
    """In the order in memory of the weights, which may be channels_last: two orders in one pass take twice the time."""
    return torch.empty_like(like.detach()).copy_(mask)
