"""The images that a criterion is measured on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from greg_compress.criteria.loss import Batches
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Samples, evenly

IMAGES, BATCH_SIZE = 2048, 16
"""With fewer the picks change from seed to seed; ResNet-50 takes these in two minutes on two cores."""


def scoring_images(samples: Samples, normalization: Normalization) -> Callable[[], Batches]:
    """Training images at equal distances, not augmented: whatever the schedule, the same units score the same."""

    def batches() -> Batches:
        count = min(IMAGES, len(samples))
        chosen = evenly(samples, count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))  # a folder lists class by class
        return ((normalization(images), labels) for images, labels in chosen.batches(order, BATCH_SIZE))

    return batches
