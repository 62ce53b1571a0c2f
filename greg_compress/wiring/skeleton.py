"""A network without memory: its structure, with parameters and buffers on the meta device."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from greg_compress.errors import TraceError, first_line

BATCH = 2
"""Batch 1 makes `squeeze()` and `view(-1)` lie."""


def skeleton(model: nn.Module) -> nn.Module:
    """Return a deep copy of `model` whose parameters and buffers lie on the meta device.

    Raises:
        TraceError: the network holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        meta = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(meta, requires_grad=False) if isinstance(tensor, nn.Parameter) else meta
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        # A lock, a handle, a computed tensor: whatever an attribute of the user's refuses to be copied.
        raise TraceError(f"the network cannot be copied ({first_line(error)})") from error


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer under each of its names, but modules only under their first."""
    for path, module in model.named_modules():
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                yield (f"{path}.{key}" if path else key), tensor


def example_input(bones: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """A batch on the meta device, of the dtype of the skeleton's weights."""
    floats = (tensor.dtype for tensor in bones.parameters() if tensor.is_floating_point())
    return torch.empty((BATCH, *input_shape), device="meta", dtype=next(floats, torch.float32))


def output_tensors(output: Any) -> list[Tensor]:
    """The tensors in what a network returns.

    Raises:
        TraceError: there is none, or they are hidden in an object that cannot be looked into.
    """
    leaves = tree_leaves(output)
    hidden = [leaf for leaf in leaves if not isinstance(leaf, (Tensor, int, float, str, type(None)))]
    if hidden:
        raise TraceError(
            f"the network returns a {type(hidden[0]).__name__}; tensors, tuples, lists and dictionaries can be followed"
        )
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors:
        raise TraceError("the network returns no tensor")
    return tensors


def output_shapes(bones: nn.Module, input_shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The shapes that a skeleton returns for a batch, without any arithmetic.

    Raises:
        TraceError: it does not run with this input.
    """
    try:
        with torch.no_grad():
            output = bones.eval()(example_input(bones, input_shape))
    except (Exception, SystemExit) as error:
        raise cannot_run(input_shape, error) from error
    return [tuple(tensor.shape) for tensor in output_tensors(output)]


def cannot_run(input_shape: Sequence[int], error: BaseException) -> TraceError:
    """What a user should read when their network breaks on meta tensors of this shape."""
    return TraceError(
        f"the network does not run with input {'x'.join(map(str, input_shape))} ({first_line(error)});"
        " check --input-shape"
    )
