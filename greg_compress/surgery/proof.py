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

from greg_compress.errors import CheckFailed, GregError, first_line
from greg_compress.surgery.cut import cut, survivors
from greg_compress.wiring.groups import Wiring, find_groups
from greg_compress.wiring.labels import NONE
from greg_compress.wiring.layout import thin, varies
from greg_compress.wiring.record import Axes, Operation
from greg_compress.wiring.skeleton import BATCH, output_tensors, skeleton
from greg_compress.wiring.trace import trace

TOLERANCE = 1e-9
"""Largest difference between masked and sliced outputs in float64, relative to the largest output."""


@dataclass(frozen=True)
class Difference:
    """The first operation of a cut network that does not do what it did in the dense one."""

    operation: Operation
    units: Tensor
    """Classes of the removed units that pass there; none, when what differs carries no labels."""

    failure: str | None = None
    """What the cut network raised there, if it broke."""

    @property
    def reason(self) -> str:
        broken = f" ({self.failure})" if self.failure else ""
        return f"after a cut {self.operation} would no longer line up{broken}"


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

    The trial takes another share of every group at once: one run tells about all of them, and each failure
    names the groups to freeze. Equal shares would not notice two groups that can only shrink together.

    Raises:
        TraceError: the network does not run with this input.
    """
    wiring = find_groups(model, input_shape)
    shares = _trial_shares(wiring)
    while True:
        free = [group.name for group in wiring.groups if not group.frozen]
        removed = torch.cat([torch.empty(0, dtype=torch.int64), *(shares[name] for name in free)])
        difference = first_difference(model, wiring, removed)
        if difference is None:
            return wiring
        blamed = [name for name in free if torch.isin(shares[name], difference.units).any()]
        if not blamed:
            # What broke carries no labels (a size computed in Python): find who breaks it, one by one.
            blamed = [name for name in free if first_difference(model, wiring, shares[name]) is not None]
        wiring = wiring.freeze(dict.fromkeys(blamed or free, difference.reason))


def _trial_shares(wiring: Wiring) -> dict[str, Tensor]:
    """Random units of each group, a random number of them, at least one and never all."""
    generator = torch.Generator().manual_seed(0)
    shares = {}
    for group in wiring.groups:
        count = int(torch.randint(1, max(2, group.channels), (), generator=generator))
        order = torch.randperm(group.channels, generator=generator)
        shares[group.name] = group.units[order[: min(count, group.channels - 1)]]
    return shares


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
    replay = trace(bones, wiring.input_shape, dense.replay(axes))
    roots = dense.labels.classes()
    gone = torch.isin(roots, removed)
    for index, expected in enumerate(dense.operations):
        found = replay.operations[index] if index < len(replay.operations) else None
        if found is None or not _agrees(expected, found, gone):
            return Difference(
                expected, roots[_passing(expected, gone)].unique(), replay.failure if found is None else None
            )
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
    lying = [dim for dim in range(dense.dim()) if varies(dense, dim)]
    for dim in sorted(set(range(dense.dim())) - set(lying)):
        shrinks = any(varies(plane, dim) for plane in planes)
        if varies(found, dim) or (dense.shape[dim] != found.shape[dim] and not shrinks):
            return False
        dense, found = (plane.narrow(dim, 0, min(1, plane.shape[dim])) for plane in (dense, found))
    keep = ~gone[dense]
    for dim in lying:
        # What is left must be a product: whole indices go, or none.
        left = keep.movedim(dim, 0).reshape(keep.shape[dim], -1).any(dim=1).nonzero().flatten()
        dense, keep = dense.index_select(dim, left), keep.index_select(dim, left)
    return bool(keep.all()) and torch.equal(dense, found)


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
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for name, dim in wiring.trace.consumers:
            weight = masked.get_parameter(name)
            weight.index_fill_(dim, gone[wiring.classes[name][dim]].nonzero().flatten(), 0)
        try:
            wanted, got = (output_tensors(network(example)) for network in (masked, small))
        except GregError:
            raise
        except (Exception, SystemExit) as error:
            # The user's own network may do anything to numbers that it did not do to labels.
            raise CheckFailed(f"the self-check could not run in float64 ({first_line(error)})") from error
    largest = max(_error(a, b) for a, b in zip(wanted, got, strict=True))
    return SelfCheck(largest, largest <= TOLERANCE)


def _error(wanted: Tensor, got: Tensor) -> float:
    """The largest difference, relative to the largest value (absolute where that is 0)."""
    if wanted.shape != got.shape:
        return float("inf")
    if not wanted.is_floating_point() or not wanted.numel():
        return 0.0 if torch.equal(wanted, got) else float("inf")
    largest = wanted.abs().max().item() or 1.0
    return ((wanted - got).abs().max() / largest).nan_to_num(nan=float("inf")).item()
