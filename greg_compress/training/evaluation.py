"""Accuracy of a network on one part of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from greg_compress.errors import GregError, RequestError, input_fault
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Samples
from greg_compress.training.world import ALONE, World


@dataclass(frozen=True)
class Accuracy:
    """top1 and top5 in percent, mean cross entropy, and the number of images."""

    top1: float
    top5: float
    loss: float
    samples: int


def logits(model: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """Run a classifier, (N, C, H, W) -> (N, classes) in float32 at least.

    Raises:
        RequestError: the network returns anything else, for which cross entropy has no meaning.
    """
    with input_fault("the network fails on these images"):
        output = model(images)
    if not isinstance(output, Tensor) or output.dim() != 2:
        what = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise RequestError(f"the network returns {what}; only cross entropy on (N, classes) logits is supported")
    return output.to(torch.promote_types(output.dtype, torch.float32))


def require_label(largest: int, output: Tensor) -> None:
    """Raise RequestError where the largest label of a batch has no logit."""
    if largest >= output.shape[1]:
        raise RequestError(f"an image has label {largest}, but the network has {output.shape[1]} outputs; see --data")


@torch.no_grad()
def evaluate(
    model: nn.Module,
    samples: Samples,
    normalization: Normalization,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
    world: World = ALONE,
) -> Accuracy:
    """Evaluate in eval mode and float32, each process its share of the images.

    Args:
        check: called between batches, by every process equally often; it may raise.

    Raises:
        GregError: the outputs are not finite.
    """
    was_training = model.training
    model.eval()
    world.share(model.buffers())  # running statistics follow each process's own images
    sums = torch.zeros(4, dtype=torch.float64)
    batches = samples.batches(torch.arange(len(samples))[world.rank :: world.size], samples.at_once)
    for _ in range(-(-len(samples) // (world.size * samples.at_once))):
        check()
        if (batch := next(batches, None)) is not None and len(batch[1]):
            images, labels = batch
            sums += counted(model, normalization(images.to(device)), labels)
    model.train(was_training)
    return accuracy_of(world.sum(sums))


def accuracy_of(sums: Tensor) -> Accuracy:
    """What :func:`counted` of all batches comes to.

    Raises:
        GregError: the outputs are not finite.
    """
    top1, top5, loss, count = sums.tolist()
    if not loss < float("inf"):
        raise GregError("the network's outputs are not finite (NaN or infinity); look at its weights and at the images")
    return Accuracy(100 * top1 / count, 100 * top5 / count, loss / count, int(count))


def counted(model: Callable[[Tensor], Any], images: Tensor, labels: Tensor) -> Tensor:
    """Sums over one batch, as the network reads it: hits at 1, hits at 5, loss, images."""
    output = logits(model, images)
    require_label(int(labels.max()), output)
    labels = labels.to(output.device)
    hits = output.topk(min(5, output.shape[1]), dim=1).indices == labels[:, None]
    loss = nn.functional.cross_entropy(output, labels, reduction="sum")
    return torch.tensor([int(hits[:, 0].sum()), int(hits.sum()), float(loss), len(labels)], dtype=torch.float64)
