"""Accuracy of a network on one part of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from greg_compress.errors import GregError, RequestError, input_fault
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Samples


@dataclass(frozen=True)
class Accuracy:
    """top1 and top5 in percent, mean cross entropy, and the number of images."""

    top1: float
    top5: float
    loss: float
    samples: int


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Run a classifier, (N, C, H, W) -> (N, classes).

    Raises:
        RequestError: the network returns anything else, for which cross entropy has no meaning.
    """
    with input_fault("the network fails on these images"):
        output = model(images)
    if not isinstance(output, Tensor) or output.dim() != 2:
        what = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise RequestError(f"the network returns {what}; only cross entropy on (N, classes) logits is supported")
    return output


def require_label(largest: int, output: Tensor) -> None:
    """Raise RequestError where the largest label of a batch has no logit."""
    if largest >= output.shape[1]:
        raise RequestError(f"an image has label {largest}, but the network has {output.shape[1]} outputs")


@torch.no_grad()
def evaluate(
    model: nn.Module,
    samples: Samples,
    normalization: Normalization,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> Accuracy:
    """Evaluate in eval mode and float32, `check` being called between batches (it may raise).

    Raises:
        GregError: the outputs are not finite.
    """
    was_training = model.training
    model.eval()
    top1 = top5 = 0
    loss = 0.0
    for images, labels in samples.batches(torch.arange(len(samples)), samples.at_once):
        check()
        output = logits(model, normalization(images.to(device))).float()
        require_label(int(labels.max()), output)
        labels = labels.to(device)
        ranked = output.topk(min(5, output.shape[1]), dim=1).indices
        hits = ranked == labels[:, None]
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.sum())
        loss += float(nn.functional.cross_entropy(output, labels, reduction="sum"))
    model.train(was_training)
    if not loss < float("inf"):
        raise GregError("the network's outputs are not finite (NaN or infinity)")
    return Accuracy(100 * top1 / len(samples), 100 * top5 / len(samples), loss / len(samples), len(samples))
