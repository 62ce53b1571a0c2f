"""Batches of a data set, shuffled and augmented by position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import WHOLE, Samples, Share
from greg_compress.training.randomness import generator

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batches:
    """The training images in a new order every epoch."""

    samples: Samples
    normalization: Normalization
    batch_size: int
    seed: int
    share: Share = WHOLE
    """What of each batch this process takes."""
    device: torch.device = CPU
    """Where images are normalised: bytes travel four times faster than numbers."""

    @property
    def size(self) -> int:
        """Images in a step, over all shares."""
        return min(self.batch_size, len(self.samples))

    def __len__(self) -> int:
        """Batches in an epoch; the images that fill no batch wait for another epoch's order."""
        return max(1, len(self.samples) // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The images' order in `epoch`, from (seed, epoch)."""
        return torch.randperm(len(self.samples), generator=generator(self.seed, "order", epoch))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The share of batches of `epoch` from number `first` on: images (N, C, H, W) float32 and labels (N,)."""
        order = self.order(epoch)[: len(self) * self.batch_size]
        for images, labels in self.samples.batches(
            order, self.batch_size, first, lambda position: generator(self.seed, "augment", epoch, position), self.share
        ):
            yield self.normalization(images.to(self.device, non_blocking=True)), labels
