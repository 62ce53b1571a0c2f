"""How pixels become what a network reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """A network reads (pixel * scale - mean) / std, each per channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 or floating-point images (N, C, H, W) to float32."""
        mean, std = (_column(values, images.device) for values in (self.mean, self.std))
        return images.to(torch.float32, copy=True).mul_(self.scale).sub_(mean).div_(std)

    @property
    def idle(self) -> bool:
        """Whether it changes nothing: of images that come normalised."""
        return (self.scale, set(self.mean), set(self.std)) == (1.0, {0.0}, {1.0})

    def to_json(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


@cache
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1), sent to the device once: sending waits for it."""
    return torch.tensor(values, device=device).view(-1, 1, 1)


@dataclass(frozen=True)
class Preprocessing:
    """What published weights were trained with, as far as their library says; torchvision's detectors do it inside."""

    mean: list[float] | None
    std: list[float] | None
    side: int | None
    """Of the square that images are cropped or resized to."""
    classes: int | None

    def normalization(self) -> Normalization | None:
        """How images of bytes become what the network reads."""
        return Normalization(1 / 255, tuple(self.mean), tuple(self.std)) if self.mean and self.std else None
