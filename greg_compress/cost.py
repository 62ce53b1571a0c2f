"""What a network costs: parameters, multiply-adds (MACs) and bytes, per layer and in sum.

MACs count convolution and linear layers, one multiply-add as one, for one sample, as the paper's speedups
do. thop counts modules; what it misses (functional calls with a parameter) comes from the run on labels,
under the name of the calling module.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from greg_compress.wiring.record import Layer
from greg_compress.wiring.skeleton import BATCH, Shapes, example_inputs, skeleton


@dataclass(frozen=True)
class Cost:
    """Totals of one network."""

    params: int
    macs: int
    size: int
    """Bytes of parameters and buffers."""


def owner(model: nn.Module, layer: Layer) -> nn.Module | None:
    """The convolution or linear module that owns a layer's weight; None for a functional call."""
    path, _, leaf = layer.weight.rpartition(".")
    module = model.get_submodule(path)
    return module if leaf == "weight" and isinstance(module, (_ConvNd, nn.Linear)) else None


def layer_macs(model: nn.Module, input_shapes: Shapes, layers: Sequence[Layer]) -> dict[str, int]:
    """Multiply-adds of each layer for one sample, by its weight's name.

    Args:
        layers: what ran, from the wiring of this network or of the one that it was cut from.
    """
    counted = _count_modules(model, input_shapes)
    macs = {}
    for layer in layers:
        weight = model.get_parameter(layer.weight)
        owners = [
            counted.get(name, 0)
            for name, module in model.named_modules()
            # thop takes the output's positions of a transposed convolution, which applies its weight to the input's.
            if isinstance(module, (_ConvNd, nn.Linear)) and not isinstance(module, _ConvTransposeNd)
            if module._parameters.get("weight") is weight
        ]
        macs[layer.weight] = sum(owners) or layer.positions * weight.numel()
    return macs


def _count_modules(model: nn.Module, input_shapes: Shapes) -> dict[str, int]:
    """thop's MACs of every module, for one sample."""
    if len(list(model.modules())) < len(list(model.named_modules(remove_duplicate=False))):
        return {}  # thop counts a module of two names twice; the run on labels does not
    bones = skeleton(model)  # thop leaves buffers behind in the modules
    bones.eval()
    examples = example_inputs(bones, input_shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # thop's own, about its own
        import thop

        try:
            _, _, tree = thop.profile(bones, inputs=examples, verbose=False, ret_layer_info=True)
        except Exception:
            # Its hooks trip over unusual calls, conv(input=x) for one; the run on labels has counted those too.
            return {}
    counted: dict[str, int] = {}
    _flatten(tree, "", counted)
    return {name: count // BATCH for name, count in counted.items()}


def _flatten(tree: dict[str, Any], prefix: str, into: dict[str, int]) -> None:
    """thop's {child: (macs, params, {grandchild: ...})} as {path: macs}."""
    for name, (macs, _, children) in tree.items():
        into[prefix + name] = int(macs)
        _flatten(children, f"{prefix}{name}.", into)


def zeros(tensors: Iterable[Tensor]) -> int:
    """How many elements are exactly zero."""
    return sum(tensor.numel() - int(tensor.detach().count_nonzero()) for tensor in tensors)


def zeros_and_share(model: nn.Module) -> dict[str, Any]:
    """`zeros`: parameters that are exactly zero; `sparsity`: the percentage of all parameters that they are."""
    found, params = zeros(model.parameters()), sum(parameter.numel() for parameter in model.parameters())
    return {"zeros": found, "sparsity": 100 * found / params if params else 0.0}


def cost(model: nn.Module, macs: Iterable[int]) -> Cost:
    """Totals, given the MACs of all that ran."""
    tensors = [*model.parameters(), *model.buffers()]
    return Cost(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(macs),
        size=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )
