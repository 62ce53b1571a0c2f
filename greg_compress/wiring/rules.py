"""What one ATen operation does to labels.

Operations that only move data have no rule of their own: the same operation runs on the planes. A handful
compute, and their rules follow below. An operation that nobody knows freezes what flows into it and says
so by name; it is never guessed to be element-wise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from greg_compress.wiring.labels import NONE
from greg_compress.wiring.layout import Layout, along, compact, spread, thin, varies

if TYPE_CHECKING:
    from greg_compress.wiring.trace import Tracer

aten = torch.ops.aten

PLAIN_VIEWS = (
    *("alias", "detach", "t", "transpose", "permute", "expand", "slice", "select", "split"),
    *("split_with_sizes", "unbind", "squeeze", "unsqueeze", "diagonal"),
)
VIEWS = {
    **{getattr(aten, name): getattr(aten, name) for name in PLAIN_VIEWS},
    **{getattr(aten, f"{name}_copy"): getattr(aten, name) for name in PLAIN_VIEWS},
    **dict.fromkeys((aten.view, aten.view_copy, aten._unsafe_view, aten._reshape_copy), aten.reshape),
}
"""What a view does on planes. Functionalize copies most views; on planes a view keeps their strides of 0."""
MOVEMENT = {
    *(aten.cat, aten.stack, aten.constant_pad_nd, aten.roll, aten.flip, aten.repeat, aten.clone),
    *(aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle),
    *(aten.slice_scatter, aten.select_scatter),
}
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
REDUCTIONS = {aten.mean, aten.sum, aten.amax, aten.amin}


@dataclass(frozen=True)
class Call:
    """One ATen call with everything that a rule needs."""

    tracer: Tracer
    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    read: list[Tensor]
    made: list[Tensor]

    def plane(self, tensor: Any) -> Tensor | None:
        """The one plane of an activation or vector; None for constants and for raw matrices."""
        layout = self.tracer.layout(tensor) if isinstance(tensor, Tensor) else None
        return layout.plane if layout else None

    def channels(self, tensor: Tensor, dim: int) -> Tensor | None:
        """Labels along `dim` of an activation, shape (channels,); NONE for a constant."""
        if self.tracer.layout(tensor) is None:
            return torch.full((tensor.shape[dim],), NONE)
        plane = self.plane(tensor)
        return None if plane is None else along(plane, dim)

    def same(self, layout: Layout | None) -> list[Layout | None]:
        return [layout] * len(self.made)

    def opaque(self) -> list[Layout | None]:
        """Freeze what flows in; what comes out carries one new frozen label."""
        where = self.tracer.module or "the network itself"
        reason = f"{self.func} in {where} reads it, and its channels cannot be followed through that"
        labels = self.tracer.result.labels
        for tensor in self.read:
            if layout := self.tracer.layout(tensor):
                for plane in layout.planes:
                    labels.freeze(plane, reason)
        label = labels.new(1)
        labels.freeze(label, reason)
        return [Layout((label[0].expand(tensor.shape),)) for tensor in self.made]


def apply(
    tracer: Tracer, func: Any, args: Any, kwargs: Any, read: list[Tensor], made: list[Tensor]
) -> list[Layout | None]:
    """Return the layouts of the tensors that a call made, in order; None for constants."""
    call = Call(tracer, func, args, kwargs, read, made)
    if all(tracer.layout(tensor) is None for tensor in read):
        return call.same(None)
    packet = func.overloadpacket
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


def movement(call: Call) -> list[Layout | None]:
    """Run the very same operation on the planes; padding fills with NONE."""
    layouts = [call.tracer.layout(tensor) for tensor in call.read]
    counts = {len(layout.planes) for layout in layouts if layout}
    if len(counts) != 1:
        return call.opaque()
    args = list(call.args)
    run = VIEWS.get(call.func.overloadpacket, call.func)
    if call.func.overloadpacket is aten.constant_pad_nd:
        args[2:] = [NONE]

    def moved(index: int) -> list[Tensor]:
        def plane(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            layout = call.tracer.layout(leaf)
            return layout.planes[index] if layout else torch.full((), NONE).expand(leaf.shape)

        out = run(*tree_map(plane, args), **tree_map(plane, call.kwargs))
        return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]

    planes = [moved(index) for index in range(counts.pop())]
    origin = layouts[0].origin if len(layouts) == 1 and layouts[0] else None
    return [Layout(out, origin) for out in zip(*planes, strict=True)]


def pointwise(call: Call) -> list[Layout | None]:
    """Unite aligned labels of the operands; only scaling leaves its operands uncoupled."""
    shape = call.made[0].shape
    operands = [tensor for tensor in call.read if call.tracer.layout(tensor)]
    planes = [_operand(call, tensor, shape) for tensor in operands]
    couples = call.func.overloadpacket not in SCALING
    if any(plane is None for plane in planes):
        return call.opaque()
    known = [plane for plane in planes if plane is not None]
    spreading = [_spreads(plane, operand, known) for plane, operand in zip(known, operands, strict=True)]
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
    planes = list(layout.planes)
    if len(planes) != 1:
        planes = [plane for plane in planes if any(varies(plane, dim) for dim in range(plane.dim()))]
    return planes[0].expand(shape) if len(planes) == 1 else None


def _spreads(plane: Tensor, operand: Tensor, others: list[Tensor]) -> bool:
    """Whether an operand's single channel is broadcast over a dimension that holds many."""
    if any(varies(plane, dim) for dim in range(plane.dim())):
        return False
    before = [1] * (plane.dim() - operand.dim()) + list(operand.shape)
    stretched = [dim for dim in range(plane.dim()) if before[dim] == 1 < plane.shape[dim]]
    return any(varies(other, dim) for other in others for dim in stretched)


def pooling(call: Call, spatial: int) -> list[Layout | None]:
    """Pooling keeps channels as long as labels do not vary over what is pooled."""
    tensor = call.read[0]
    dim = tensor.dim() - spatial - 1
    labels = call.channels(tensor, dim)
    if labels is None:
        return call.opaque()
    return [Layout((spread(labels, made.shape, dim),)) for made in call.made]


def reduction(call: Call) -> list[Layout | None]:
    """A mean over positions keeps channels; one over channels mixes them."""
    plane = call.plane(call.read[0])
    dims = call.args[1] if len(call.args) > 1 and call.args[1] else None
    if plane is None or dims is None or any(varies(plane, dim) for dim in dims):
        return call.opaque()
    keepdim = len(call.args) > 2 and bool(call.args[2])
    return call.same(Layout((aten.amax(plane, dims, keepdim),)))


def convolution(call: Call) -> list[Layout | None]:
    """aten.convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups).

    Weight has shape (O, I/G, ...). With G groups, equal offsets in every group are cut together (the finer
    of the two possible cuts); a depthwise convolution follows the channels that it reads.
    """
    tensor, weight, bias = call.args[:3]
    transposed, groups = call.args[6], call.args[8]
    layout = call.tracer.layout(weight)
    inputs = call.channels(tensor, 1)
    if layout is None or layout.origin is None or len(layout.planes) != weight.dim():
        return call.opaque()
    if inputs is None or transposed:
        return call.opaque()
    labels = call.tracer.result.labels
    out, fan = along(layout.planes[0], 0), along(layout.planes[1], 1)
    assert out is not None
    assert fan is not None
    followers = call.tracer.result.followers
    depthwise = groups > 1 and weight.shape[1] == 1 if followers is None else layout.origin in followers
    if depthwise:
        labels.unite(inputs[:, None], out.view(groups, -1))
    else:
        labels.unite(inputs.view(groups, -1), fan)
        labels.unite(out.view(groups, -1), out.view(groups, -1)[:1])
        call.tracer.result.consumers.add((layout.origin, 1))
    call.tracer.layer(layout.origin, call.made[0], follows=depthwise)
    if bias is not None and (plane := call.plane(bias)) is not None:
        labels.unite(plane, out)
    return call.same(Layout((spread(out, call.made[0].shape, 1),)))


def matrix_product(call: Call) -> list[Layout | None]:
    """aten.addmm(bias, input, weight) and aten.mm(input, weight), as `linear` calls them.

    The weight is a view of a parameter of shape (O, I), transposed to (I, O).
    """
    *bias, tensor, weight = call.args[:3]
    layout = call.tracer.layout(weight)
    inputs = call.channels(tensor, 1)
    if inputs is None or layout is None or layout.origin is None or len(layout.planes) != 2:
        return call.opaque()
    out, fan = along(layout.planes[0], 1), along(layout.planes[1], 0)
    if out is None or fan is None:
        return call.opaque()
    labels = call.tracer.result.labels
    labels.unite(inputs, fan)
    call.tracer.result.consumers.add((layout.origin, 1))
    call.tracer.layer(layout.origin, call.made[0])
    for vector in bias:
        if (plane := call.plane(vector)) is not None:
            labels.unite(plane, out)
    return call.same(Layout((spread(out, call.made[0].shape, 1),)))


def batch_norm(call: Call) -> list[Layout | None]:
    """aten.native_batch_norm(input, weight, bias, running_mean, running_var, ...): all per channel."""
    tensor, *vectors = call.args[:5]
    inputs = call.channels(tensor, 1)
    if inputs is None:
        return call.opaque()
    for vector in vectors:
        if (plane := call.plane(vector)) is not None:
            call.tracer.result.labels.unite(plane, inputs)
    statistics: list[Layout | None] = [
        Layout((spread(inputs, made.shape, 0),)) if made.numel() else None for made in call.made[1:]
    ]
    return [Layout((spread(inputs, call.made[0].shape, 1),)), *statistics]


def write_back(call: Call) -> list[Layout | None]:
    """aten.copy_: at the end of a run, functionalize writes changed buffers back."""
    return call.same(call.tracer.layout(call.read[0]))


RULES: dict[Any, Callable[[Call], list[Layout | None]]] = {
    aten.convolution: convolution,
    aten.addmm: matrix_product,
    aten.mm: matrix_product,
    aten.native_batch_norm: batch_norm,
    aten.copy_: write_back,
}
