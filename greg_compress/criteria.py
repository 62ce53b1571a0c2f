"""Criteria: what scores a unit. The units with the least scores go."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from greg_compress.wiring.groups import Group, Wiring, unit_rows

AT_ONCE = 2**20
"""Elements of a weight that are summed up at a time: few enough for a processor's cache."""
SMALLEST = 1e-300
"""What a mean of scores is clamped to, so that a layer of zeros can be divided by it."""


class Scores(dict[str, Tensor]):
    """L1 scores by the name of a group, each computed when it is first asked for."""

    def __init__(self, model: nn.Module, wiring: Wiring) -> None:
        super().__init__()
        self._model, self._wiring = model, wiring
        self._groups = {group.name: group for group in wiring.groups}

    def __missing__(self, name: str) -> Tensor:
        self[name] = l1(self._model, self._wiring, self._groups[name])
        return self[name]


def l1(model: nn.Module, wiring: Wiring, group: Group) -> Tensor:
    """The mean |w| of each unit's filters, shape (channels,) in float64 (Li et al., 2017; the paper's M).

    The score is that of the source first in execution; a gate's filters do not count (design section 1). The
    summands of a coupled group are equals: its score is the mean over them of each one's mean |w|, divided by its
    mean over the group's units, so that layers of different scale count alike.
    """
    if not group.coupled:
        return _of_source(model, wiring, group, group.sources[0])
    return torch.stack([relative(_of_source(model, wiring, group, source)) for source in group.scored]).mean(dim=0)


def relative(scores: Tensor) -> Tensor:
    """Scores of a group's units over their mean."""
    return scores / scores.mean().clamp(min=SMALLEST)


def _of_source(model: nn.Module, wiring: Wiring, group: Group, source: str) -> Tensor:
    makes, units = wiring.filters(source)
    sizes = _filter_sizes(model.get_parameter(source).detach(), makes)
    place = unit_rows(group, units)
    mine = place >= 0
    total = torch.zeros(group.channels, dtype=torch.float64).index_add_(0, place[mine], sizes[mine])
    count = torch.zeros(group.channels, dtype=torch.float64).index_add_(0, place[mine], torch.ones_like(sizes[mine]))
    return total / count


def _filter_sizes(weight: Tensor, makes: int) -> Tensor:
    """The mean |w| of each filter along dimension `makes` of a weight, shape (filters,) in float64.

    On the CPU, so that picks do not depend on the device, and in parts, since a large layer in float64 would be
    twice its size.
    """
    rows = weight.cpu().movedim(makes, 0).flatten(1)
    parts = rows.split(max(1, AT_ONCE // max(1, rows.shape[1])))
    sums = [torch.linalg.vector_norm(part, ord=1, dim=1, dtype=torch.float64) for part in parts]
    return torch.cat(sums) / rows.shape[1]
