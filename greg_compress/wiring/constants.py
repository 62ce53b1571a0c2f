"""Constants that depend on position: a cut would not keep the right entries of them.

Zeros, ones and random draws are as good with fewer entries; `torch.arange(channels)` or a table in the code is not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from greg_compress.wiring.call import Call
from greg_compress.wiring.layout import varies
from greg_compress.wiring.movement import VIEWS

aten = torch.ops.aten

SHAPE_ONLY = {
    *(aten.new_zeros, aten.new_ones, aten.new_empty, aten.new_full, aten.zeros_like, aten.ones_like),
    *(aten.empty_like, aten.full_like, aten.rand_like, aten.randn_like),
}
"""These read a tensor's shape alone: what they make is a constant."""
EXCHANGEABLE = {
    *(aten.zeros, aten.ones, aten.full, aten.empty, aten.rand, aten.randn, aten.scalar_tensor, aten.bernoulli),
    *(*SHAPE_ONLY, aten._to_copy, aten.clone),
}
"""What these make, out of nothing or of what is exchangeable itself, has no order."""


def note_constants(call: Call) -> None:
    """Of a call that reads no labels: remember whether the order of what it makes matters."""
    packet = call.func.overloadpacket
    exchangeable = packet in EXCHANGEABLE or packet in VIEWS or (call.read and torch.Tag.pointwise in call.func.tags)
    if not exchangeable or any(call.tracer.is_positional(tensor) for tensor in call.read):
        call.tracer.positional.update(id(tensor) for tensor in call.made)


def freeze_beside_constants(call: Call, planes: list[Tensor]) -> None:
    """Freeze the channels that an element-wise operation lines up with a constant whose order matters."""
    for tensor in call.read:
        if call.tracer.is_positional(tensor):
            shape = (1,) * (planes[0].dim() - tensor.dim()) + tuple(tensor.shape)
            for plane in planes:
                if any(size > 1 and varies(plane, dim) for dim, size in enumerate(shape)):
                    reason = f"{call.func} in {call.tracer.where} lines it up with a constant of the network's own code"
                    call.tracer.result.labels.freeze(plane, reason)
