"""Learning rates as functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from greg_compress.options.training import Decay

MILESTONES = (0.5, 0.75)
"""Shares of the run at which multistep divides the rate by 10 (He et al., 2016, section 4.2)."""


@dataclass(frozen=True)
class Schedule:
    """A linear warm-up over `warmup` steps to `lr`, then a decay until step `total`."""

    lr: float
    total: int
    decay: Decay = Decay.CONSTANT
    warmup: int = 0
    milestones: tuple[float, ...] = MILESTONES

    def at(self, step: int) -> float:
        """The learning rate of step 0 <= step < total."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.decay is Decay.COSINE:
            done = (step - self.warmup) / max(1, self.total - self.warmup)
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        if self.decay is Decay.MULTISTEP:
            passed = sum(step >= share * self.total for share in self.milestones)
            return float(self.lr * 0.1**passed)
        return self.lr
