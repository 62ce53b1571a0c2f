"""Slice tensors and attributes so that the removed units are gone."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from greg_compress.wiring.groups import Wiring
from greg_compress.wiring.skeleton import named_tensors

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


@dataclass(frozen=True)
class Form:
    """What a cut network has that its factory does not make: all that :func:`reshape` needs."""

    shapes: dict[str, list[int]] = field(default_factory=dict)
    """The shape of every tensor that lost something."""
    groups: dict[str, int] = field(default_factory=dict)
    """The groups of every convolution that lost whole ones, by its module's name. Its shapes alone do not tell
    them from equal offsets in every group."""


def cut(model: nn.Module, wiring: Wiring, removed: Tensor) -> Form:
    """Remove units from `model` in place, and return its new form.

    Args:
        removed: classes of the units that go (:meth:`Plan.removed_units`).
    """
    staying = survivors(wiring, removed)
    form = Form(
        {name: [index.numel() for index in indices] for name, indices in staying.items()},
        _groups_left(model, wiring, staying),
    )
    _replace(model, staying, lambda name, old: _sliced(old, staying[name]), form.groups)
    return form


def form_of(model: nn.Module, whole: nn.Module) -> Form:
    """The form of a network, however it was cut, seen beside what its factory makes."""
    made = {name: tensor.shape for name, tensor in named_tensors(whole)}
    shapes = {name: list(tensor.shape) for name, tensor in named_tensors(model) if made.get(name) != tensor.shape}
    groups = {path: module.groups for path, module in whole.named_modules() if isinstance(module, _ConvNd)}
    own = {path: module.groups for path, module in model.named_modules() if isinstance(module, _ConvNd)}
    return Form(shapes, {path: count for path, count in own.items() if groups.get(path, count) != count})


def _groups_left(model: nn.Module, wiring: Wiring, staying: Survivors) -> dict[str, int]:
    """The groups that are left of every convolution that loses whole ones; each holds as many rows as before."""
    whole = {id(model.get_parameter(layer.weight)) for layer in wiring.layers if layer.whole_groups}
    return {
        path: staying[f"{path}.weight"][0].numel() * module.groups // module.weight.shape[0]
        for path, module in model.named_modules()
        if isinstance(module, _ConvNd) and id(module.weight) in whole and f"{path}.weight" in staying
    }


def reshape(model: nn.Module, form: Form) -> None:
    """Give `model` empty tensors of the form that :func:`cut` returned, and the attributes that go with them.

    Raises:
        ValueError: a tensor that is not there, or a shape that no cut of it can have.
    """
    tensors = dict(named_tensors(model))
    added = {name: layer for name in form.shapes if (layer := _without_bias(model, name)) is not None}
    kernels = {f"{path}.weight": m.kernel_size for path, m in model.named_modules() if isinstance(m, _ConvNd)}
    for name, shape in form.shapes.items():
        if name in added:
            continue
        sizes = tensors[name].shape if name in tensors else ()
        kernel = kernels.get(name, ())
        if (
            len(shape) != len(sizes)
            or not all(type(new) is int and 0 < new <= old for new, old in zip(shape, sizes, strict=True))
            or (kernel and tuple(shape[2:]) != kernel)
        ):
            raise ValueError(f"{name} cannot have been cut to {'x'.join(map(str, shape))}")
    for name, groups in form.groups.items():
        if not 0 < groups <= _convolution(model, name).groups:
            raise ValueError(f"{name} cannot have been cut to {groups} groups")
    _replace(model, form.shapes, lambda name, old: old.detach().new_empty(tuple(form.shapes[name])), form.groups)
    for name, layer in added.items():
        if form.shapes[name] != [makes := _outputs(layer)]:
            raise ValueError(f"{name} must have {makes} entries")
        layer.bias = nn.Parameter(layer.weight.detach().new_empty(makes))


def _without_bias(model: nn.Module, name: str) -> nn.Linear | _ConvNd | None:
    """The layer that `name` would be a new bias of: one that :func:`.folding.fold` gave it."""
    path, _, leaf = name.rpartition(".")
    layer = dict(model.named_modules()).get(path) if leaf == "bias" else None
    return layer if isinstance(layer, (nn.Linear, _ConvNd)) and layer.bias is None else None


def _outputs(layer: nn.Linear | _ConvNd) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _convolution(model: nn.Module, name: str) -> _ConvNd:
    found = dict(model.named_modules()).get(name)
    if not isinstance(found, _ConvNd):
        raise ValueError(f"{name} is no convolution")
    return found


def _replace(
    model: nn.Module, names: Container[str], make: Callable[[str, Tensor], Tensor], groups: Mapping[str, int]
) -> None:
    """Put new data in the place of the tensors `names`, keeping tied ones tied, and update their modules.

    One by one, so that no more than one tensor stands twice in memory.
    """
    first: dict[int, str] = {}
    leader = {name: first.setdefault(id(tensor), name) for name, tensor in named_tensors(model)}
    made: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        changed = False
        for store in (module._parameters, module._buffers):
            for key, old in store.items():
                name = f"{path}.{key}" if path else key
                if old is not None and name in names:
                    if leader[name] not in made:
                        made[leader[name]] = _like(old, make(name, old))
                    store[key] = made[leader[name]]  # type: ignore[assignment]
                    changed = True
        if changed:
            for attribute, value in fitting_attributes(module, groups.get(path)).items():
                setattr(module, attribute, value)


def _like(old: Tensor, data: Tensor) -> Tensor:
    return nn.Parameter(data, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else data


def _sliced(tensor: Tensor, indices: tuple[Tensor, ...]) -> Tensor:
    data = tensor.detach()
    losing = [dim for dim, index in enumerate(indices) if index.numel() < data.shape[dim]]
    for dim in sorted(losing, key=lambda dim: indices[dim].numel() / data.shape[dim]):  # the least is copied twice
        data = data.index_select(dim, indices[dim].to(data.device))
    return data


def fitting_attributes(module: nn.Module, groups: int | None = None) -> dict[str, Any]:
    """The channel counts that a module should have, going by the tensors that it holds.

    Args:
        groups: of a convolution that lost whole ones; any other keeps them and loses equal offsets in each.
    """
    if isinstance(module, _ConvNd):
        groups = groups or module.groups
        rows, columns = module.weight.shape[:2]
        into, out = (rows, columns * groups) if module.transposed else (columns * groups, rows)
        return {"in_channels": into, "out_channels": out, "groups": groups}
    if isinstance(module, nn.Linear):
        return {"in_features": module.weight.shape[1], "out_features": module.weight.shape[0]}
    if isinstance(module, _NormBase):
        held = next((t for t in (module.weight, module.running_mean) if t is not None), None)
        return {} if held is None else {"num_features": held.shape[0]}
    if isinstance(module, nn.LayerNorm):
        return {"normalized_shape": tuple(module.weight.shape)}
    if isinstance(module, nn.GroupNorm):
        channels, each = module.weight.shape[0], module.num_channels // module.num_groups
        return {"num_channels": channels, "num_groups": 1 if module.num_groups == 1 else channels // each}
    return {}
