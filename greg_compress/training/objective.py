"""What is minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from greg_compress.options.training import Precision
from greg_compress.training.evaluation import logits
from greg_compress.training.numerics import autocast

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From images (N, C, H, W), logits (N, classes) float32 and labels (N,) to a scalar."""


def cross_entropy(_images: Tensor, output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels)


@dataclass(frozen=True)
class Distillation:
    """(1 - weight) * cross entropy + weight * T^2 * KL(teacher at T || student at T).

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015; T^2 keeps the size of the gradients.
    """

    teacher: nn.Module
    temperature: float
    weight: float
    precision: Precision
    device: torch.device

    def __call__(self, images: Tensor, output: Tensor, labels: Tensor) -> Tensor:
        self.teacher.eval()
        with torch.no_grad(), autocast(self.precision, self.device):
            taught = logits(self.teacher, images)
        wanted = F.log_softmax(taught / self.temperature, dim=1)
        given = F.log_softmax(output / self.temperature, dim=1)
        apart = F.kl_div(given, wanted, reduction="batchmean", log_target=True)
        return (1 - self.weight) * F.cross_entropy(output, labels) + self.weight * self.temperature**2 * apart
