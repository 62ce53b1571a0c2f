"""Named settings of the phase. No torch here: the command line fills its own options from them."""

from __future__ import annotations

from dataclasses import dataclass

from greg_compress.options.penalty import Penalize, Preset


@dataclass(frozen=True)
class Settings:
    """Everything that a preset decides; what is None follows from the length of an epoch or from another value."""

    lr: float
    batch_size: int
    weight_decay: float
    penalize: Penalize
    ceiling: float
    """tau"""
    delta: float | None
    update_every: int
    """K_u"""
    stabilize: int | None
    """K_s"""
    pick_ceiling: float
    """tau'"""
    pick_delta: float | None
    recover: float | None = None
    """lambda of the kept units once GReg-2 has picked; None for minus the weight decay."""
    stop_ratio: float | None = None


def _paper(batch_size: int, weight_decay: float, update_every: int, stabilize: int) -> Settings:
    return Settings(1e-3, batch_size, weight_decay, Penalize.WEIGHTS, 1.0, 1e-4, update_every, stabilize, 0.01, 1e-5)


PRESETS: dict[Preset, Settings] = {
    Preset.QUICK: Settings(3e-2, 128, 5e-4, Penalize.UNIT, 5.0, None, 1, None, 0.05, None),
    Preset.PAPER_CIFAR: _paper(256, 5e-4, 10, 5_000),
    Preset.PAPER_IMAGENET: _paper(64, 1e-4, 5, 40_000),
    Preset.REPO_CIFAR: Settings(
        1e-3, 128, 5e-4, Penalize.WEIGHTS, 1.0, 1e-4, 10, 10_000, 0.01, 1e-5, recover=-1e-4, stop_ratio=1000.0
    ),
}
"""The paper's Tables 5 and 8, and the README of the authors' repository."""
