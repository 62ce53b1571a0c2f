"""First proof of a cut: the cut network runs on labels as the dense one did.

Shapes are no proof: after `y[:, 0::2]`, a roll or a constant slice a cut network can run and read the wrong
channels. The replay compares operation by operation: the same ones, in the same order, and at each the dense
run's labels less the removed ones, meeting the same weights and operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from greg_compress.surgery.cut import cut, survivors
from greg_compress.wiring.groups import Wiring
from greg_compress.wiring.labels import NONE
from greg_compress.wiring.layout import thin, varies
from greg_compress.wiring.record import Axes, Operation
from greg_compress.wiring.skeleton import skeleton
from greg_compress.wiring.trace import trace


@dataclass(frozen=True)
class Difference:
    """The first operation of a cut network that does not do what it did in the dense one."""

    index: int
    """Of the operation, in order of execution."""
    operation: Operation
    units: Tensor
    """Classes of the removed units that pass there; none, when what differs carries no labels."""

    failure: str | None = None
    """What the cut network raised there, if it broke."""

    @property
    def reason(self) -> str:
        broken = f" ({self.failure})" if self.failure else ""
        return f"after a cut {self.operation} would no longer line up{broken}"


def first_difference(model: nn.Module, wiring: Wiring, removed: Tensor) -> Difference | None:
    """Cut a copy of `model` without memory, run it on the labels that it kept, and compare.

    Same operations, same order, and at each the dense run's labels less the removed ones.
    """
    if not removed.numel():
        return None
    dense = wiring.trace
    bones = skeleton(model, dense.device)
    cut(bones, wiring, removed)
    staying = survivors(wiring, removed)
    axes: Axes = {
        name: tuple(labels[index] for labels, index in zip(dims, staying[name], strict=True))
        if name in staying
        else dims
        for name, dims in dense.axes.items()
    }
    replay = trace(bones, wiring.input_shapes, dense.replay(axes))
    roots = wiring.roots
    gone = torch.isin(roots, removed)
    for index, expected in enumerate(dense.operations):
        found = replay.operations[index] if index < len(replay.operations) else None
        if found is None or not (_agrees(expected, found, gone) and _unites_nothing_new(found, roots)):
            units = roots[_passing(expected, gone)].unique()
            return Difference(index, expected, units, replay.failure if found is None else None)
        if expected.scalars != found.scalars:
            return Difference(index, expected, torch.empty(0, dtype=torch.int64))  # whose count it is, no label tells
    if len(replay.operations) > len(dense.operations):
        return Difference(len(dense.operations), replay.operations[len(dense.operations)], removed)
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


def _unites_nothing_new(found: Operation, roots: Tensor) -> bool:
    """Whether channels still meet the slices of weights, the statistics and the operands that they met."""
    return all(torch.equal(roots[left], roots[right]) for left, right in found.unions)


def _lies_alike(planes: tuple[Tensor, ...], index: int, found: Tensor, gone: Tensor) -> bool:
    """Whether `found` holds the labels of a dense plane less the removed ones, in the same order.

    Only the dimensions along which labels lie may have shrunk (in a raw matrix, those of either plane). Constant
    channels among labelled ones (zeros to be written over, a padding) may have become fewer: whatever meets
    other channels or weights for it is caught there.
    """
    dense = planes[index]
    if dense.dim() != found.dim():
        return False
    if bool((dense == NONE).all() and (found == NONE).all()):
        return True
    lying = [dim for dim in range(dense.dim()) if varies(dense, dim)]
    for dim in sorted(set(range(dense.dim())) - set(lying)):
        shrinks = any(varies(plane, dim) for plane in planes)
        if varies(found, dim) or (dense.shape[dim] != found.shape[dim] and not shrinks):
            return False
        dense, found = (plane.narrow(dim, 0, min(1, plane.shape[dim])) for plane in (dense, found))
    # What is left must be a product: whole indices go, or none.
    dense = _without(dense, gone[dense] | (dense == NONE), lying)
    found = _without(found, found == NONE, lying)
    return not bool(gone[dense].any()) and torch.equal(dense, found)


def _without(plane: Tensor, dropped: Tensor, dims: Sequence[int]) -> Tensor:
    """The plane less the indices of some dimensions at which everything is dropped."""
    for dim in dims:
        left = (~dropped).movedim(dim, 0).reshape(plane.shape[dim], -1).any(dim=1).nonzero().flatten()
        plane, dropped = plane.index_select(dim, left), dropped.index_select(dim, left)
    return plane
