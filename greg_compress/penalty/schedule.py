"""How lambda grows, in counts of updates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeVar

from greg_compress.errors import RequestError
from greg_compress.options.penalty import Method, PenaltyOptions, Preset
from greg_compress.penalty.presets import PRESETS

T = TypeVar("T")

QUICK_EPOCHS, QUICK_LEAST, QUICK_MOST = 6, 300, 3000
GROWING_SHARE = 10
"""Of the iterations that reach tau, GReg-2 spends one in so many on reaching tau' (the paper: 1,001 of 10,900)."""


LONGEST = 105_001
"""Iterations of the paper's phase on CIFAR: `quick` takes no more of a budget."""
SHORTEST, LEAST = 100, 10
"""Iterations without which a budget is too small; and the fewest that can be scaled down to, to try out a recipe."""


@dataclass(frozen=True)
class Picking:
    """GReg-2's first part: tau' and its delta of Algorithm 1, and lambda of the kept units afterwards."""

    ceiling: float
    delta: float
    recover: float

    @cached_property
    def updates(self) -> int:
        """The first count k with k * delta > ceiling, on the decimal literals."""
        return _first_above(_literal(self.ceiling), _literal(self.delta))


@dataclass(frozen=True)
class GrowthSchedule:
    """How the penalty grows: tau, delta, K_u and K_s of Algorithm 1."""

    ceiling: float
    delta: float
    update_every: int
    stabilize: int
    stop_ratio: float | None = None
    picking: Picking | None = None
    """For GReg-2."""

    @cached_property
    def updates(self) -> int:
        """Updates by `delta` until lambda passes the ceiling: 10,001 for tau = 1 and delta = 1e-4."""
        grown = self.picking.updates * _literal(self.picking.delta) if self.picking else 0
        return max(1, _first_above(_literal(self.ceiling) - grown, _literal(self.delta)))

    @property
    def iterations(self) -> int:
        """Of the whole phase, unless it stops early. The first update is at iteration 0."""
        updates = self.updates + (self.picking.updates if self.picking else 0)
        return (updates - 1) * self.update_every + 1 + self.stabilize

    def figures(self) -> dict[str, Any]:
        """What it resolved to, for the result."""
        return {
            "delta": self.delta,
            "update_every": self.update_every,
            "stabilize": self.stabilize,
            "pick_delta": self.picking.delta if self.picking else None,
        }


def _literal(value: float) -> Fraction:
    """The decimal number that was typed, exactly."""
    return Fraction(str(value))


def _first_above(ceiling: Fraction, delta: Fraction) -> int:
    return int(ceiling / delta) + 1


def schedule_of(
    options: PenaltyOptions, steps_per_epoch: int, weight_decay: float, allowed: int | None = None
) -> GrowthSchedule:
    """The schedule that the options describe: as long as they say, or as the iterations that a budget allows."""
    if options.scale is not None:
        return scaled_schedule(options, steps_per_epoch, weight_decay, options.scale)
    if allowed is None:
        return resolve_schedule(options, steps_per_epoch, weight_decay)
    return fitted_schedule(options, steps_per_epoch, weight_decay, allowed)


def resolve_schedule(options: PenaltyOptions, steps_per_epoch: int, weight_decay: float) -> GrowthSchedule:
    """Fill in what the options leave to the preset.

    `quick` reaches its ceiling in 6 epochs, but at least 300 and at most 3,000 iterations, and stabilizes
    for a tenth of that.

    Args:
        weight_decay: gamma; kept units recover with its negative unless the options say otherwise.

    Raises:
        RequestError: tau' is not below tau.
    """
    preset = PRESETS[options.preset]
    ceiling = _or(options.ceiling, preset.ceiling)
    every = _or(options.update_every, preset.update_every)
    push = min(QUICK_MOST, max(QUICK_LEAST, QUICK_EPOCHS * steps_per_epoch))
    picking = None
    if options.method is Method.GREG_2:
        # A ceiling of the user's own keeps the preset's proportion.
        pick_ceiling = _or(options.pick_ceiling, preset.pick_ceiling * ceiling / preset.ceiling)
        if not pick_ceiling < ceiling:
            raise RequestError(f"--pick-ceiling {pick_ceiling:g} must be below --ceiling {ceiling:g}")
        grow = push // GROWING_SHARE
        pick_delta = _or(options.pick_delta, preset.pick_delta) or _rounded(pick_ceiling * every / grow)
        picking = Picking(pick_ceiling, pick_delta, _or(_or(options.recover, preset.recover), -weight_decay))
        push -= grow
    delta = _or(options.delta, preset.delta) or _rounded(ceiling * every / push)
    stabilize = _or(_or(options.stabilize, preset.stabilize), push // 10)
    stop_ratio = _or(options.stop_ratio, preset.stop_ratio)
    return GrowthSchedule(ceiling, delta, every, stabilize, stop_ratio, picking)


def _or(given: T | None, otherwise: T) -> T:
    return otherwise if given is None else given


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def fitted_schedule(options: PenaltyOptions, steps_per_epoch: int, weight_decay: float, allowed: int) -> GrowthSchedule:
    """The schedule that a number of iterations allows: its preset's, or in the preset's proportions a shorter one.

    K_u gives way first (the paper's Table 9: it hardly matters), then delta grows.

    Raises:
        RequestError: fewer than 100 iterations are allowed.
    """
    if allowed < SHORTEST:
        raise RequestError(f"the budget allows {allowed} iterations, but {SHORTEST} are the least; give more time")
    whole = resolve_schedule(options, steps_per_epoch, weight_decay)
    return _stretched(whole, min(allowed, LONGEST if options.preset is Preset.QUICK else whole.iterations))


def scaled_schedule(options: PenaltyOptions, steps_per_epoch: int, weight_decay: float, scale: float) -> GrowthSchedule:
    """The schedule that the options describe, `scale` times as long, in the same proportions.

    Raises:
        RequestError: fewer than 10 iterations are left.
    """
    whole = resolve_schedule(options, steps_per_epoch, weight_decay)
    total = round(scale * whole.iterations)
    if total < LEAST:
        raise RequestError(
            f"--scale {scale:g} of {whole.iterations} iterations leaves {total}, but {LEAST} are the least"
        )
    return _stretched(whole, total)


def _stretched(whole: GrowthSchedule, total: int) -> GrowthSchedule:
    """A schedule of another length. K_u gives way first, then delta."""
    if total == whole.iterations:
        return whole
    stabilize = min(whole.stabilize * total // whole.iterations, total - LEAST // 2)
    picking = whole.picking
    most = whole.updates + (picking.updates if picking else 0)
    every = max(1, min(whole.update_every, (total - stabilize) // most))
    updates = (total - stabilize - 1) // every + 1
    rest = _literal(whole.ceiling)
    if picking is not None:
        grow = max(2, min(updates * picking.updates // most, updates - 2))
        picking = replace(picking, delta=_rounded_up(_literal(picking.ceiling) / (grow - 1)))
        updates -= picking.updates
        rest -= picking.updates * _literal(picking.delta)
    delta = _rounded_up(rest / (updates - 1)) if updates > 1 else whole.delta
    return GrowthSchedule(whole.ceiling, delta, every, stabilize, whole.stop_ratio, picking)


def _rounded_up(value: Fraction) -> float:
    """To three digits, so that no more updates are needed than there is time for."""
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    return float(Context(prec=3, rounding=ROUND_CEILING).plus(exact))
