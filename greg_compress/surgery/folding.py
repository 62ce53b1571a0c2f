"""What a cut would take away from its readers, given back to them where it is constant.

A filter that the penalty has driven to zero still makes something: the bias and the shift of BatchNorm behind it, the
same for all images and positions. Whoever reads that channel gets a constant from it, which its bias, or the running
mean of the BatchNorm behind it, can hold as well. Without this a cut loses it, and with it much of the accuracy.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode

from greg_compress.surgery.masking import InDouble, examples, in_double, output_changes
from greg_compress.wiring.groups import Wiring

CONSTANT = 1e-6
"""Largest spread of a constant over batch and interior, relative to the largest output of the layer that reads it."""


@dataclass
class Constants:
    """What the readers of removed units get from them, by the reader's module: shape (its outputs,), in float64."""

    held: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)
    """The BatchNorm that alone reads what a reader makes."""
    left: list[str] = field(default_factory=list)
    """Readers that get something from them that is not constant, or that are called as functions."""


@dataclass(frozen=True)
class Folding:
    """A cut network, and what became of the constants."""

    network: nn.Module
    layers: int
    """How many took one."""
    left: tuple[str, ...]
    """Layers that could not: what they read there is not constant."""
    change: tuple[float, float]
    """Of the output on a random batch against the dense network's: without the constants, and with them."""
    biases: dict[str, list[int]]
    """The shapes of those that are new."""
    in_vain: bool = False
    """With the constants the output would be further off: the filters are not near zero yet, and nothing was folded."""

    def to_json(self) -> dict[str, Any]:
        before, after = self.change
        return {
            "folded": self.layers,
            "left": list(self.left),
            "rel_change": {"before": before, "after": after},
        }


def folded(dense: nn.Module, small: nn.Module, wiring: Wiring, removed: Tensor) -> Folding:
    """Fold what the removed units of `dense` still make into a copy of the cut network, if that helps."""
    found = constants(dense, wiring, removed)
    network = copy.deepcopy(small)
    biases = fold(network, wiring, removed, found)
    before, after = output_changes(dense, (small, network), wiring)
    left = tuple(found.left)
    if after > before:
        return Folding(small, 0, left, (before, before), {}, in_vain=True)
    return Folding(network, len(found.held), left, (before, after), biases)


@torch.no_grad()
def constants(dense: nn.Module, wiring: Wiring, removed: Tensor) -> Constants:
    """Zero the filters of the removed units in a copy, run a random batch, and see what their readers get."""
    double = in_double(dense)
    zero_filters(double, wiring, removed)
    reading = _Reading(double, wiring, removed)
    with torch.random.fork_rng(devices=[]), reading.hooked(), reading.readers, InDouble():  # type: ignore[no-untyped-call]
        double(*examples(wiring))
    return reading.found()


def fold(small: nn.Module, wiring: Wiring, removed: Tensor, found: Constants) -> dict[str, list[int]]:
    """Give the cut network the constants, in place; return the shapes of biases that are new."""
    new = {}
    modules = dict(small.named_modules())
    with torch.no_grad():
        for name, constant in found.held.items():
            module = modules[name]
            made = wiring.roots[wiring.trace.layers[f"{name}.weight"].channels]
            kept = constant[~torch.isin(made, removed)]
            if name in found.norms:
                norm = found.norms[name]
                modules[norm].running_mean.sub_(kept)
                continue
            if module.bias is None:
                module.bias = nn.Parameter(module.weight.new_zeros(len(kept)))
                new[f"{name}.bias"] = [len(kept)]
            module.bias.add_(kept)
    return new


def zero_filters(model: nn.Module, wiring: Wiring, removed: Tensor) -> None:
    """Zero the filters of the removed units, in place: what the penalty would do in endless time."""
    with torch.no_grad():
        for name in wiring.trace.layers:
            makes, units = wiring.filters(name)
            weight = model.get_parameter(name)
            gone = torch.isin(units, removed).nonzero().flatten().to(weight.device)
            weight.index_fill_(makes, gone, 0)


class _Reading:
    """Watches the layers that read removed units."""

    def __init__(self, model: nn.Module, wiring: Wiring, removed: Tensor) -> None:
        self._modules = dict(model.named_modules())
        self._gone: dict[str, tuple[int, Tensor]] = {}
        for name, dim in sorted(wiring.trace.consumers):
            gone = torch.isin(wiring.classes[name][dim], removed)
            if gone.any():
                self._gone[name.removesuffix(".weight")] = (dim, ~gone)
        self.readers = _Readers()
        self._calls: dict[str, list[Tensor | None]] = {}
        self._norms: dict[str, str] = {}
        self._normalises: Counter[str] = Counter()
        self._busy = False

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        for name, module in self._modules.items():
            if name in self._gone and isinstance(module, (_ConvNd, nn.Linear)):
                handles.append(module.register_forward_hook(partial(self._read, name), with_kwargs=True))
            elif isinstance(module, _NormBase) and module.running_mean is not None:
                handles.append(module.register_forward_hook(partial(self._normalised, name), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _read(self, name: str, module: _ConvNd | nn.Linear, args: Any, kwargs: Any, output: Tensor) -> None:
        if self._busy:
            return
        image = _input(args, kwargs)
        self._busy = True
        dim, kept = self._gone[name]
        part = _alone(module, module.weight.index_fill(dim, kept.nonzero().flatten(), 0), image)
        reach = _alone(module, torch.ones_like(module.weight), torch.ones_like(image))
        self._busy = False
        self._calls.setdefault(name, []).append(None if _upsamples(module) else _constant(part, reach, output, module))
        self.readers.watch(name, output)

    def _normalised(self, norm: str, _module: nn.Module, args: Any, kwargs: Any, _output: Tensor) -> None:
        self._normalises[norm] += 1
        if (name := self.readers.name_of(_input(args, kwargs))) is not None:
            self._norms[name] = norm

    def found(self) -> Constants:
        result = Constants()
        for name in self._gone:
            calls = self._calls.get(name, [None])
            first = calls[0]
            if first is None or any(other is None or not torch.equal(other, first) for other in calls[1:]):
                result.left.append(name)
            elif first.any():
                result.held[name] = first
                norm = self._norms.get(name)
                if norm is not None and len(calls) == self.readers.count[name] == self._normalises[norm] == 1:
                    result.norms[name] = norm
        return result


class _Readers(TorchDispatchMode):
    """Counts the operations that read watched tensors, which it keeps so that their ids stay theirs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched: dict[int, tuple[str, Tensor]] = {}
        self.count: Counter[str] = Counter()

    def watch(self, name: str, tensor: Tensor) -> None:
        self._watched[id(tensor)] = (name, tensor)

    def name_of(self, tensor: Any) -> str | None:
        return self._watched[id(tensor)][0] if id(tensor) in self._watched else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in torch.utils._pytree.tree_leaves((args, kwargs)):
            if id(value) in self._watched:
                self.count[self._watched[id(value)][0]] += 1
        return func(*args, **(kwargs or {}))


def _alone(module: _ConvNd | nn.Linear, weight: Tensor, image: Tensor) -> Tensor:
    """What a layer makes with another weight and no bias."""
    bias = {} if module.bias is None else {"bias": torch.zeros_like(module.bias)}
    made: Tensor = functional_call(module, {"weight": weight, **bias}, (image,))
    return made


def _input(args: Any, kwargs: Any) -> Tensor:
    """What a layer is called with, by position or by name."""
    found: Tensor = args[0] if args else kwargs["input"]
    return found


def _upsamples(module: nn.Module) -> bool:
    """Whether a layer makes neighbouring positions with different weights: then it makes no constant of one."""
    return isinstance(module, _ConvTransposeNd) and max(module.stride) > 1


def _constant(part: Tensor, reach: Tensor, output: Tensor, module: nn.Module) -> Tensor | None:
    """The value of each channel of `part`, where it is the same in all images and at all inner positions.

    Args:
        reach: how many inputs every output sees: fewer at the border.
    """
    channel = 1 if isinstance(module, _ConvNd) else -1
    inner = (reach == reach.max()).movedim(channel, 0).flatten(1)[0]
    rows = part.movedim(channel, 0).flatten(1)[:, inner]
    low, high = rows.amin(1), rows.amax(1)
    if bool(((high - low) > CONSTANT * output.abs().max()).any()):
        return None
    return (low + high) / 2
