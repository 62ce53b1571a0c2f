"""Whether the disk has room for what a run will keep there; said before it starts."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from greg_compress.errors import GregError
from greg_compress.state.format import State

TENSOR, FRAME = 640, 2**16
"""Bytes that a tensor takes in a file beside its elements, and all that is no tensor: options, log, counts."""


def require_room(
    partial: Path,
    model: nn.Module,
    momentum: bool,
    state: State,
    replaced: bool,
    regularizer: Any = (),
    recorded: int = 0,
) -> None:
    """Refuse a run whose OUT.partial would not fit. OUT is smaller, and has room where a replacement had it.

    Args:
        replaced: whether it will be replaced, so that two of them exist for a while.
        regularizer: its position at the start.
        recorded: bytes of what the phase writes down.

    Raises:
        GregError: the folder has less free than that.
    """
    folder = partial.resolve().parent
    size = partial_bytes(model, momentum, state, regularizer) + recorded
    there = partial.stat().st_size if partial.exists() else 0
    needed = max(0, size * (2 if replaced else 1) - there)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise GregError(
            f"{partial} will need {_megabytes(needed)}{' with its replacement' * replaced}, but {folder} has"
            f" {_megabytes(free)} free; make room, or choose another folder"
        )


def partial_bytes(model: nn.Module, momentum: bool, state: State, regularizer: Any = ()) -> int:
    """Size of OUT.partial, rarely less than it comes to be: weights, momentum, plan and history."""
    moved = [p for p in model.parameters() if p.requires_grad] if momentum else []
    masks = [leaf for leaf in tree_leaves(regularizer) if isinstance(leaf, Tensor)]
    tensors = [*model.state_dict().values(), *moved, *state.masks.values(), *masks, *masks]
    # A plan of GReg-2's stands there twice, as masks do: as it was at the start, and as it was picked.
    words = len(pickle.dumps(state.history)) + 2 * len(pickle.dumps(state.plan))
    return words + FRAME + sum(int(tensor.nbytes) + TENSOR for tensor in tensors)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
