"""What a run trains and evaluates on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Samples
from greg_compress.training.batches import Batches
from greg_compress.training.evaluation import evaluate
from greg_compress.training.loop import Loop, Regularizer, Settings
from greg_compress.training.objective import Objective
from greg_compress.training.schedule import Schedule
from greg_compress.training.world import World


@dataclass(frozen=True)
class Course:
    """Network, images and settings; how long and under which penalty, a loop is told."""

    model: nn.Module
    batches: Batches
    settings: Settings
    objective: Objective
    world: World
    normalization: Normalization
    test: Samples
    held_out: Samples | None
    """Training images for an accuracy at the end of each epoch."""

    def loop(self, schedule: Schedule, regularizer: Regularizer | None = None) -> Loop:
        held_out = self.held_out
        return Loop(
            self.model,
            self.batches,
            schedule,
            self.settings,
            regularizer,
            None if held_out is None else lambda: self.evaluate(held_out),
            self.objective,
            self.world,
        )

    def evaluate(self, samples: Samples, check: Callable[[], None] = lambda: None) -> float:
        """Top-1 in percent."""
        return evaluate(self.model, samples, self.normalization, self.settings.device, check, self.world).top1
