"""BatchNorm's statistics, measured anew on what a cut network really sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from greg_compress.errors import RequestError
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Samples
from greg_compress.training.batches import Batches

BATCH_SIZE = 128


def recalibrate(model: nn.Module, batches: Iterable[Tensor], number: int) -> None:
    """Replace running statistics by their mean over `number` batches of images (N, C, H, W), in place.

    Raises:
        RequestError: the network has none.
    """
    if not any(isinstance(module, _BatchNorm) and module.running_mean is not None for module in model.modules()):
        raise RequestError("--recalibrate would have no effect: this network has no BatchNorm with running statistics")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # dropout draws here, too
        update_bn(islice(batches, number), model)


def training_batches(samples: Samples, normalization: Normalization) -> Iterator[Tensor]:
    """Training images as training sees them, epoch by epoch, without an end."""
    batches = Batches(samples, normalization, BATCH_SIZE, seed=0)
    for epoch in count():
        for images, _ in batches.epoch(epoch):
            yield images
