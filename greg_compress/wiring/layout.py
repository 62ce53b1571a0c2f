"""Layout: how labels lie in one tensor.

A tensor carries *planes*: int64 tensors of its own shape. An activation has one plane (each element
carries the label of its channel); a parameter has one plane per dimension, since each of its elements
has an index in every dimension. Dimensions along which a plane does not vary have stride 0, so a plane
costs as much memory as it has different labels, and moving data around is done by the very ATen
operation that moved the real data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The planes of a tensor, and the parameter that it is (a view of), if any."""

    planes: tuple[Tensor, ...]
    origin: str | None = None

    @property
    def plane(self) -> Tensor | None:
        """The one plane of an activation; None when there are several (a raw parameter)."""
        return self.planes[0] if len(self.planes) == 1 else None


Layouts = list[Layout | None]
"""How labels lie in each tensor that a call made, in order; None for a constant."""


def compact(plane: Tensor) -> Tensor:
    """Return the same plane with stride 0 in every dimension along which it does not vary."""
    for dim in range(plane.dim()):
        if plane.shape[dim] > 1 and plane.stride(dim) != 0:
            first = plane.narrow(dim, 0, 1)
            if bool((plane == first).all()):
                plane = first.expand(plane.shape)
    return plane


def varies(plane: Tensor, dim: int) -> bool:
    """Whether labels of a compact plane differ along `dim`."""
    return plane.shape[dim] > 1 and plane.stride(dim) != 0


def thin(*planes: Tensor) -> tuple[Tensor, ...]:
    """Keep one index of every dimension along which none of these planes (of one shape) varies."""
    for dim in range(planes[0].dim()):
        if not any(varies(plane, dim) for plane in planes):
            planes = tuple(plane.narrow(dim, 0, min(1, plane.shape[dim])) for plane in planes)
    return planes


def along(plane: Tensor, dim: int) -> Tensor | None:
    """The labels of a compact plane along `dim`, shape (size of dim,).

    None when the plane varies along another dimension as well, so that no one label stands for an index.
    """
    if any(varies(plane, other) for other in range(plane.dim()) if other != dim % plane.dim()):
        return None
    for other in reversed([d for d in range(plane.dim()) if d != dim % plane.dim()]):
        plane = plane.select(other, 0)
    return plane


def spread(labels: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """A plane of `shape` that carries `labels` (one for each index) along `dim`."""
    view = [1] * len(shape)
    view[dim] = labels.numel()
    return labels.reshape(view).expand(shape)
