"""What the penalty pulls at, and where it is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from greg_compress.errors import RequestError
from greg_compress.options.penalty import Penalize
from greg_compress.selection.plan import Plan
from greg_compress.wiring.groups import Wiring, unit_rows

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
"""Whose scale and shift belong to a unit."""


@dataclass(frozen=True)
class Target:
    """A parameter with masks of its rows or of single weights (1 or 0, broadcastable): which are driven down, which
    recover."""

    parameter: nn.Parameter
    picked: Tensor
    kept: Tensor | None = None
    """None where nothing recovers: in GReg-1, and before GReg-2 has picked."""
    recover: float | None = None
    """lambda of the kept rows, where it is this parameter's own: minus its weight decay."""


@dataclass(frozen=True)
class Gauge:
    """A source that scores a group, in which kept and picked filters (by their index) are compared."""

    weight: nn.Parameter
    kept: Tensor
    picked: Tensor
    makes: int = 0
    """The dimension of the weight that holds its filters."""


@dataclass(frozen=True)
class WeightGauge:
    """A weight tensor in which kept and picked single weights are compared."""

    weight: nn.Parameter
    picked: Tensor
    """1 or 0, of its shape."""
    kept_count: int
    picked_count: int
    """What went in an earlier round is zero, and neither."""


@dataclass(frozen=True)
class Aim:
    """Everything that the penalty pulls at, and the gauges of how far it got, all of one kind."""

    targets: Sequence[Target]
    gauges: Sequence[Gauge] | Sequence[WeightGauge] = ()


def require_trained(model: nn.Module, aim: Aim) -> None:
    """Raise RequestError if a parameter that is pulled at does not move."""
    pulled = {id(target.parameter) for target in aim.targets}
    for name, parameter in model.named_parameters():
        if id(parameter) in pulled and not parameter.requires_grad:
            raise RequestError(
                f"{name} is frozen (requires_grad is off), so that no penalty shrinks it; skip its group"
            )


class Units:
    """The penalised parameters of one network: what belongs to which unit.

    Args:
        decays: the weight decay of each parameter, where they may differ.
    """

    def __init__(
        self,
        model: nn.Module,
        wiring: Wiring,
        penalize: Penalize,
        decays: Mapping[nn.Parameter, float] | None = None,
    ) -> None:
        self._decays = decays
        self._model = model
        self._wiring = wiring
        modules = dict(model.named_modules())
        self._rows: list[tuple[nn.Parameter, int, Tensor]] = []
        for name, parameter in model.named_parameters():
            owner, _, leaf = name.rpartition(".")
            is_filter = name in wiring.trace.layers
            follows = leaf == "bias" or isinstance(modules[owner], NORMS)
            if is_filter or (penalize is Penalize.UNIT and follows and parameter.dim()):
                self._rows.append((parameter, *(wiring.filters(name) if is_filter else (0, wiring.classes[name][0]))))

    def all_of(self, plan: Plan) -> Aim:
        """Every unit of every group that the plan shrinks, as before GReg-2's picking."""
        return Aim(self._targets(plan.units(self._wiring), None))

    def picked_by(self, plan: Plan, recover: bool) -> Aim:
        """The units that the plan removes; with `recover` those that it keeps in the same groups, too."""
        removed = plan.removed_units(self._wiring)
        units = plan.units(self._wiring)
        kept = units[~torch.isin(units, removed)] if recover else None
        return Aim(self._targets(removed, kept), self._gauges(plan, removed))

    def _targets(self, picked: Tensor, kept: Tensor | None) -> list[Target]:
        found = []
        for parameter, dim, units in self._rows:
            down = torch.isin(units, picked)
            up = None if kept is None else torch.isin(units, kept)
            if down.any() or (up is not None and up.any()):
                shape = [-1 if at == dim else 1 for at in range(parameter.dim())]
                recovering = None if up is None else row_mask(up, parameter, shape)
                own = None if self._decays is None else -self._decays[parameter]
                found.append(Target(parameter, row_mask(down, parameter, shape), recovering, own))
        return found

    def _gauges(self, plan: Plan, removed: Tensor) -> list[Gauge]:
        """One gauge for each group that loses units, of a coupled one for each source that scores it."""
        found = []
        for group in self._wiring.groups:
            for source in group.scored if group.name in plan.shares else ():
                weight = self._model.get_parameter(source)
                makes, units = self._wiring.filters(source)
                picked, mine = torch.isin(units, removed), unit_rows(group, units) >= 0
                kept, gone = ((mine & part).nonzero().flatten().to(weight.device) for part in (~picked, picked))
                found.append(Gauge(weight, kept, gone, makes))
        return found


def row_mask(rows: Tensor, like: Tensor, shape: Sequence[int]) -> Tensor:
    mask = rows.to(like.device, like.dtype).view(shape)
    # A GPU does all layers in one launch where masks have the shapes of their parameters; a CPU would rather read less.
    return torch.zeros_like(like).add_(mask) if like.is_cuda else mask
