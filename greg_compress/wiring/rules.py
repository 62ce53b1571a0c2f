"""What one ATen operation does to labels.

Operations that only move data have no rule of their own (:mod:`.movement`). A handful compute, and their
rules follow. An operation that nobody knows freezes what flows into it and says so by name; it is never
guessed to be element-wise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greg_compress.wiring.call import Call
from greg_compress.wiring.labels import NONE
from greg_compress.wiring.layout import Layout, Layouts, along, compact, spread, thin, varies
from greg_compress.wiring.movement import MOVEMENT, VIEWS, movement, padding

if TYPE_CHECKING:
    from greg_compress.wiring.tracer import Tracer

aten = torch.ops.aten

SAME_SHAPE = {
    *(aten._to_copy, aten.copy, aten.hardswish, aten.dropout, aten._prelu_kernel, aten.where, aten.masked_fill)
}
"""Element-wise, though they lack the tag."""
SCALING = {aten.mul, aten.div}
"""Element-wise operations that do not need both operands: a gate does not couple (design section 1)."""
POOLING = {
    aten.max_pool2d_with_indices: 2,
    aten.avg_pool2d: 2,
    aten._adaptive_avg_pool2d: 2,
    aten.adaptive_max_pool2d: 2,
}
"""Spatial dimensions that the operation pools."""
SHAPE_ONLY = {
    *(aten.new_zeros, aten.new_ones, aten.new_empty, aten.new_full, aten.zeros_like, aten.ones_like),
    *(aten.empty_like, aten.full_like, aten.rand_like, aten.randn_like),
}
"""These read a tensor's shape alone: what they make is a constant."""
REDUCTIONS = {aten.mean, aten.sum, aten.amax, aten.amin}


def apply(tracer: Tracer, func: Any, args: Any, kwargs: Any, read: list[Tensor], made: list[Tensor]) -> Layouts:
    """Return the layouts of the tensors that a call made, in order; None for constants."""
    call = Call(tracer, func, args, kwargs, read, made)
    if all(tracer.layout(tensor) is None for tensor in read):
        return call.same(None)
    packet = func.overloadpacket
    if packet in SHAPE_ONLY:
        return call.same(None)
    if packet in RULES:
        return RULES[packet](call)
    if packet in MOVEMENT or packet in VIEWS:
        return movement(call)
    if packet in POOLING:
        return pooling(call, POOLING[packet])
    if packet in REDUCTIONS:
        return reduction(call)
    if torch.Tag.pointwise in func.tags or packet in SAME_SHAPE:
        return pointwise(call)
    return call.opaque()


def pointwise(call: Call) -> Layouts:
    """Unite aligned labels of the operands; only scaling leaves its operands uncoupled."""
    shape = call.made[0].shape
    operands = [tensor for tensor in call.read if call.tracer.layout(tensor)]
    planes = [_operand(call, tensor, shape) for tensor in operands]
    couples = call.func.overloadpacket not in SCALING
    if any(plane is None for plane in planes):
        return call.opaque()
    known = [plane for plane in planes if plane is not None]
    spreading = [_spreads(call, plane, operand, known) for plane, operand in zip(known, operands, strict=True)]
    result = torch.full((), NONE).expand(shape)
    for plane, spreads in zip(known, spreading, strict=True):
        if spreads:
            call.tracer.result.labels.freeze(plane, f"{call.func} spreads one channel over several")
            continue
        left, right = thin(result, plane)  # where neither varies, one stands for all
        call.tracer.result.labels.unite(left, right, couples=couples)
        result = compact(torch.where(left == NONE, right, left).expand(shape))
    if couples and len(call.read) == 2:
        call.tracer.addition(*call.read)
    return call.same(Layout((result,)))


def _operand(call: Call, tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """The plane of an operand, expanded; of a raw parameter the one that is not broadcast away."""
    layout = call.tracer.layout(tensor)
    assert layout is not None
    planes = layout.planes

    def choose() -> int:
        lying = [at for at, plane in enumerate(planes) if any(varies(plane, dim) for dim in range(plane.dim()))]
        return lying[0] if len(lying) == 1 else (0 if not lying else -1)

    chosen = 0 if len(planes) == 1 else call.tracer.result.decide(choose)
    return None if chosen < 0 else planes[chosen].expand(shape)


def _spreads(call: Call, plane: Tensor, operand: Tensor, others: list[Tensor]) -> bool:
    """Whether an operand's single channel is broadcast over a dimension that holds many."""

    def look() -> int:
        if any(varies(plane, dim) for dim in range(plane.dim())):
            return False
        before = [1] * (plane.dim() - operand.dim()) + list(operand.shape)
        stretched = [dim for dim in range(plane.dim()) if before[dim] == 1 < plane.shape[dim]]
        return any(varies(other, dim) for other in others for dim in stretched)

    return bool(call.tracer.result.decide(look))


def pooling(call: Call, spatial: int) -> Layouts:
    """Pooling keeps channels as long as labels do not vary over what is pooled."""
    tensor = call.read[0]
    dim = tensor.dim() - spatial - 1
    labels = call.channels(tensor, dim)
    if labels is None:
        return call.opaque()
    return [Layout((spread(labels, made.shape, dim),)) for made in call.made]


def reduction(call: Call) -> Layouts:
    """A mean over positions keeps channels; one over channels mixes them."""
    plane = call.plane(call.read[0])
    dims = call.args[1] if len(call.args) > 1 and call.args[1] else None
    if plane is None or dims is None or any(varies(plane, dim) for dim in dims):
        return call.opaque()
    keepdim = len(call.args) > 2 and bool(call.args[2])
    return call.same(Layout((aten.amax(plane, dims, keepdim),)))


def convolution(call: Call) -> Layouts:
    """aten.convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups).

    Weight has shape (O, I/G, ...). With G groups, equal offsets in every group are cut together (the finer
    of the two possible cuts); a depthwise convolution follows the channels that it reads.
    """
    tensor, weight, bias = call.args[:3]
    transposed, groups = call.args[6], call.args[8]
    inputs = call.channels(tensor, 1)
    parts = _matrix(call, weight, 0, 1)
    if inputs is None or parts is None or transposed or not call.is_vector(bias):
        call.tracer.unfollowed((tensor if transposed else call.made[0]).numel() * weight[0].numel())
        return call.opaque()
    name, out, fan = parts
    labels = call.tracer.result.labels
    depthwise = bool(call.tracer.result.decide(lambda: groups > 1 and weight.shape[1] == 1))
    if depthwise:
        labels.unite(inputs[:, None], out.view(groups, -1))
    else:
        labels.unite(inputs.view(groups, -1), fan)
        labels.unite(out.view(groups, -1), out.view(groups, -1)[:1])
        call.tracer.result.consumers.add((name, 1))
    call.tracer.layer(name, call.made[0], convolves=True, follows=depthwise)
    if bias is not None and (plane := call.plane(bias)) is not None:
        labels.unite(plane, out)
    return call.same(Layout((spread(out, call.made[0].shape, 1),)))


def matrix_product(call: Call) -> Layouts:
    """aten.addmm(bias, input, weight) and aten.mm(input, weight), as `linear` calls them.

    The weight is a view of a parameter of shape (O, I), transposed to (I, O).
    """
    *bias, tensor, weight = call.args[:3]
    inputs = call.channels(tensor, 1)
    parts = _matrix(call, weight, 1, 0)
    if inputs is None or parts is None or not all(call.is_vector(vector) for vector in bias):
        call.tracer.unfollowed(call.made[0].numel() * tensor.shape[1])
        return call.opaque()
    name, out, fan = parts
    labels = call.tracer.result.labels
    labels.unite(inputs, fan)
    call.tracer.result.consumers.add((name, 1))
    call.tracer.layer(name, call.made[0], convolves=False)
    for vector in bias:
        if (plane := call.plane(vector)) is not None:
            labels.unite(plane, out)
    return call.same(Layout((spread(out, call.made[0].shape, 1),)))


def _matrix(call: Call, weight: Tensor, out: int, fan: int) -> tuple[str, Tensor, Tensor] | None:
    """A weight's parameter, its output labels along dimension `out` and its input labels along `fan`.

    None for a fixed filter (a buffer), a computed weight, or a parameter of any other layout.
    """
    layout = call.tracer.layout(weight)
    if layout is None or layout.origin is None or len(layout.planes) != weight.dim():
        return None
    makes, reads = along(layout.planes[0], out), along(layout.planes[1], fan)
    if makes is None or reads is None:
        return None
    return layout.origin, makes, reads


def batch_norm(call: Call) -> Layouts:
    """aten.native_batch_norm(input, weight, bias, running_mean, running_var, ...): all per channel."""
    tensor, *vectors = call.args[:5]
    inputs = call.channels(tensor, 1)
    if inputs is None or not all(call.is_vector(vector) for vector in vectors):
        return call.opaque()
    for vector in vectors:
        if (plane := call.plane(vector)) is not None:
            call.tracer.result.labels.unite(plane, inputs)
    statistics: Layouts = [Layout((spread(inputs, made.shape, 0),)) if made.numel() else None for made in call.made[1:]]
    return [Layout((spread(inputs, call.made[0].shape, 1),)), *statistics]


def write_back(call: Call) -> Layouts:
    """aten.copy_: at the end of a run, functionalize writes changed buffers back."""
    return call.same(call.tracer.layout(call.read[0]))


RULES: dict[Any, Callable[[Call], Layouts]] = {
    aten.convolution: convolution,
    aten.addmm: matrix_product,
    aten.mm: matrix_product,
    aten.native_batch_norm: batch_norm,
    aten.copy_: write_back,
    aten.constant_pad_nd: padding,
}
