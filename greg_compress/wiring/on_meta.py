"""What frequent operations make on the meta device, where torch's own way is Python and takes up to a millisecond.

Each answers with tensors of the shapes, dtypes and strides that torch's own would have, or with None where the
case is not plain; then torch answers (or raises) itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
WIDE = (torch.float32, torch.float64)
"""In less, norms keep their statistics in float32."""


def made_on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    """What `func` makes, or None if that is not known here."""
    known = KNOWN.get(func)
    if known is None or kwargs or not (isinstance(args[0], list) or args[0].is_meta):
        return None
    return known(*args)


def _same(tensor: Tensor, *_: Any) -> Tensor | None:
    return torch.empty_like(tensor) if tensor.is_floating_point() else None


def _binary(tensor: Tensor, other: Any, *_: Any) -> Tensor | None:
    if isinstance(other, Tensor):
        plain = tensor.shape == other.shape and tensor.dtype == other.dtype and tensor.stride() == other.stride()
    else:
        plain = True
    return torch.empty_like(tensor) if plain and tensor.is_floating_point() else None


def _norm_fits(tensor: Tensor, channels: int, *vectors: Tensor | None) -> bool:
    return tensor.dtype in WIDE and all(
        vector is None or (vector.shape == (channels,) and vector.dtype == tensor.dtype) for vector in vectors
    )


def _batch_norm(tensor: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    mean, variance, training = rest[2:5]
    if tensor.dim() < 2 or (mean is None) != (variance is None) or not (training or mean is not None):
        return None
    single = tensor.numel() <= tensor.shape[1]
    if single or not tensor.is_contiguous() or not _norm_fits(tensor, tensor.shape[1], *rest[:4]):
        return None
    saved = tensor.new_empty((tensor.shape[1],))
    return torch.empty_like(tensor), saved, torch.empty_like(saved)


def _layer_norm(
    tensor: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, _: float
) -> tuple[Tensor, ...] | None:
    plain = len(shape) == 1 and tensor.shape[-1] == shape[0] and tensor.is_contiguous()
    if not plain or not _norm_fits(tensor, shape[0], weight, bias):
        return None
    saved = tensor.new_empty((*tensor.shape[:-1], 1))
    return torch.empty_like(tensor), saved, torch.empty_like(saved)


def _cat(tensors: list[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    dim %= first.dim() or 1
    shapes = [[*tensor.shape[:dim], 0, *tensor.shape[dim + 1 :]] for tensor in tensors if tensor.dim()]
    plain = len(shapes) == len(tensors) and all(shape == shapes[0] for shape in shapes)
    if not plain or not all(tensor.dtype == first.dtype and tensor.is_contiguous() for tensor in tensors):
        return None
    return first.new_empty((*shapes[0][:dim], sum(tensor.shape[dim] for tensor in tensors), *shapes[0][dim + 1 :]))


def _mean(tensor: Tensor, dims: list[int] | None = None, keep: bool = False) -> Tensor | None:
    if not dims or not tensor.is_floating_point() or not tensor.is_contiguous():
        return None
    gone = {dim % tensor.dim() for dim in dims}
    sizes = [1 if at in gone else size for at, size in enumerate(tensor.shape) if keep or at not in gone]
    return tensor.new_empty(sizes)


def _addmm(bias: Tensor, tensor: Tensor, weight: Tensor) -> Tensor | None:
    fits = tensor.dim() == weight.dim() == 2 and tensor.shape[1] == weight.shape[0] and tensor.dtype == weight.dtype
    if not fits or bias.shape != weight.shape[1:] or bias.dtype != tensor.dtype:
        return None
    return tensor.new_empty((tensor.shape[0], weight.shape[1]))


def _roll(tensor: Tensor, *_: Any) -> Tensor | None:
    return torch.empty_like(tensor) if tensor.is_contiguous() else None


KNOWN: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((aten.relu.default, aten.hardtanh.default, aten.hardswish.default, aten.gelu.default), _same),
    **dict.fromkeys((aten.hardsigmoid.default, aten.leaky_relu.default, aten.elu.default, aten.mish.default), _same),
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor), _binary),
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.cat.default: _cat,
    aten.mean.dim: _mean,
    aten.addmm.default: _addmm,
    aten.roll.default: _roll,
}
