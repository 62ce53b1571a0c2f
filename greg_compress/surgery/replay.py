"""First proof of a cut: the cut network runs on labels as the dense one did.

Shapes are no proof: after `y[:, 0::2]`, a roll or a constant slice a cut network can run and read the wrong
channels. The replay compares operation by operation: the same ones, in the same order, and at each the dense
run's labels less the removed ones, meeting the same weights and operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from greg_compress.errors import TraceError, first_line
from greg_compress.surgery.cut import cut
from greg_compress.wiring import rules
from greg_compress.wiring.groups import Wiring
from greg_compress.wiring.labels import NONE, Labels, pairs
from greg_compress.wiring.layout import Layout, Layouts, lying, thin, varies
from greg_compress.wiring.record import Operation, Trace
from greg_compress.wiring.skeleton import skeleton, uncollected
from greg_compress.wiring.trace import run
from greg_compress.wiring.tracer import Tracer


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
    def effect(self) -> str:
        """Why units that pass there stay."""
        return f"after a cut {self.operation} would no longer line up"

    @property
    def reason(self) -> str:
        """The same, with what torch says of it."""
        return self.effect + (f" ({self.failure})" if self.failure else "")


@uncollected()
def first_difference(model: nn.Module, wiring: Wiring, removed: Tensor) -> Difference | None:
    """Cut a copy of `model` without memory, run it on the labels that it kept, and compare.

    Same operations, same order, and at each the dense run's labels less the removed ones. Training is replayed
    only where it did something else to labels than evaluation.
    """
    if not removed.numel():
        return None
    dense = wiring.trace
    bones = skeleton(model, dense.device)
    cut(bones, wiring, removed)
    left = Left(torch.isin(wiring.roots, removed))
    start = 0
    for training, length in enumerate(dense.modes if not dense.trains_alike else dense.modes[:1]):
        replay = Replay(wiring, left, start, start + length)
        try:
            run(bones, wiring.input_shapes, replay, bool(training))
            replay.end()
        except Differs:
            return replay.difference
        except (TraceError, Exception, SystemExit) as error:
            # A cut network that breaks is an answer, whatever user code raises then.
            return replay.broken(first_line(error))
        start += length
    return None


class Differs(BaseException):
    """Ends a replay; no `except Exception` in the network's own code may swallow it."""


class Left:
    """What is left of the dense run's layouts."""

    def __init__(self, gone: Tensor) -> None:
        self.gone = gone
        """Whether each label's unit is removed, shape (labels,)."""
        self._known: dict[int, Layout | None] = {}

    def of(self, dense: Layout) -> Layout | None:
        """The same layout less the removed labels, one object for one; None where that is no product."""
        if id(dense) not in self._known:
            self._known[id(dense)] = self._restricted(dense)
        return self._known[id(dense)]

    def tensor(self, axes: tuple[Tensor, ...], dense: Layout) -> Layout:
        """What is left of a parameter or buffer, of which whole indices go."""
        left = Layout.of_tensor([labels[~self.gone[labels]] for labels in axes], dense.origin)
        self._known[id(dense)] = left
        return left

    def _restricted(self, dense: Layout) -> Layout | None:
        if (vector := dense.vector()) is not None:
            dim, labels = vector
            kept = labels[~self.gone[labels]]
            if kept.numel() == labels.numel():
                return dense
            shape = [kept.numel() if at == dim else size for at, size in enumerate(dense.shape)]
            left = Layout.spread(kept, shape, dim)
            left.origin = dense.origin
            return left
        planes = dense.planes
        if not self._loses(planes):
            return dense
        for dim in range(planes[0].dim()):
            for plane in planes:
                if varies(plane, dim):
                    everywhere = self.gone[thin(plane)[0]].movedim(dim, 0).reshape(plane.shape[dim], -1).all(dim=1)
                    kept = (~everywhere).nonzero().flatten()
                    planes = tuple(_chosen(each, dim, kept) for each in planes)
                    break
        return None if self._loses(planes) else Layout(planes, dense.origin)

    def _loses(self, planes: Sequence[Tensor]) -> bool:
        return any(bool(self.gone[thin(plane)[0]].any()) for plane in planes)


def _chosen(plane: Tensor, dim: int, kept: Tensor) -> Tensor:
    """The indices `kept` of one dimension, with strides of 0 left as they are."""
    (small,) = thin(plane)
    if varies(plane, dim):
        small = small.index_select(dim, kept)
    return small.expand([kept.numel() if at == dim else size for at, size in enumerate(plane.shape)])


class Replay(Tracer):
    """Carries labels through a cut network, and stops at the first operation that differs from the dense run's.

    Args:
        start, end: the dense run's operations of this mode.
    """

    def __init__(self, wiring: Wiring, left: Left, start: int, end: int) -> None:
        dense = wiring.trace
        first = dense.operations[start - 1].labels if start else 1 + sum(
            labels.numel() for dims in {id(dims): dims for dims in dense.axes.values()}.values() for labels in dims
        )  # fmt: skip
        super().__init__(Trace(Labels(first), {}), rules.apply)
        self._dense, self._roots, self._left = dense, wiring.roots, left
        self._at, self._end = start, end
        self._script: list[int] = []
        self.difference: Difference | None = None

    def parameter(self, name: str) -> Layout:
        return self._left.tensor(self._dense.axes[name], self._dense.tensors[name])

    def decide(self, from_shapes: Callable[[], int]) -> int:
        """A cut that leaves one channel must not change what shapes decided."""
        return self._script.pop(0) if self._script else int(from_shapes())

    def observe(
        self, func: Any, args: Any, kwargs: Any, read: list[Tensor], made: list[Tensor], arguments: tuple[Any, ...]
    ) -> Layouts:
        if self._at == self._end:
            self._differ(
                Operation(str(func), self.module, arguments, (), []), blamed=self._left.gone.nonzero().flatten()
            )
        expected = self._dense.operations[self._at]
        if (str(func), self.module, len(made)) != (expected.name, expected.module, len(expected.makes)):
            self._differ(expected)
        layouts = self._restricted(func, expected, read, made, arguments)
        if layouts is None:
            layouts = self._followed(func, args, kwargs, read, made, arguments)
        self.result.labels.go_on_from(expected.labels)
        self._at += 1
        return layouts

    def _restricted(
        self, func: Any, expected: Operation, read: list[Tensor], made: list[Tensor], arguments: tuple[Any, ...]
    ) -> Layouts | None:
        """What is left of what the dense call made, where that follows from what is left of what it read."""
        if not rules.commutes_with_cuts(func, arguments, expected.arguments) or len(read) != len(expected.reads):
            return None
        for tensor, dense in zip(read, expected.reads, strict=True):
            if self.layout(tensor) is not (None if dense is None else self._left.of(dense)):
                return None
        layouts = [None if dense is None else self._left.of(dense) for dense in expected.makes]
        for layout, dense, tensor in zip(layouts, expected.makes, made, strict=True):
            if dense is not None and (layout is None or layout.shape != tensor.shape):
                return None
        return layouts

    def _followed(
        self, func: Any, args: Any, kwargs: Any, read: list[Tensor], made: list[Tensor], arguments: tuple[Any, ...]
    ) -> Layouts:
        """What the rules say that the call made, if it is what is left of what the dense one made."""
        expected = self._dense.operations[self._at]
        self._script = list(expected.decisions)
        before = len(self.result.labels.unions)
        layouts = self._follow(self, func, args, kwargs, read, made)
        alike = all(
            (dense is None) == (found is None) and (dense is None or found is None or self._lies_alike(dense, found))
            for dense, found in zip(expected.makes, layouts, strict=True)
        )
        left, right = pairs(self.result.labels.unions[before:])
        # Channels must still meet the slices of weights, the statistics and the operands that they met.
        if not alike or not torch.equal(self._roots[left], self._roots[right]):
            self._differ(expected)
        labelled = any(self.layout(tensor) is not None for tensor in read)
        if labelled and rules.scalars(func, arguments) != rules.scalars(func, expected.arguments):
            self._differ(expected, blamed=torch.empty(0, dtype=torch.int64))  # whose count it is, no label tells
        return [self._one_object(dense, found) for dense, found in zip(expected.makes, layouts, strict=True)]

    def _one_object(self, dense: Layout | None, found: Layout | None) -> Layout | None:
        """What is left of the dense layout, where it is the same: equal layouts are known by being one object."""
        left = None if dense is None else self._left.of(dense)
        if left is None or found is None or left.shape != found.shape:
            return found
        same = all(torch.equal(*thin(a, b)) for a, b in zip(left.planes, found.planes, strict=True))
        return left if same else found

    def end(self) -> None:
        """Say that the run is over."""
        if self._at < self._end:
            self._differ(self._dense.operations[self._at])

    def broken(self, failure: str) -> Difference:
        """The difference of a run that broke."""
        at = min(self._at, self._end - 1)
        operation = self._dense.operations[at]
        return Difference(at, operation, self._roots[self._passing(operation)].unique(), failure)

    def _differ(self, operation: Operation, blamed: Tensor | None = None) -> None:
        if blamed is None:
            blamed = self._passing(operation)
        self.difference = Difference(self._at, operation, self._roots[blamed].unique())
        raise Differs

    def _passing(self, operation: Operation) -> Tensor:
        return _passing(operation, self._left.gone)

    def _lies_alike(self, dense: Layout, found: Layout) -> bool:
        return len(dense.planes) == len(found.planes) and all(
            _lies_alike(dense.planes, index, plane, self._left.gone) for index, plane in enumerate(found.planes)
        )


def _passing(operation: Operation, gone: Tensor) -> Tensor:
    """The removed labels that an operation reads or makes: those that line up with a constant, if any do.

    A constant (the zeros of a padding) does not shrink with a cut, so the units beside it are to blame, and
    not all those that pass.
    """
    reads = [plane for layout in operation.reads if layout for plane in layout.planes]
    if len({plane.shape for plane in reads}) == 1:
        beside = torch.stack([plane.flatten() for plane in thin(*reads)])
        beside = beside[:, (beside == NONE).any(dim=0)]
        if (stuck := beside[gone[beside]]).numel():
            return stuck
    planes = [*reads, *(plane for layout in operation.makes if layout for plane in layout.planes)]
    labels = torch.cat([torch.empty(0, dtype=torch.int64), *(thin(plane)[0].unique() for plane in planes)])
    return labels[gone[labels]]


def _lies_alike(planes: tuple[Tensor, ...], index: int, found: Tensor, gone: Tensor) -> bool:
    """Whether `found` holds the labels of a dense plane less the removed ones, in the same order.

    Only the dimensions along which labels lie may have shrunk (in a raw matrix, those of either plane). Constant
    channels among labelled ones (zeros to be written over, a padding) may have become fewer: whatever meets
    other channels or weights for it is caught there.
    """
    dense = planes[index]
    if dense.dim() != found.dim():
        return False
    dims = lying(dense)
    if not dims and bool((thin(dense)[0] == NONE).all() and (thin(found)[0] == NONE).all()):
        return True
    for dim in sorted(set(range(dense.dim())) - set(dims)):
        shrinks = any(varies(plane, dim) for plane in planes)
        if varies(found, dim) or (dense.shape[dim] != found.shape[dim] and not shrinks):
            return False
        dense, found = (plane.narrow(dim, 0, min(1, plane.shape[dim])) for plane in (dense, found))
    # What is left must be a product: whole indices go, or none.
    dense = _without(dense, gone[dense] | (dense == NONE), dims)
    found = _without(found, found == NONE, dims)
    return not bool(gone[dense].any()) and torch.equal(dense, found)


def _without(plane: Tensor, dropped: Tensor, dims: Sequence[int]) -> Tensor:
    """The plane less the indices of some dimensions at which everything is dropped."""
    for dim in dims:
        left = (~dropped).movedim(dim, 0).reshape(plane.shape[dim], -1).any(dim=1).nonzero().flatten()
        plane, dropped = plane.index_select(dim, left), dropped.index_select(dim, left)
    return plane
