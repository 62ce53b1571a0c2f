"""Slice tensors and attributes so that the removed units are gone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from greg_compress.wiring.groups import Wiring

Survivors = dict[str, tuple[Tensor, ...]]
"""For every tensor that loses something, the indices that it keeps along each dimension."""


def survivors(wiring: Wiring, removed: Tensor) -> Survivors:
    """Which indices of which tensors stay when the units `removed` (classes) go."""
    gone = torch.zeros(len(wiring.trace.labels), dtype=torch.bool)
    gone[removed] = True
    found: Survivors = {}
    for name, dims in wiring.classes.items():
        if any(bool(gone[units].any()) for units in dims):
            found[name] = tuple((~gone[units]).nonzero().flatten() for units in dims)
    return found


def cut(model: nn.Module, wiring: Wiring, removed: Tensor) -> dict[str, dict[str, int]]:
    """Remove units from `model` in place.

    Args:
        removed: classes of the units that go (:meth:`Plan.removed_units`).

    Returns:
        For every module that changed, its attributes as they are now.
    """
    staying = survivors(wiring, removed)
    _slice(model, staying)
    changed: dict[str, dict[str, int]] = {}
    owners = {name.rpartition(".")[0] for name in staying}
    for name, module in model.named_modules(remove_duplicate=False):
        if name in owners and (new := fitting_attributes(module)):
            for attribute, value in new.items():
                setattr(module, attribute, value)
            changed[name] = new
    return changed


def _slice(model: nn.Module, staying: Survivors) -> None:
    sliced: dict[int, Any] = {}  # tied tensors stay tied
    for path, module in model.named_modules():
        for store in (module._parameters, module._buffers):
            for key, tensor in store.items():
                name = f"{path}.{key}" if path else key
                if tensor is None or (name not in staying and id(tensor) not in sliced):
                    continue
                if id(tensor) not in sliced:
                    sliced[id(tensor)] = _sliced(tensor, staying[name])
                store[key] = sliced[id(tensor)]


def _sliced(tensor: Tensor, indices: tuple[Tensor, ...]) -> Tensor:
    data = tensor.detach()
    for dim, index in enumerate(indices):
        if index.numel() < data.shape[dim]:
            data = data.index_select(dim, index.to(data.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data


def fitting_attributes(module: nn.Module) -> dict[str, int]:
    """The channel counts that a module should have, going by the tensors that it holds.

    A depthwise convolution (by its old attributes) loses groups; any other keeps them and loses equal
    offsets in each.
    """
    if isinstance(module, _ConvNd):
        out, fan = module.weight.shape[:2]
        groups = module.groups
        if module.in_channels == groups > 1:
            groups = out * groups // module.out_channels
        return {"in_channels": fan * groups, "out_channels": out, "groups": groups}
    if isinstance(module, nn.Linear):
        return {"in_features": module.weight.shape[1], "out_features": module.weight.shape[0]}
    if isinstance(module, _BatchNorm):
        held = next((t for t in (module.weight, module.running_mean) if t is not None), None)
        return {} if held is None else {"num_features": held.shape[0]}
    return {}


def shapes_from_attributes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes that a module's tensors must have, going by its attributes: the inverse of the above.

    This is how a state file's tensors are checked against what it says of its modules.
    """
    if isinstance(module, _ConvNd):
        weight = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        return {"weight": weight, "bias": (module.out_channels,)}
    if isinstance(module, nn.Linear):
        return {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
    if isinstance(module, _BatchNorm):
        vector = (module.num_features,)
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), vector)
    return {}
