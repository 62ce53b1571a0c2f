"""A network without memory: its structure, with parameters and buffers on the meta device."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from greg_compress.errors import TraceError, first_line

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]
"""Of one sample of each input: ((3, 224, 224),) for a network that takes one image."""
BATCH = 2
"""Batch 1 makes `squeeze()` and `view(-1)` lie."""


def skeleton(model: nn.Module, device: str = "meta") -> nn.Module:
    """Return a deep copy of `model` whose parameters and buffers lie on `device`, without gradients.

    Raises:
        TraceError: the network holds something that cannot be copied or looked into.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(
                f"{name or 'the network'} is a scripted module (torch.jit), whose channels cannot be followed;"
                " give the Python module that it was made from"
            )
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise TraceError(f"{name or 'the network'} is wrapped in {type(module).__name__}; give its .module")
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        copied = tensor.detach().to(device, copy=True)
        memo[id(tensor)] = nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        # A lock, a handle, a computed tensor: whatever an attribute of the user's refuses to be copied.
        raise TraceError(f"the network cannot be copied ({first_line(error)})") from error


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from walking all of torch, again and again, while many small objects are made."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer under each of its names, but modules only under their first."""
    for path, module in model.named_modules():
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                yield (f"{path}.{key}" if path else key), tensor


def example_inputs(bones: nn.Module, input_shapes: Shapes) -> tuple[Tensor, ...]:
    """A batch of each input, of the device and dtype of the skeleton's weights."""
    tensors = [*bones.parameters(), *bones.buffers()]
    device = tensors[0].device if tensors else torch.device("meta")
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
    return tuple(torch.rand((BATCH, *shape), device=device, dtype=dtype) for shape in input_shapes)


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


def output_shapes(bones: nn.Module, input_shapes: Shapes) -> list[Shape]:
    """The shapes that a skeleton returns for a batch, without any arithmetic.

    Raises:
        TraceError: it does not run with this input.
    """
    try:
        bones.eval()
        with torch.no_grad():
            output = bones(*example_inputs(bones, input_shapes))
    except (Exception, SystemExit) as error:
        raise cannot_run(input_shapes, error) from error
    return [tuple(tensor.shape) for tensor in output_tensors(output)]


def cannot_run(input_shapes: Shapes, error: BaseException, where: str = "") -> TraceError:
    """What a user should read when their network breaks with inputs of these shapes."""
    inputs = " and ".join("x".join(map(str, shape)) for shape in input_shapes)
    return TraceError(
        f"the network does not run with input {inputs}{where and f': {where}'} ({first_line(error)}); if the"
        " shape is wrong see --input-shape, which repeats for several inputs"
    )
