"""Loss and hits over some images, counted on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from greg_compress.training.world import World


class Tally:
    """Sums over images; each process counts its own, and `total` is over all."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        """Of the loss, of the hits, and of the images: doubles hold counts exactly."""

    def add(self, loss: Tensor, hits: Tensor, count: int) -> None:
        """Take the mean loss over `count` images, and how many of them were hits."""
        self._sums += torch.stack([loss.double() * count, hits.double(), torch.full_like(hits, count).double()])

    def clear(self) -> None:
        self._sums = torch.zeros_like(self._sums)

    def means(self, world: World | None = None) -> tuple[float, float, int]:
        """Mean loss, top-1 in percent and number of images (waits for the device)."""
        loss, hits, seen = (world.sum(self._sums) if world else self._sums).tolist()
        return loss / max(1, seen), 100 * hits / max(1, seen), int(seen)

    def saved(self, world: World) -> Tensor:
        """Every process's sums, (processes, 3)."""
        return world.each(self._sums)

    def load(self, saved: Any, world: World) -> None:
        """Go on from :meth:`saved`; where other processes saved it, the first one takes all.

        Raises:
            ValueError: figures that are none.
        """
        if not isinstance(saved, Tensor) or saved.dtype != torch.float64 or saved.shape[1:] != (3,) or not len(saved):
            raise ValueError("figures of the epoch that are none")
        if bool((saved[:, 1] < 0).any()) or bool((saved[:, 1] > saved[:, 2]).any()):
            raise ValueError("figures of the epoch that are none")
        if len(saved) == world.size:
            self._sums.copy_(saved[world.rank])
        else:
            self._sums.copy_(saved.sum(0) if world.rank == 0 else torch.zeros(3))
