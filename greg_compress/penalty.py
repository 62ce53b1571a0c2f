"""The growing penalty of GReg-1 (Wang et al., ICLR 2021, section 3.2 and Algorithm 1).

    lambda_j <- lambda_j + delta   for the units j that were picked, every K_u iterations      (equation 2)

After backward and before the optimizer's step, grad += lambda_j * w (the gradient of 0.5 * lambda_j * w^2,
on top of the optimizer's weight decay) for the filters of unit j: dimension 0 (1, where transposed) of its
sources and of the depthwise convolutions that follow them. Under gradient clipping or accumulation it comes
once per step, after both. SGD only: adaptive optimizers divide lambda away. The learning rate stays constant:
a decaying one takes the force out of lambda.

The phase has two parts. *Pushing*: lambda grows until it passes the ceiling tau. *Stabilizing*: K_s more
iterations at that lambda. Lambda is an integer count of updates times delta, and the ceiling is compared on
counts: tau = 1 and delta = 1e-4 take 10,001 updates, the first at iteration 0.

Departures from the paper's text, each an option:
- `penalize unit` also pulls at the unit's bias and its BatchNorm scale and shift. BatchNorm makes a filter
  scale-free, so that shrinking its weights alone hardly changes its output; with the whole unit penalised
  the later cut is almost without loss, also on short schedules. The paper: `weights`.
- `stop_ratio` ends the pushing early, once the kept filters of every group are that many times larger than
  the picked ones (moving average 0.9/0.1). The authors' code does so at 1000, the paper does not.
- preset `quick` (the default): learning rate 1e-2, the whole unit, tau = 5 reached within 3,000 iterations.
  The paper: 1e-3, weights, tau = 1 with delta = 1e-4 every 10 iterations (CIFAR) or 5 (ImageNet).

Not here: picking (`criteria`), loops, files, printing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from greg_compress.options import Penalize, PenaltyOptions
from greg_compress.selection.plan import Plan
from greg_compress.wiring.groups import Wiring, filter_sizes, unit_rows

QUICK_CEILING = 5.0
QUICK_EPOCHS, QUICK_LEAST, QUICK_MOST = 6, 300, 3000
RATIO_DECAY = 0.9
SMALLEST = 1e-12
"""The picked filters' mean magnitude is clamped to this, so that a ratio stays a number."""


@dataclass(frozen=True)
class GrowthSchedule:
    """How the penalty grows: tau, delta, K_u and K_s of Algorithm 1."""

    ceiling: float
    delta: float
    update_every: int
    stabilize: int
    stop_ratio: float | None = None

    @property
    def updates(self) -> int:
        """The first count k with k * delta > ceiling, on the decimal literals."""
        return int(Decimal(str(self.ceiling)) / Decimal(str(self.delta))) + 1

    @property
    def iterations(self) -> int:
        """Of the whole phase, unless it stops early."""
        return (self.updates - 1) * self.update_every + 1 + self.stabilize


def resolve_schedule(options: PenaltyOptions, steps_per_epoch: int) -> tuple[GrowthSchedule, Penalize]:
    """Fill in what the options leave to the preset.

    `quick` reaches its ceiling in 6 epochs, but at least 300 and at most 3,000 iterations, and stabilizes
    for a tenth of that.
    """
    ceiling = options.ceiling or QUICK_CEILING
    every = options.update_every or 1
    push = min(QUICK_MOST, max(QUICK_LEAST, QUICK_EPOCHS * steps_per_epoch))
    delta = options.delta or float(f"{ceiling * every / push:.3g}")
    stabilize = push // 10 if options.stabilize is None else options.stabilize
    schedule = GrowthSchedule(ceiling, delta, every, stabilize, options.stop_ratio)
    return schedule, options.penalize or Penalize.UNIT


@dataclass(frozen=True)
class Target:
    """A parameter that the penalty pulls at: 1 for the picked rows, 0 for the others, broadcastable."""

    parameter: nn.Parameter
    picked: Tensor


@dataclass(frozen=True)
class Gauge:
    """A group's first source, in which kept and picked filters are compared."""

    weight: nn.Parameter
    kept: Tensor
    picked: Tensor
    makes: int = 0
    """The dimension of the weight that holds its filters."""

    def ratio(self) -> Tensor:
        """Mean |w| of the kept filters over that of the picked ones (a scalar tensor)."""
        sizes = filter_sizes(self.weight.detach(), self.makes)
        return sizes[self.kept].mean() / sizes[self.picked].mean().clamp(min=SMALLEST)


def targets(model: nn.Module, wiring: Wiring, plan: Plan, penalize: Penalize) -> list[Target]:
    """The parameters of the picked units, on the model's device."""
    removed = plan.removed_units(wiring)
    modules = dict(model.named_modules())
    found = []
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        is_filter = name in wiring.trace.layers
        follows = leaf == "bias" or isinstance(modules[owner], _BatchNorm)
        if is_filter or (penalize is Penalize.UNIT and follows):
            dim, units = wiring.filters(name) if is_filter else (0, wiring.classes[name][0])
            rows = torch.isin(units, removed)
            if rows.any():
                shape = [-1 if at == dim else 1 for at in range(parameter.dim())]
                found.append(Target(parameter, rows.to(parameter.device, parameter.dtype).view(shape)))
    return found


def gauges(model: nn.Module, wiring: Wiring, plan: Plan) -> list[Gauge]:
    """One gauge for each group that loses units."""
    removed = plan.removed_units(wiring)
    found = []
    for group in wiring.groups:
        if group.name not in plan.shares:
            continue
        source = group.sources[0]
        weight = model.get_parameter(source)
        makes, units = wiring.filters(source)
        picked, mine = torch.isin(units, removed), unit_rows(group, units) >= 0
        kept, gone = ((mine & part).nonzero().flatten().to(weight.device) for part in (~picked, picked))
        found.append(Gauge(weight, kept, gone, makes))
    return found


class GrowingPenalty:
    """GReg-1's state machine. Handed to the training loop as its regularizer."""

    def __init__(self, schedule: GrowthSchedule, targets: Sequence[Target], gauges: Sequence[Gauge]) -> None:
        self.schedule = schedule
        self._targets = targets
        self._gauges = gauges
        self._iteration = 0
        self._updates = 0
        self._stabilizing_since: int | None = None
        self._ratios: Tensor | None = None

    @property
    def strength(self) -> float:
        """lambda of the picked units."""
        return self._updates * self.schedule.delta

    @property
    def phase(self) -> str:
        return "pushing" if self._stabilizing_since is None else "stabilizing"

    @property
    def finished(self) -> bool:
        since = self._stabilizing_since
        return since is not None and self._iteration - since >= self.schedule.stabilize

    def add_gradients(self) -> None:
        """Grow lambda if it is due, and add lambda * w to the gradients of the picked units."""
        if self._stabilizing_since is None and self._iteration % self.schedule.update_every == 0:
            self._updates += 1
            self._measure()
        for target in self._targets:
            gradient = target.parameter.grad
            if gradient is not None:
                gradient.addcmul_(target.parameter.detach(), target.picked, value=self.strength)
        self._iteration += 1
        if self._stabilizing_since is None and self._pushed_enough():
            self._stabilizing_since = self._iteration

    def _pushed_enough(self) -> bool:
        if self._updates >= self.schedule.updates:
            return True
        limit = self.schedule.stop_ratio
        return limit is not None and self._ratios is not None and bool((self._ratios >= limit).all())

    def _measure(self) -> None:
        if self._gauges:
            now = torch.stack([gauge.ratio() for gauge in self._gauges])
            old = now if self._ratios is None else self._ratios
            self._ratios = RATIO_DECAY * old + (1 - RATIO_DECAY) * now

    def status(self) -> dict[str, float]:
        weakest = float(self._ratios.min()) if self._ratios is not None else 1.0
        return {"lambda": self.strength, "weakest_ratio": weakest}

    def state_dict(self) -> dict[str, Any]:
        return {
            "iteration": self._iteration,
            "updates": self._updates,
            "stabilizing_since": self._stabilizing_since,
            "ratios": self._ratios,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._iteration = state["iteration"]
        self._updates = state["updates"]
        self._stabilizing_since = state["stabilizing_since"]
        ratios = state["ratios"]
        device = self._gauges[0].weight.device if self._gauges else None
        self._ratios = None if ratios is None else ratios.to(device)
