"""Keeps weights that are gone at exactly zero while the others train."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from greg_compress.unstructured.masks import Masks


class Hold:
    """A regularizer for the training loop: gradients of masked weights are zeroed before the step.

    The weights are zero when it begins, and the momentum is that of a fresh optimizer. Then weight decay and momentum
    of a zero are zero, and every masked weight stays exactly where it is.
    """

    phase = "training"
    finished = False

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        self._parameters = [model.get_parameter(name) for name in masks]
        # In the order in memory of the weights, which may be channels_last.
        self._staying = [
            torch.empty_like(weight.detach()).copy_(~mask)
            for weight, mask in zip(self._parameters, masks.values(), strict=True)
        ]

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Zero the masked gradients of all layers at once; nothing waits for the device."""
        found = [(p.grad, mask) for p, mask in zip(self._parameters, self._staying, strict=True) if p.grad is not None]
        if found:
            gradients, masks = map(list, zip(*found, strict=True))
            torch._foreach_mul_(gradients, masks)

    def status(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the masks stand in the state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError("a regularizer of another command")
