"""Scores of a network's groups, by any criterion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from greg_compress.criteria.loss import MEASURES, Batches
from greg_compress.errors import GregError
from greg_compress.options.criterion import L1, Criterion, Kind
from greg_compress.wiring.groups import Group, Wiring, unit_rows

AT_ONCE = 2**20
"""Elements of a weight that are summed up at a time: few enough for a processor's cache."""
SMALLEST = 1e-300
"""What a mean of scores is clamped to, so that a layer of zeros can be divided by it."""


class Scores(dict[str, Tensor]):
    """Scores by the name of a group, shape (channels,) in float64, each computed when it is first asked for."""

    def __init__(
        self, model: nn.Module, wiring: Wiring, criterion: Criterion = L1, images: Callable[[], Batches] | None = None
    ) -> None:
        """`images` are what a criterion that needs them is measured on."""
        super().__init__()
        self._groups = {group.name: group for group in wiring.groups}
        self._score = _scorer(model, wiring, criterion, images)
        self._in_loss = criterion.needs_images

    def __missing__(self, name: str) -> Tensor:
        self[name] = self._score(self._groups[name])
        return self[name]

    def comparable(self, name: str) -> Tensor:
        """A group's scores as one threshold over all groups reads them.

        What is measured in loss compares as it is (LeCun et al., 1990); norms are divided by their group's mean,
        so that layers of different scale count alike.
        """
        return self[name] if self._in_loss else relative(self[name])


def _scorer(
    model: nn.Module, wiring: Wiring, criterion: Criterion, images: Callable[[], Batches] | None
) -> Callable[[Group], Tensor]:
    if criterion.kind is Kind.RANDOM:
        return lambda group: drawn(group.channels, group.name, criterion.seed)
    if criterion.needs_images:
        if images is None:
            raise ValueError(f"{criterion} is measured on images")
        weights = {source: wiring.filters(source)[0] for group in wiring.groups for source in group.scored}
        filters = MEASURES[criterion.kind](model, weights, images())
        return lambda group: in_loss(wiring, group, filters)
    if criterion.kind is Kind.MAX:
        return lambda group: 1 / l1(model, wiring, group).clamp(min=1e-30)
    assert criterion.kind is Kind.L1, criterion.kind
    return lambda group: l1(model, wiring, group)


def l1(model: nn.Module, wiring: Wiring, group: Group) -> Tensor:
    """The mean |w| of each unit's filters, shape (channels,) in float64 (Li et al., 2017; the paper's M).

    The score is that of the source first in execution; a gate's filters do not count (design section 1). The
    summands of a coupled group are equals: its score is the mean over them of each one's mean |w|, divided by its
    mean over the group's units, so that layers of different scale count alike.

    Raises:
        GregError: a weight is NaN or infinite.
    """

    def of(source: str) -> Tensor:
        total, count = _by_unit(wiring, group, source, _filter_sizes(model.get_parameter(source), wiring, source))
        if not total.isfinite().all():
            raise GregError(f"{source} is not finite (NaN or infinity), and cannot be scored; train the network anew")
        return total / count

    if not group.coupled:
        return of(group.sources[0])
    return torch.stack([relative(of(source)) for source in group.scored]).mean(dim=0)


def in_loss(wiring: Wiring, group: Group, filters: Mapping[str, Tensor]) -> Tensor:
    """What the loss would rise by without each unit: what it would without the filters of all sources that score it."""
    sources: Sequence[str] = group.scored if group.coupled else group.sources[:1]
    return torch.stack([_by_unit(wiring, group, source, filters[source])[0] for source in sources]).sum(dim=0)


def drawn(count: int, name: str, seed: int) -> Tensor:
    """Uniform scores that depend on the seed and a name alone (the paper's Table 10), shape (count,)."""
    number = int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=7).digest(), "big")
    return torch.rand(count, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def relative(scores: Tensor) -> Tensor:
    """Scores of a group's units over their mean."""
    return scores / scores.mean().clamp(min=SMALLEST)


def _by_unit(wiring: Wiring, group: Group, source: str, filters: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of a source's filters' scores over each unit, and their number, both of shape (channels,)."""
    place = unit_rows(group, wiring.filters(source)[1])
    mine = place >= 0
    zeros = torch.zeros(group.channels, dtype=torch.float64)
    scores = filters[mine].double()
    return zeros.index_add(0, place[mine], scores), zeros.index_add(0, place[mine], torch.ones_like(scores))


def _filter_sizes(weight: Tensor, wiring: Wiring, source: str) -> Tensor:
    """The mean |w| of each filter of a source, shape (filters,) in float64.

    On the CPU, so that picks do not depend on the device, and in parts, since a large layer in float64 would be
    twice its size.
    """
    rows = weight.detach().cpu().movedim(wiring.filters(source)[0], 0).flatten(1)
    parts = rows.split(max(1, AT_ONCE // max(1, rows.shape[1])))
    sums = [torch.linalg.vector_norm(part, ord=1, dim=1, dtype=torch.float64) for part in parts]
    return torch.cat(sums) / rows.shape[1]
