"""Operations that only move data: the same operation runs on the planes, and labels lie where it put them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from greg_compress.wiring.call import Call
from greg_compress.wiring.labels import NONE
from greg_compress.wiring.layout import Layout, Layouts, compact, varies

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


def movement(call: Call) -> Layouts:
    """Run the very same operation on the planes; padding fills with NONE."""
    layouts = [call.tracer.layout(tensor) for tensor in call.read]
    counts = {len(layout.planes) for layout in layouts if layout}
    if len(counts) != 1:
        return call.opaque()
    run = VIEWS.get(call.func.overloadpacket, call.func)

    def moved(index: int) -> list[Tensor]:
        def plane(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            layout = call.tracer.layout(leaf)
            return layout.planes[index] if layout else torch.full((), NONE).expand(leaf.shape)

        out = run(*tree_map(plane, call.args), **tree_map(plane, call.kwargs))
        return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]

    planes = [moved(index) for index in range(counts.pop())]
    origin = layouts[0].origin if len(layouts) == 1 and layouts[0] else None
    return [Layout(out, origin) for out in zip(*planes, strict=True)]


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
        if plane.shape[dim] == 1 or varies(plane, dim):
            plane = compact(aten.constant_pad_nd(plane, [0, 0] * at + [left, right], NONE))
        else:
            size = list(plane.shape)
            size[dim] += left + right
            plane = plane.narrow(dim, 0, 1).expand(size)
    return plane
