"""Scores of single weights, by any criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from greg_compress.criteria.loss import MEASURES, Batches
from greg_compress.criteria.scores import drawn
from greg_compress.options.criterion import L1, Criterion, Kind

WeightScores = Callable[[str], Tensor]
"""From a parameter's name to what each of its weights is worth, in its shape, on the CPU."""


def weight_scores(
    model: nn.Module,
    names: Iterable[str],
    criterion: Criterion = L1,
    images: Callable[[], Batches] | None = None,
) -> WeightScores:
    """Scores of the parameters `names`, on the CPU, so that picks do not depend on the device.

    Args:
        images: what a criterion that needs them is measured on.
    """
    if criterion.needs_images:
        if images is None:
            raise ValueError(f"{criterion} is measured on images")
        return MEASURES[criterion.kind](model, dict.fromkeys(names), images()).__getitem__

    def score(name: str) -> Tensor:
        weight = model.get_parameter(name).detach().cpu()
        if criterion.kind is Kind.RANDOM:
            return drawn(weight.numel(), name, criterion.seed).view(weight.shape)
        assert criterion.kind in (Kind.MAX, Kind.L1), criterion.kind
        return -weight.abs() if criterion.kind is Kind.MAX else weight.abs()

    return score
