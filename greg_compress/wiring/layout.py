"""Layout: how labels lie in one tensor.

A tensor carries *planes*: int64 tensors of its own shape. An activation has one plane (each element
carries the label of its channel); a parameter has one plane per dimension, since each of its elements
has an index in every dimension. Dimensions along which a plane does not vary have stride 0, so a plane
costs as much memory as it has different labels, and moving data around is done by the very ATen
operation that moved the real data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Layout:
    """The planes of a tensor, and the parameter that it is (a view of), if any."""

    __slots__ = ("_vector", "origin", "planes")

    def __init__(self, planes: Sequence[Tensor], origin: str | None = None) -> None:
        self.planes = tuple(compact(plane) for plane in planes)
        self.origin = origin
        self._vector: tuple[int, Tensor] | None = None

    @classmethod
    def spread(cls, labels: Tensor, shape: Sequence[int], dim: int) -> Layout:
        """An activation of `shape` whose labels (one for each index) lie along `dim`."""
        layout = cls.__new__(cls)
        layout.planes, layout.origin, layout._vector = (spread(labels, shape, dim),), None, (dim, labels)
        return layout

    @classmethod
    def of_tensor(cls, axes: Sequence[Tensor], origin: str | None) -> Layout:
        """A parameter or buffer whose dimensions carry the labels `axes`."""
        shape = [labels.numel() for labels in axes]
        layout = cls([spread(labels, shape, dim) for dim, labels in enumerate(axes)], origin)
        layout._vector = (0, axes[0]) if len(axes) == 1 else None
        return layout

    @property
    def shape(self) -> torch.Size:
        return self.planes[0].shape

    @property
    def plane(self) -> Tensor | None:
        """The one plane of an activation; None when there are several (a raw parameter)."""
        return self.planes[0] if len(self.planes) == 1 else None

    def vector(self) -> tuple[int, Tensor] | None:
        """The only dimension along which an activation's labels lie, and those labels; None when there is no one."""
        if self._vector is None and len(self.planes) == 1:
            dims = lying(self.planes[0])
            if len(dims) == 1:
                self._vector = dims[0], _select(self.planes[0], dims[0])
        return self._vector

    def along(self, dim: int) -> Tensor | None:
        """The labels of an activation along `dim`; see :func:`along`."""
        if (vector := self._vector) is not None and vector[0] == dim:
            return vector[1]
        return along(self.planes[0], dim) if len(self.planes) == 1 else None


Layouts = list[Layout | None]
"""How labels lie in each tensor that a call made, in order; None for a constant."""


def compact(plane: Tensor) -> Tensor:
    """Return the same plane with stride 0 in every dimension along which it does not vary."""
    shape = plane.shape
    candidates = lying(plane)
    if not candidates:
        return plane
    (small,) = thin(plane)
    changed = False
    for dim in candidates:
        # Most planes vary: two neighbours that differ tell so without a look at all the others.
        first = small.narrow(dim, 0, 1)
        if torch.equal(first, small.narrow(dim, 1, 1)) and bool((small == first).all()):
            small, changed = first, True
    # Cloned, since a view would hold on to all that an operation made.
    return small.clone().expand(shape) if changed else plane


def varies(plane: Tensor, dim: int) -> bool:
    """Whether labels of a compact plane differ along `dim`."""
    return plane.stride(dim) != 0 and plane.shape[dim] > 1


def lying(plane: Tensor) -> list[int]:
    """The dimensions along which labels of a compact plane differ."""
    return [dim for dim in range(plane.dim()) if varies(plane, dim)]


def thin(*planes: Tensor) -> tuple[Tensor, ...]:
    """Keep one index of every dimension along which none of these planes (of one shape) varies."""
    for dim, size in enumerate(planes[0].shape):
        if size > 1 and not any(plane.stride(dim) for plane in planes):
            planes = tuple(plane.narrow(dim, 0, 1) for plane in planes)
    return planes


def along(plane: Tensor, dim: int) -> Tensor | None:
    """The labels of a compact plane along `dim`, shape (size of dim,).

    None when the plane varies along another dimension as well, so that no one label stands for an index.
    """
    dim %= plane.dim()
    if any(varies(plane, other) for other in range(plane.dim()) if other != dim):
        return None
    return _select(plane, dim)


def _select(plane: Tensor, dim: int) -> Tensor:
    return plane[tuple(slice(None) if at == dim else 0 for at in range(plane.dim()))]


def spread(labels: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """A plane of `shape` that carries `labels` (one for each index) along `dim`."""
    strides = [0] * len(shape)
    strides[dim] = labels.stride(0) if shape[dim] > 1 else 0
    if labels.numel() != shape[dim]:
        raise ValueError(f"{labels.numel()} labels for {shape[dim]} indices")
    return labels.as_strided(tuple(shape), strides)
