"""An oracle for groups that knows nothing of labels: poke a filter, and see who reads what it makes.

The network runs on real numbers. The poked filter makes NaN; every layer notes which of its input channels arrive
as NaN, and goes on with zeros in their place, so that NaN travels to the next readers and no further. Through
depthwise and whole-group convolutions it travels on.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from greg_compress.wiring.groups import Group, Wiring
from greg_compress.wiring.record import Layer
from greg_compress.wiring.skeleton import Shapes

aten = torch.ops.aten
Slice = tuple[str, int]
"""An input slice of a weight: its name and an index along the dimension that reads."""


class Poke(TorchDispatchMode):
    """Makes NaN in one filter, and records the slices of weights that read it."""

    def __init__(self, passing: set[str], weight: str, made: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: dict[int, str] = {}
        self.passing, self.weight, self.made = passing, weight, made
        self.read: set[Slice] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet in (aten.native_layer_norm, aten.native_group_norm):
            # A mean over channels would be NaN for all of them; it reads no slice of a weight.
            poked = args[0].isnan()
            made, *statistics = func(args[0].nan_to_num(nan=0.0), *args[1:])
            return made.masked_fill(poked, float("nan")), *statistics
        if packet not in (aten.convolution, aten.addmm, aten.mm):
            return func(*args, **(kwargs or {}))
        args = list(args)
        at = 1 if packet is aten.addmm else 0
        name = self.names.get(args[at + 1].untyped_storage().data_ptr(), "")
        if name not in self.passing:
            arriving = args[at].isnan().transpose(0, 1).flatten(1).any(dim=1)
            args[at] = args[at].nan_to_num(nan=0.0)
            transposed = packet is aten.convolution and args[6]
            slices = args[1].shape[0 if transposed else 1] if packet is aten.convolution else args[at].shape[1]
            self.read |= {(name, index % slices) for index in arriving.nonzero().flatten().tolist()}
        out = func(*args, **(kwargs or {}))
        if name == self.weight:
            out = out.index_fill(1, self.made, float("nan"))
        return out


def _run(model: nn.Module, shapes: Shapes, training: bool, poke: Poke) -> None:
    victim = copy.deepcopy(model).train() if training else model.eval()  # training spoils statistics
    poke.names = {tensor.untyped_storage().data_ptr(): name for name, tensor in victim.named_parameters()}
    random = torch.Generator().manual_seed(0)
    with torch.no_grad(), poke:
        victim(*(torch.rand((2, *shape), generator=random, dtype=torch.float64) for shape in shapes))


def readers(model: nn.Module, wiring: Wiring, weight: str, index: int) -> set[Slice]:
    """The input slices that read filter `index` of a layer, in eval or in training."""
    passing = {each.weight for each in wiring.layers if each.whole_groups}
    made = _channels(wiring.trace.layers[weight], model.get_parameter(weight), index)
    pokes = [Poke(passing, weight, made) for _ in range(2)]
    for training, poke in enumerate(pokes):
        _run(model, wiring.input_shapes, bool(training), poke)
    return pokes[0].read | pokes[1].read


def _channels(layer: Layer, weight: Tensor, index: int) -> Tensor:
    """The channels that a filter makes: one; if transposed, one in every group or all of its group."""
    if not layer.kind.startswith("conv_transpose"):
        return torch.tensor([index])
    channels, columns = layer.channels.numel(), weight.shape[1]
    if layer.makes == 1:
        return torch.arange(index, channels, columns)
    group = index * (channels // columns) // weight.shape[0]
    return torch.arange(group * columns, (group + 1) * columns)


def expected(wiring: Wiring, unit: int) -> set[Slice]:
    """What labels say: the input slices that go with a unit."""
    return {
        (name, index)
        for name, dim in wiring.trace.consumers
        for index in (wiring.classes[name][dim] == unit).nonzero().flatten().tolist()
    }


def disagreement(model: nn.Module, wiring: Wiring, group: Group, position: int) -> set[Slice]:
    """Slices that read one unit by poking and not by labels, or the other way round."""
    unit = int(group.units[position])
    found: set[Slice] = set()
    for weight in group.sources:
        for index in (wiring.filters(weight)[1] == unit).nonzero().flatten().tolist():
            found |= readers(model, wiring, weight, index)
    return found ^ expected(wiring, unit)
