"""Batches of a data set held in memory, shuffled and augmented by position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from greg_compress.sources.data import Normalization, Part
from greg_compress.training.randomness import generator


@dataclass(frozen=True)
class Batches:
    """The training images in a new order every epoch, each batch cropped and flipped at once."""

    part: Part
    normalization: Normalization
    batch_size: int
    seed: int
    padding: int = 0
    flips: bool = False

    def __len__(self) -> int:
        """Batches in an epoch; the images that fill no batch wait for another epoch's order."""
        return max(1, len(self.part) // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The images' order in `epoch`, from (seed, epoch)."""
        return torch.randperm(len(self.part), generator=generator(self.seed, "order", epoch))

    def batch(self, order: Tensor, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Batch `index` of `epoch`: images (N, C, H, W) float32 and labels (N,)."""
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        part = self.part.select(chosen)
        images = augment(part.images, self.padding, self.flips, generator(self.seed, "augment", epoch, index))
        return self.normalization(images), part.labels


def augment(images: Tensor, padding: int, flips: bool, random: torch.Generator) -> Tensor:
    """Pad with zeros, crop at random to the old size and mirror half of the images, (N, C, H, W)."""
    count, _, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=random)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    if flips:
        mirrored = torch.rand(count, 1, generator=random) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    sample = torch.arange(count)[:, None, None]
    # Indices around the channel slice put it last: (N, H, W, C), the memory of channels_last.
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
