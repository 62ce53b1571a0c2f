"""Batch normalisation over the images of all processes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch normalisation, in place, take mean and variance over all processes while it trains.

    torch's own SyncBatchNorm runs on accelerators alone; on the CPU the same is written out below.
    """
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return]
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_forward, module, module.forward)  # type: ignore[method-assign]
    return model


class _Sum(torch.autograd.Function):
    """Over all processes, forward and backward."""

    @staticmethod
    def forward(_ctx: Any, tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(_ctx: Any, *gradients: Any) -> Any:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def _forward(norm: _BatchNorm, alone: Any, images: Tensor) -> Tensor:
    """(N, C, ...) -> (N, C, ...); equations of Ioffe & Szegedy, 2015, with sums over all processes."""
    if not norm.training:
        return alone(images)  # type: ignore[no-any-return]
    norm._check_input_dim(images)  # type: ignore[no-untyped-call]
    values = images.float() if images.dtype in (torch.bfloat16, torch.float16) else images
    others = [dim for dim in range(values.dim()) if dim != 1]
    own = values.new_tensor([values.numel() / values.shape[1]])
    total, count = _Sum.apply(torch.cat([values.sum(others), own])).split([values.shape[1], 1])
    column = [1, -1] + [1] * (values.dim() - 2)
    apart = values - (mean := total / count).view(column)
    variance = _Sum.apply(apart.square().sum(others)) / count
    _track(norm, mean.detach(), variance.detach() * count / (count - 1))
    found = apart * torch.rsqrt(variance + norm.eps).view(column)
    if norm.affine:
        found = found * norm.weight.view(column) + norm.bias.view(column)
    return found.to(images.dtype)  # type: ignore[no-any-return]


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    if norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean), share)
    norm.running_var.lerp_(variance.to(norm.running_var), share)
