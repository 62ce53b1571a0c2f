"""What frequent operations make on meta is what torch's own way makes there: shapes, dtypes, strides, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_leaves

from greg_compress.wiring.on_meta import KNOWN, made_on_meta

aten = torch.ops.aten
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=5)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])


@st.composite
def tensors(draw: st.DrawFn, sizes: Any = SIZES, dtypes: Any = DTYPES) -> Tensor:
    """On meta, contiguous, transposed or channels last."""
    tensor = torch.empty(draw(sizes), dtype=draw(dtypes), device="meta")
    order = draw(st.permutations(range(tensor.dim())))
    return tensor.permute(*order) if draw(st.booleans()) else tensor


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    func = draw(st.sampled_from(list(KNOWN)))
    tensor = draw(tensors())
    vector = torch.empty(
        draw(st.sampled_from([tensor.shape[-1], tensor.shape[min(1, tensor.dim() - 1)], 3])), device="meta"
    )
    dim = draw(st.integers(-tensor.dim(), tensor.dim() - 1))
    if func is aten.cat.default:
        other = draw(st.sampled_from([tensor, torch.empty_like(tensor), torch.empty(2, 3, device="meta")]))
        return func, [[tensor, other], dim]
    if func is aten.native_batch_norm.default:
        return func, [
            tensor,
            *(draw(st.sampled_from([vector, None])) for _ in range(4)),
            draw(st.booleans()),
            0.1,
            1e-5,
        ]
    if func is aten.native_layer_norm.default:
        return func, [tensor, [tensor.shape[-1]], draw(st.sampled_from([vector, None])), vector, 1e-5]
    if func is aten.mean.dim:
        return func, [tensor, draw(st.sampled_from([[dim], None, list(range(tensor.dim()))])), draw(st.booleans())]
    if func is aten.addmm.default:
        return func, [vector, draw(tensors(st.just([3, 4]))), draw(tensors(st.sampled_from([[4, 3], [4, 5], [3, 4]])))]
    if func is aten.roll.default:
        return func, [tensor, [1], [dim]]
    if func in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor):
        return func, [tensor, draw(st.sampled_from([tensor, 2, 0.5, vector, tensor[..., :1]]))]
    return func, [tensor]


@settings(max_examples=1500, deadline=None)
@given(calls())
def test_shortcuts_agree_with_torch(call: tuple[Any, list[Any]]) -> None:
    func, args = call
    short = made_on_meta(func, args, {})
    if short is None:
        return  # torch answers itself
    known, wanted = tree_leaves(short), tree_leaves(func(*args))
    assert [(made.shape, made.dtype, made.device) for made in known] == [
        (made.shape, made.dtype, made.device) for made in wanted
    ]
    assert strides(known[0]) == strides(wanted[0])


def strides(tensor: Tensor) -> list[int]:
    """Where there is but one index, any stride is as good."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


@pytest.mark.parametrize("func", [aten.relu.default, aten.cat.default, aten.native_batch_norm.default, aten.mean.dim])
def test_plain_cases_are_short(func: Any) -> None:
    """Else the test above would compare nothing."""
    image, vector = torch.empty(2, 4, 3, 3, device="meta"), torch.empty(4, device="meta")
    args = {
        aten.cat.default: [[image, image], 1],
        aten.native_batch_norm.default: [image, vector, vector, vector, vector, True, 0.1, 1e-5],
        aten.mean.dim: [image, [2, 3], True],
    }
    assert made_on_meta(func, args.get(func, [image]), {}) is not None
