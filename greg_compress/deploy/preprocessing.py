"""A network that normalises its images by itself, so that a device gives it pixels as a camera does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from greg_compress.sources.normalization import Normalization
from greg_compress.wiring.skeleton import Shapes

BYTE = 255
EXAMPLE_BATCH = 2
"""Exporters specialise a batch of 1."""


class Preprocessed(nn.Module):
    """A network behind its normalisation: bytes (N, C, H, W) as the data set has them -> what the network returns.

    Bytes, because that is what cameras and decoders give: a quarter of float32's memory to hand over, and nobody can
    hand over what was divided by 255 already.
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        self.network, self.normalization = network, normalization
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (normalization.mean, normalization.std))
        self.register_buffer("factor", (normalization.scale / std).float().view(-1, 1, 1))
        self.register_buffer("shift", (-mean / std).float().view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        # One multiplication and one addition; folded into the first convolution, zero padding would not be black.
        found: Tensor = self.network(images.to(torch.float32) * self.factor + self.shift)
        return found

    def reference(self, images: Tensor) -> Tensor:
        """The same, normalised as in training: what the file is compared with."""
        found: Tensor = self.network(self.normalization(images))
        return found

    def random_pixels(self, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        """Bytes as bright as those that the scale was made for (16 for the digits, else 255)."""
        brightest = max(1, min(BYTE, round(1 / self.normalization.scale)))
        return torch.randint(0, brightest + 1, shape, dtype=torch.uint8, generator=random)


def examples(model: nn.Module, input_shapes: Shapes) -> tuple[Tensor, ...]:
    """Inputs of the kind that a network takes: pixels or normalised images, for an exporter to follow."""
    dtype = torch.uint8 if isinstance(model, Preprocessed) else torch.float32
    return tuple(torch.zeros((EXAMPLE_BATCH, *shape), dtype=dtype) for shape in input_shapes)
