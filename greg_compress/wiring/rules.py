"""What one ATen operation does to labels.

Operations that only move data have no rule of their own (:mod:`.movement`). Convolutions, matrix products and
BatchNorm have theirs in :mod:`.layers`; those of a handful that compute without parameters follow here. An
operation that nobody knows freezes what flows into it and says so by name; it is never guessed to be
element-wise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greg_compress.wiring.call import Call
from greg_compress.wiring.constants import SHAPE_ONLY, freeze_beside_constants, note_constants
from greg_compress.wiring.labels import NONE
from greg_compress.wiring.layers import batch_norm, convolution, group_norm, layer_norm, matrix_product
from greg_compress.wiring.layout import Layout, Layouts, lying, thin, varies
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
    **dict.fromkeys((aten.replication_pad1d, aten.reflection_pad1d), 1),
    **dict.fromkeys((aten.upsample_nearest1d, aten._upsample_nearest_exact1d, aten.upsample_linear1d), 1),
    **dict.fromkeys((aten.max_pool2d_with_indices, aten.avg_pool2d), 2),
    **dict.fromkeys((aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d), 2),
    **dict.fromkeys((aten.replication_pad2d, aten.reflection_pad2d), 2),
    **dict.fromkeys((aten.upsample_nearest2d, aten._upsample_nearest_exact2d), 2),
    **dict.fromkeys((aten.upsample_bilinear2d, aten.upsample_bicubic2d), 2),
    **dict.fromkeys((aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa), 2),
    **dict.fromkeys((aten.max_pool3d_with_indices, aten.avg_pool3d), 3),
    **dict.fromkeys((aten._adaptive_avg_pool3d, aten.adaptive_max_pool3d), 3),
    **dict.fromkeys((aten.replication_pad3d, aten.reflection_pad3d), 3),
    **dict.fromkeys((aten.upsample_nearest3d, aten._upsample_nearest_exact3d, aten.upsample_trilinear3d), 3),
}
"""What pools, resamples or mirrors positions, and over how many spatial dimensions."""
REDUCTIONS = {
    *(aten.mean, aten.sum, aten.prod, aten.amax, aten.amin, aten.max, aten.min),
    *(aten.var, aten.var_mean, aten.std),
}
ALONG_ONE = {aten._softmax, aten._log_softmax, aten.cumsum}
"""These mix what lies along their dimension `args[1]`, and keep the shape."""


def apply(tracer: Tracer, func: Any, args: Any, kwargs: Any, read: list[Tensor], made: list[Tensor]) -> Layouts:
    """Return the layouts of the tensors that a call made, in order; None for constants."""
    call = Call(tracer, func, args, kwargs, read, made)
    if all(tracer.layout(tensor) is None for tensor in read):
        note_constants(call)
        return call.same(None)
    packet = func.overloadpacket
    if packet in SHAPE_ONLY:
        return call.same(None)
    if func._schema.is_mutable and packet is not aten.copy_:
        return call.opaque()  # functionalize did not see it, and who else sees the change is not known
    if packet in RULES:
        return RULES[packet](call)
    if packet in MOVEMENT or packet in VIEWS:
        return movement(call)
    if packet in POOLING:
        return pooling(call, POOLING[packet])
    if packet in REDUCTIONS:
        return reduction(call)
    if packet in ALONG_ONE:
        return along_one(call)
    if torch.Tag.pointwise in func.tags or packet in SAME_SHAPE:
        return pointwise(call)
    return call.opaque()


def pointwise(call: Call) -> Layouts:
    """Unite aligned labels of the operands; only scaling leaves its operands uncoupled."""
    shape = call.made[0].shape
    operands = [tensor for tensor in call.read if call.tracer.layout(tensor)]
    planes = [_operand(call, tensor, shape) for tensor in operands]
    couples = call.func.overloadpacket not in SCALING
    known = [plane for plane in planes if plane is not None]
    if len(known) < len(planes):
        return call.opaque()
    if len(call.read) > len(operands):
        freeze_beside_constants(call, known)
    elif couples and len(call.read) == 2:
        call.tracer.addition(*call.read)
    first = call.tracer.layout(operands[0])
    assert first is not None
    if all(plane is first.plane for plane in known):
        return call.same(first)  # an activation, a scaling by a number, twice the same
    spreading = [_spreads(call, plane, operand, known) for plane, operand in zip(known, operands, strict=True)]
    result = torch.full((), NONE).expand(shape)
    for plane, spreads in zip(known, spreading, strict=True):
        if spreads:
            call.tracer.result.labels.freeze(plane, f"{call.func} spreads one channel over several")
            continue
        left, right = thin(result, plane)  # where neither varies, one stands for all
        call.tracer.result.labels.unite(left, right, couples=couples)
        result = torch.where(left == NONE, right, left).expand(shape)
    return call.same(Layout((result,)))


def _operand(call: Call, tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """The plane of an operand, expanded; of a raw parameter the one whose labels meet those of the others.

    What its other planes label (the positions of an embedding) meets nothing that a cut could follow.
    """
    layout = call.tracer.layout(tensor)
    assert layout is not None
    planes = layout.planes

    def choose() -> int:
        labelled = [at for at, plane in enumerate(planes) if lying(plane)]
        if len(labelled) < 2:
            return labelled[0] if labelled else 0
        others = [other.plane for each in call.read if (other := call.tracer.layout(each)) and each is not tensor]
        known = [other.expand(shape) for other in others if other is not None]
        meeting = [
            at
            for at in labelled
            if any(
                varies(planes[at].expand(shape), dim) and varies(other, dim)
                for other in known
                for dim in range(len(shape))
            )
        ]
        return meeting[0] if len(meeting) == 1 else -1

    chosen = 0 if len(planes) == 1 else call.tracer.decide(choose)
    if chosen < 0:
        return None
    for at, plane in enumerate(planes):
        if at != chosen and lying(plane):
            reason = f"{call.func} in {call.tracer.where} lines it up with positions"
            call.tracer.result.labels.freeze(plane, reason)
    return planes[chosen] if planes[chosen].shape == shape else planes[chosen].expand(shape)


def _spreads(call: Call, plane: Tensor, operand: Tensor, others: list[Tensor]) -> bool:
    """Whether an operand's single channel is broadcast over a dimension that holds many."""

    def look() -> int:
        if lying(plane):
            return False
        before = [1] * (plane.dim() - operand.dim()) + list(operand.shape)
        stretched = [dim for dim in range(plane.dim()) if before[dim] == 1 < plane.shape[dim]]
        return any(varies(other, dim) for other in others for dim in stretched)

    return bool(call.tracer.decide(look))


def pooling(call: Call, spatial: int) -> Layouts:
    """Pooling keeps channels as long as labels do not vary over what is pooled."""
    tensor = call.read[0]
    dim = tensor.dim() - spatial - 1
    labels = call.channels(tensor, dim)
    if labels is None:
        return call.opaque()
    return [Layout.spread(labels, made.shape, dim) for made in call.made]


def reduction(call: Call) -> Layouts:
    """A mean over positions keeps channels; one over channels mixes them.

    A sum over stacked branches, or over the halves of a view, is an addition: it ties what it sums up, as long as
    channels lie along another dimension.
    """
    plane = call.plane(call.read[0])
    dims = call.args[1] if len(call.args) > 1 else None
    dims = [dim % call.read[0].dim() for dim in ([dims] if isinstance(dims, int) else dims or ())]
    if plane is None or not dims:
        return call.opaque()
    along = lying(plane)
    if call.tracer.decide(lambda: bool(along) and set(along) <= set(dims)):
        return call.opaque()
    for dim in dims:
        if dim in along:
            first = plane.narrow(dim, 0, 1).expand(plane.shape)
            call.tracer.result.labels.unite(*thin(plane, first), couples=True)
    for dim in set(dims) - set(along):
        plane = plane.narrow(dim, 0, 1)
    return call.same(Layout((aten.amax(plane, dims, call.made[0].dim() == plane.dim()).expand(call.made[0].shape),)))


def along_one(call: Call) -> Layouts:
    """A softmax over positions keeps channels; one over channels mixes them."""
    plane = call.plane(call.read[0])
    return (
        call.opaque() if plane is None or varies(plane, call.args[1]) else call.same(call.tracer.layout(call.read[0]))
    )


def product_of_activations(call: Call) -> Layouts:
    """aten.bmm: attention. Its heads have a fixed shape, which lives in numbers of the module's own code."""
    return call.opaque("multiplies it with other activations, as attention does, whose heads have a fixed shape")


def gated_half(call: Call) -> Layouts:
    """aten.glu(input, dim): channel j of the first half times the sigmoid of channel j of the second."""
    plane = call.plane(call.read[0])
    dim = call.args[1] if len(call.args) > 1 else -1
    if plane is None:
        return call.opaque()
    value, gate = plane.chunk(2, dim)
    call.tracer.result.labels.unite(*thin(value, gate))
    return call.same(Layout((value,)))


def write_back(call: Call) -> Layouts:
    """aten.copy_: at the end of a run, functionalize writes changed buffers back.

    A write into a constant comes from the inside of an operation, and who reads it then is not known.
    """
    target = call.tracer.layout(call.read[0])
    return call.opaque() if target is None else call.same(target)


def scalars(func: Any, arguments: tuple[Any, ...]) -> tuple[str, ...]:
    """Numbers and words among the arguments of what computes, as text (NaN is like NaN): a cut must not change them.

    Sizes and offsets of what only moves data may change, and so may the number of groups.
    """
    packet = func.overloadpacket
    if packet in SHAPE_ONLY or packet in VIEWS or packet in MOVEMENT - {aten.roll} or packet is aten.constant_pad_nd:
        return ()
    arguments = arguments[SIZES.get(packet, slice(None))]
    return tuple(repr(leaf) for leaf in arguments if isinstance(leaf, (bool, int, float, str)))


def commutes_with_cuts(func: Any, arguments: tuple[Any, ...], dense: tuple[Any, ...]) -> bool:
    """Whether a cut's operands, if they are what is left of the dense call's, make what is left of its results.

    True of what works channel by channel, and of what moves whole dimensions, with the same arguments: of a view
    or a slice only the rule can tell.
    """
    packet = func.overloadpacket
    if packet not in COMMUTING and packet not in POOLING and torch.Tag.pointwise not in func.tags:
        return False
    said = SIZES.get(packet, slice(None))
    return arguments[said] == dense[said]


RULES: dict[Any, Callable[[Call], Layouts]] = {
    aten.bmm: product_of_activations,
    aten.convolution: convolution,
    aten.addmm: matrix_product,
    aten.mm: matrix_product,
    aten.glu: gated_half,
    aten.native_batch_norm: batch_norm,
    aten.native_layer_norm: layer_norm,
    aten.native_group_norm: group_norm,
    aten.copy_: write_back,
    aten.constant_pad_nd: padding,
}
SIZES = {aten.convolution: slice(-1), aten.native_layer_norm: slice(-1, None), aten.native_group_norm: slice(-1, None)}
"""Which arguments of these say no number of channels or groups, which shapes must fit anyway."""
COMMUTING = {
    *(aten.convolution, aten.addmm, aten.mm, aten.native_batch_norm, aten.native_layer_norm, aten.native_group_norm),
    *(aten.mean, aten.sum, aten.amax, *SAME_SHAPE, *ALONG_ONE),
    *(aten.cat, aten.clone, aten.t, aten.t_copy, aten.transpose, aten.transpose_copy, aten.permute),
    *(aten.permute_copy, aten.detach, aten.alias, aten.unsqueeze, aten.unsqueeze_copy, aten.alias_copy),
}
"""Of what lies whole in its dimensions; pooling and what is tagged element-wise commute with cuts as well."""
