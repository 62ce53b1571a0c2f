"""Prove a cut, twice: the cut network runs on labels as the dense one did, and masked equals sliced.

Shapes are no proof: after `y[:, 0::2]`, a roll or a constant slice a cut network can run and read the
wrong channels. The labelled replay compares operation by operation; the numeric check runs both networks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from greg_compress.surgery.cut import cut, survivors
from greg_compress.wiring.groups import Wiring, find_groups
from greg_compress.wiring.labels import NONE
from greg_compress.wiring.layout import thin, varies
from greg_compress.wiring.trace import BATCH, Axes, Operation, skeleton, trace

TOLERANCE = 1e-9
"""Largest difference between masked and sliced outputs in float64, relative to the largest output."""


@dataclass(frozen=True)
class Difference:
    """The first operation of a cut network that does not do what it did in the dense one."""

    operation: Operation
    units: Tensor
    """Classes of the removed units that pass there."""

    @property
    def reason(self) -> str:
        return f"after a cut {self.operation} would no longer line up"


@dataclass(frozen=True)
class SelfCheck:
    """Masked against sliced."""

    max_rel_error: float
    passed: bool
    unchecked: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "max_rel_error": self.max_rel_error,
            "passed": self.passed,
            "unchecked": list(self.unchecked),
        }


def prunable_wiring(model: nn.Module, input_shape: Sequence[int]) -> Wiring:
    """Find the groups of `model`, and freeze those that a trial cut on labels proves uncuttable.

    The trial takes half of every group at once: one run tells about all of them, and each failure
    names the groups to freeze.

    Raises:
        TraceError: the network does not run with this input.
    """
    wiring = find_groups(model, input_shape)
    generator = torch.Generator().manual_seed(0)
    halves = {
        group.name: group.units[torch.randperm(group.channels, generator=generator)[: group.channels // 2]]
        for group in wiring.groups
    }
    while True:
        trial = [halves[group.name] for group in wiring.groups if not group.frozen]
        removed = torch.cat([torch.empty(0, dtype=torch.int64), *trial])
        difference = first_difference(model, wiring, removed)
        if difference is None:
            return wiring
        wiring = wiring.freeze(
            {
                group.name: difference.reason
                for group in wiring.groups
                if not group.frozen and torch.isin(halves[group.name], difference.units).any()
            }
        )


def first_difference(model: nn.Module, wiring: Wiring, removed: Tensor) -> Difference | None:
    """Cut a copy of `model` without memory, run it on the labels that it kept, and compare.

    Same operations, same order, and at each the dense run's labels less the removed ones.
    """
    if not removed.numel():
        return None
    dense = wiring.trace
    bones = skeleton(model)
    cut(bones, wiring, removed)
    staying = survivors(wiring, removed)
    axes: Axes = {
        name: tuple(labels[index] for labels, index in zip(dims, staying[name], strict=True))
        if name in staying
        else dims
        for name, dims in dense.axes.items()
    }
    replay = trace(bones, wiring.input_shape, seed=dense.replay(axes))
    roots = dense.labels.classes()
    gone = torch.isin(roots, removed)
    for index, expected in enumerate(dense.operations):
        found = replay.operations[index] if index < len(replay.operations) else None
        if found is None or not _agrees(expected, found, gone):
            units = roots[_passing(expected, gone)].unique()
            return Difference(expected, units if units.numel() else removed)
    if len(replay.operations) > len(dense.operations):
        return Difference(replay.operations[len(dense.operations)], removed)
    return None


def _passing(operation: Operation, gone: Tensor) -> Tensor:
    """The removed labels that an operation reads or makes: those that line up with a constant, if any do.

    A constant (the zeros of a padding) does not shrink with a cut, so the units beside it are to blame, and
    not all those that pass.
    """
    if len({plane.shape for plane in operation.reads}) == 1:
        beside = torch.stack([plane.flatten() for plane in thin(*operation.reads)])
        beside = beside[:, (beside == NONE).any(dim=0)]
        if (stuck := beside[gone[beside]]).numel():
            return stuck
    planes = [*operation.reads, *(plane for planes in operation.makes for plane in planes)]
    labels = torch.cat([torch.empty(0, dtype=torch.int64), *(thin(plane)[0].unique() for plane in planes)])
    return labels[gone[labels]]


def _agrees(dense: Operation, found: Operation, gone: Tensor) -> bool:
    return (
        dense.name == found.name
        and dense.module == found.module
        and [len(planes) for planes in dense.makes] == [len(planes) for planes in found.makes]
        and all(
            _lies_alike(planes, index, other, gone)
            for planes, others in zip(dense.makes, found.makes, strict=True)
            for index, other in enumerate(others)
        )
    )


def _lies_alike(planes: tuple[Tensor, ...], index: int, found: Tensor, gone: Tensor) -> bool:
    """Whether `found` holds the labels of a dense plane less the removed ones, in the same order.

    Only the dimensions along which labels lie may have shrunk (in a raw matrix, those of either plane).
    """
    dense = planes[index]
    if dense.dim() != found.dim():
        return False
    for dim in reversed(range(dense.dim())):
        if varies(dense, dim):
            continue
        shrinks = any(varies(plane, dim) for plane in planes)
        if varies(found, dim) or (dense.shape[dim] != found.shape[dim] and not shrinks):
            return False
        dense, found = dense.select(dim, 0), found.select(dim, 0)
    return torch.equal(dense.flatten()[~gone[dense].flatten()], found.flatten())


def masked_equals_sliced(dense: nn.Module, sliced: nn.Module, wiring: Wiring, removed: Tensor) -> SelfCheck:
    """Zero the removed units where they are read, in a copy of the dense network, and compare outputs.

    The mask lies on the consumers' input slices, not on the filters: a BatchNorm shift follows those.
    Runs in float64 on a random input of batch 2, in eval mode. Both networks are left as they are.
    """
    masked = copy.deepcopy(dense).to("cpu", torch.float64).eval()
    small = copy.deepcopy(sliced).to("cpu", torch.float64).eval()
    gone = torch.zeros(len(wiring.trace.labels), dtype=torch.bool)
    gone[removed] = True
    example = torch.rand((BATCH, *wiring.input_shape), generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for name, dim in wiring.trace.consumers:
            weight = masked.get_parameter(name)
            weight.index_fill_(dim, gone[wiring.classes[name][dim]].nonzero().flatten(), 0)
        wanted = [leaf for leaf in tree_leaves(masked(example)) if isinstance(leaf, Tensor)]
        got = [leaf for leaf in tree_leaves(small(example)) if isinstance(leaf, Tensor)]
    error = 0.0
    for a, b in zip(wanted, got, strict=True):
        if a.shape != b.shape:
            return SelfCheck(float("inf"), False)
        largest = a.abs().max().item() or 1.0
        error = max(error, ((a - b).abs().max() / largest).nan_to_num(nan=float("inf")).item())
    return SelfCheck(error, error <= TOLERANCE)
