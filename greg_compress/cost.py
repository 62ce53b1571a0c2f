"""What a network costs: parameters, multiply-adds (MACs) and bytes, per layer and in sum.

MACs count convolution and linear layers, one multiply-add as one, for one sample, as the paper's speedups
do. thop counts modules; what it misses (functional calls with a parameter) comes from the run on labels,
under the name of the calling module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from greg_compress.wiring.trace import BATCH, Layer, skeleton


@dataclass(frozen=True)
class Cost:
    """Totals of one network."""

    params: int
    macs: int
    size: int
    """Bytes of parameters and buffers."""


def macs_by_module(model: nn.Module, input_shape: Sequence[int], layers: Sequence[Layer]) -> dict[str, int]:
    """Multiply-adds of each module that convolves or multiplies matrices, for one sample.

    Args:
        layers: what ran, from the wiring of this network or of the one that it was cut from.
    """
    import thop

    bones = skeleton(model).eval()  # thop leaves buffers behind in the modules
    example = torch.empty((BATCH, *input_shape), device="meta")
    _, _, tree = thop.profile(bones, inputs=(example,), verbose=False, ret_layer_info=True)
    counted: dict[str, int] = {}
    _flatten(tree, "", counted)
    kinds = {name for name, module in bones.named_modules() if isinstance(module, (_ConvNd, nn.Linear))}
    macs = {name: count // BATCH for name, count in counted.items() if name in kinds}
    for layer in layers:
        if not macs.get(layer.module):
            macs[layer.module] = layer.positions * model.get_parameter(layer.weight).numel()
    return macs


def _flatten(tree: dict[str, Any], prefix: str, into: dict[str, int]) -> None:
    """thop's {child: (macs, params, {grandchild: ...})} as {path: macs}."""
    for name, (macs, _, children) in tree.items():
        into[prefix + name] = int(macs)
        _flatten(children, f"{prefix}{name}.", into)


def cost(model: nn.Module, macs: dict[str, int]) -> Cost:
    """Totals, given the MACs by module."""
    tensors = [*model.parameters(), *model.buffers()]
    return Cost(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(macs.values()),
        size=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )
