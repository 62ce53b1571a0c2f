"""Which single weights go: one mask for each weight tensor, True where it goes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from greg_compress.criteria.weights import WeightScores

Masks = Mapping[str, Tensor]
"""By the parameter's name: bool, of its shape, on the CPU."""
Counts = Mapping[str, int]
"""How many weights go, by the parameter's name."""


def least(counts: Counts, gone: Masks, score: WeightScores) -> dict[str, Tensor]:
    """Pick the weights with the least scores; of equals the first go.

    Args:
        gone: what went in earlier rounds; it goes first, whatever its score.
    """
    found = {}
    for name, count in counts.items():
        scores = score(name)
        if name in gone:
            scores = scores.masked_fill(gone[name], -torch.inf)
        found[name] = _lowest(scores, count)
    return found


def _lowest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` lowest scores are; a threshold finds them with less time and memory than a sort."""
    flat = scores.flatten().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if not count:
        return torch.zeros(scores.shape, dtype=torch.bool)
    limit = flat.kthvalue(count).values
    found = flat < limit
    equal = (flat == limit).nonzero().flatten()
    found[equal[: count - int(found.sum())]] = True
    return found.view(scores.shape)


def counts_of(masks: Masks) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def differing(masks: Masks, others: Masks) -> int:
    """How many weights go by `masks` that stay by `others`."""
    return sum(int((mask & ~others[name]).sum()) for name, mask in masks.items())


@torch.no_grad()
def zero(model: nn.Module, masks: Masks) -> None:
    """Set the weights that go to zero, in place."""
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        weight.masked_fill_(mask.to(weight.device), 0)
