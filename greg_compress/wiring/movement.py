"""Operations that only move data: the same operation runs on the planes, and labels lie where it put them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from greg_compress.wiring.call import Call
from greg_compress.wiring.labels import NONE
from greg_compress.wiring.layout import Layout, Layouts, compact, lying, varies

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
    *(aten.cat, aten.stack, aten.roll, aten.flip, aten.repeat, aten.clone),
    *(aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle),
    *(aten.slice_scatter, aten.select_scatter),
}
ALONG_SOME = {aten.roll: 2, aten.flip: 1}
"""These move entries along the dimensions of an argument only."""


def movement(call: Call) -> Layouts:
    """Run the very same operation on the planes; padding fills with NONE."""
    layouts = [call.tracer.layout(tensor) for tensor in call.read]
    if len({len(layout.planes) for layout in layouts if layout}) > 1:
        layouts = [_as_activation(layout) for layout in layouts]
    counts = {len(layout.planes) for layout in layouts if layout}
    if len(counts) != 1:
        return call.opaque()
    packet = call.func.overloadpacket
    if packet is aten.cat and (joined := _tokens(call, layouts)):
        return joined
    if packet is aten.clone or (packet in ALONG_SOME and _moves_nothing(call, ALONG_SOME[packet])):
        return call.same(layouts[0])
    planes = [_moved(call, layouts, index) for index in range(counts.pop())]
    origin = layouts[0].origin if len(layouts) == 1 and layouts[0] else None
    return [Layout(out, origin) for out in zip(*planes, strict=True)]


def _as_activation(layout: Layout | None) -> Layout | None:
    """A parameter whose labels lie along one dimension only (a class token), as what meets it is laid out."""
    labelled = [plane for plane in layout.planes if lying(plane)] if layout else []
    return Layout(labelled) if len(labelled) == 1 else layout


def _moves_nothing(call: Call, at: int) -> bool:
    """Whether labels do not vary along the dimensions in argument `at`; none given means all of them, flattened."""
    plane, dims = call.plane(call.read[0]), call.args[at] if len(call.args) > at else ()
    return plane is not None and bool(dims) and not any(varies(plane, dim) for dim in dims)


def _moved(call: Call, layouts: Layouts, index: int) -> list[Tensor]:
    """Plane `index` of every tensor made."""
    planes = [
        layout.planes[index] if layout else torch.full((), NONE).expand(tensor.shape)
        for tensor, layout in zip(call.read, layouts, strict=True)
    ]
    if call.func.overloadpacket is aten.cat:
        return [_joined(planes, call.args[1] if len(call.args) > 1 else 0, call.made[0].shape)]
    run = VIEWS.get(call.func.overloadpacket, call.func)
    if run is aten.reshape:
        return [_reshaped(planes[0], call.made[0].shape)]
    coming = iter(planes)  # in the order in which the call reads them

    def plane(leaf: Any) -> Any:
        return next(coming) if isinstance(leaf, Tensor) else leaf

    out = run(*tree_map(plane, call.args), **tree_map(plane, call.kwargs))
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]


def _tokens(call: Call, layouts: Layouts) -> Layouts | None:
    """Tensors joined beside their channels (a class token and patches): what follows reads them alike, so that
    channels of one index are coupled."""
    vectors = [layout.vector() for layout in layouts if layout]
    dims = {vector and vector[0] for vector in vectors}
    along = next(iter(dims))
    dim = (call.args[1] if len(call.args) > 1 else 0) % call.made[0].dim()
    if len(vectors) < 2 or len(dims) > 1 or along is None or along == dim or not vectors[0]:
        return None
    for vector in vectors[1:]:
        assert vector is not None
        call.tracer.result.labels.unite(vectors[0][1], vector[1], couples=True)
    labels = torch.stack([vector[1] for vector in vectors if vector]).amax(dim=0)
    return [Layout.spread(labels, call.made[0].shape, along)]


def _reshaped(plane: Tensor, shape: torch.Size) -> Tensor:
    """Reshape, with one index of the outer and inner dimensions that stay and along which the plane does not vary.

    Merging labels with what does not vary copies them; without this, once for every position.
    """
    sizes = list(shape)
    for dims in (range(len(shape)), range(-1, -len(shape) - 1, -1)):
        for dim in dims:
            if not -plane.dim() <= dim < plane.dim() or plane.shape[dim] != sizes[dim]:
                break
            if sizes[dim] and not varies(plane, dim):
                plane, sizes[dim] = plane.narrow(dim, 0, 1), 1
    return plane.reshape(sizes).expand(shape)


def _joined(planes: list[Tensor], dim: int, shape: torch.Size) -> Tensor:
    """Concatenate along `dim`, with one index of every other dimension along which no plane varies."""
    planes = [plane for plane in planes if plane.dim() == len(shape)]  # an empty vector joins anything
    for other in set(range(len(shape))) - {dim % len(shape)}:
        if not any(varies(plane, other) for plane in planes):
            planes = [plane.narrow(other, 0, 1) for plane in planes]
    return torch.cat(planes, dim).expand(shape)


def padding(call: Call) -> Layouts:
    """aten.constant_pad_nd(input, pads, value): new channels carry NONE, new positions their channel's label."""
    layout = call.tracer.layout(call.args[0])
    assert layout is not None
    return call.same(Layout(tuple(_padded(plane, call.args[1]) for plane in layout.planes)))


def _padded(plane: Tensor, pads: Sequence[int]) -> Tensor:
    """Pad one dimension at a time; `pads` holds two numbers for each, from the last dimension on."""
    for at in range(len(pads) // 2):
        dim = plane.dim() - 1 - at
        left, right = pads[2 * at : 2 * at + 2]
        if left == right == 0:
            continue
        if plane.shape[dim] == 1 or varies(plane, dim):
            plane = compact(aten.constant_pad_nd(plane, [0, 0] * at + [left, right], NONE))
        else:
            size = list(plane.shape)
            size[dim] += left + right
            plane = plane.narrow(dim, 0, 1).expand(size)
    return plane
