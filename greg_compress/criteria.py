"""Criteria: what scores a unit. The units with the least scores go."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from greg_compress.wiring.groups import Group, Wiring, filter_sizes, unit_rows


def l1(model: nn.Module, wiring: Wiring, group: Group) -> Tensor:
    """The mean |w| of each unit's filters, shape (channels,) in float64 (Li et al., 2017; the paper's M).

    A gate's filters do not count: the score is that of the source first in execution (design section 1).
    A coupled group, whose sources are equals, is scored by the first as well.
    """
    source = group.sources[0]
    weight = model.get_parameter(source).detach()
    # Summed on the CPU in float64, so that picks do not depend on the device.
    makes, units = wiring.filters(source)
    sizes = filter_sizes(weight.to("cpu", torch.float64), makes)
    place = unit_rows(group, units)
    mine = place >= 0
    total = torch.zeros(group.channels, dtype=torch.float64).index_add_(0, place[mine], sizes[mine])
    count = torch.zeros(group.channels, dtype=torch.float64).index_add_(0, place[mine], torch.ones_like(sizes[mine]))
    return total / count
