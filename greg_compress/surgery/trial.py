"""Trial: cut a copy without memory by shares of all groups, and tie or freeze what does not hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from greg_compress.surgery.replay import Difference, first_difference
from greg_compress.wiring.groups import Group, Wiring, find_groups
from greg_compress.wiring.layout import lying, thin
from greg_compress.wiring.record import Operation
from greg_compress.wiring.skeleton import Shapes

SMALL, SHORT, ROUNDS = 8, 500, 6
"""A group of few channels can satisfy by chance what others would not. Where the network has few operations, more
rounds cost little; elsewhere the replay of the very plan has the last word."""
BITING = ("aten.slice", "aten.split", "aten.select", "aten.unbind", "aten.roll", "aten.flip", "aten.constant_pad")
"""What takes or moves some indices of a tensor: another share of the channels may meet it otherwise."""
FEW = 4
"""Of so many blamed groups, each is tried alone."""


@dataclass(frozen=True)
class Failure:
    """A trial cut that does not hold."""

    round: int
    shares: dict[str, Tensor]
    difference: Difference

    @property
    def reached(self) -> tuple[int, int]:
        """How far the trial got."""
        return self.round, self.difference.index


def prunable_wiring(model: nn.Module, input_shapes: Shapes) -> Wiring:
    """Find the groups of `model`, and freeze those that trial cuts on labels prove uncuttable.

    A trial takes another share of every group at once: one run tells about all of them, and each failure names the
    operation where what is left does not line up. What that operation splits is tied, unit by unit, if the trial
    then gets further (a chunk, a channel shuffle, a strided slice); else the groups that pass there are frozen, of
    few all but one if that is enough. What did not help at one operation is not tried again at its like.

    Raises:
        TraceError: the network does not run with this input.
    """
    wiring = find_groups(model, input_shapes)
    failure = _trial(model, wiring)
    hopeless = set[tuple[str, str]]()
    while failure is not None:
        blamed = _blamed(model, wiring, failure)
        kind = _kind(failure.difference.operation)
        for repaired in (
            () if kind in hopeless else (*_ties(wiring, blamed, failure), *_spared(wiring, blamed, failure))
        ):
            after = _trial(model, repaired)
            if after is None or after.reached > failure.reached:
                wiring, failure = repaired, after
                break
        else:
            hopeless.add(kind)
            wiring = wiring.freeze({group.name: failure.difference.effect for group in blamed})
            failure = _trial(model, wiring)
    return wiring


def _kind(operation: Operation) -> tuple[str, str]:
    """An operation and its module without numbers: the same in every block of a stage."""
    return operation.name, re.sub(r"\d+", "", operation.module)


def _trial(model: nn.Module, wiring: Wiring) -> Failure | None:
    for number in range(_rounds(wiring)):
        shares = _shares(wiring, number)
        removed = torch.cat([torch.empty(0, dtype=torch.int64), *shares.values()])
        if (difference := first_difference(model, wiring, removed)) is not None:
            return Failure(number, shares, difference)
    return None


def _rounds(wiring: Wiring) -> int:
    operations = wiring.trace.operations
    if len(operations) < SHORT and any(group.channels < SMALL for group in wiring.groups if not group.frozen):
        return ROUNDS
    bites = any(each.name.startswith(BITING) and any(each.reads) and not each.idle for each in operations)
    return 2 if bites else 1


def _shares(wiring: Wiring, number: int) -> dict[str, Tensor]:
    """Random units of each free group, in even rounds its last, in odd ones its first among them; never all.

    Rolls, paddings and slices bite at the ends. Groups of one size lose many and few in turn, and in the next
    round few and many: those that can only shrink together are mostly neighbours, and equal shares would hold.
    In the first round the number that goes can be no equal share of two, three, four or six pieces of a group.
    """
    generator = torch.Generator().manual_seed(number)
    shares: dict[str, Tensor] = {}
    turns = Counter[int]()
    for group in wiring.groups:
        if group.frozen:
            continue
        most, turn = group.channels - 1, turns[group.channels]
        turns[group.channels] += 1
        step = (most // 4 + turn // 2) % max(1, most // 2)
        count = most - step if (turn + number) % 2 == 0 else max(0, min(most - 1, 1 + step))
        if number == 0 and count:
            count -= (count - 1) % 12
        order = torch.randperm(group.channels, generator=generator)
        end = order == (0 if number % 2 else most)
        shares[group.name] = group.units[torch.cat([order[end], order[~end]])[:count]]
    return shares


def _blamed(model: nn.Module, wiring: Wiring, failure: Failure) -> list[Group]:
    """The free groups whose units pass where a trial cut differs."""
    free = [group for group in wiring.groups if group.name in failure.shares]
    blamed = [group for group in free if torch.isin(failure.shares[group.name], failure.difference.units).any()]
    if blamed:
        return blamed
    # What broke carries no labels (a size computed in Python): find who breaks it, one by one, those first that
    # pass in the module where it broke.
    near = _passing_in(wiring, failure.difference.operation.module, free)
    for groups in (near, [group for group in free if group not in near]):
        alone = [group for group in groups if first_difference(model, wiring, failure.shares[group.name]) is not None]
        if alone:
            return alone
    return free


def _passing_in(wiring: Wiring, module: str, groups: list[Group]) -> list[Group]:
    """The groups whose units pass in a module or below it."""
    planes = [
        thin(plane)[0].flatten()
        for operation in wiring.trace.operations
        if operation.module == module or operation.module.startswith(f"{module}.")
        for layout in operation.reads
        if layout
        for plane in layout.planes
    ]
    units = wiring.roots[torch.cat([torch.empty(0, dtype=torch.int64), *planes])].unique()
    return [group for group in groups if bool(torch.isin(group.units, units).any())]


def _spared(wiring: Wiring, blamed: list[Group], failure: Failure) -> Iterator[Wiring]:
    """The wiring with all blamed groups frozen but one, which may only have been passing by."""
    if 1 < len(blamed) <= FEW:
        for spared in blamed:
            yield wiring.freeze({group.name: failure.difference.reason for group in blamed if group is not spared})


def _ties(wiring: Wiring, blamed: list[Group], failure: Failure) -> Iterator[Wiring]:
    """The wiring with units tied that may only be able to go together.

    First what this operation, and its like in other blocks, splits; then groups of one size, of the same layer as
    a blamed one, then all blamed.
    """
    kind = _kind(failure.difference.operation)
    alike = [operation for operation in wiring.trace.operations if _kind(operation) == kind]
    if pieces := [pair for operation in alike for pair in _pieces(operation)]:
        yield wiring.tie(pieces)
    layers = {(group.sources[0], group.channels) for group in blamed}
    free = [group for group in wiring.groups if not group.frozen]
    for sets in (
        [[group for group in free if (group.sources[0], group.channels) == layer] for layer in layers],
        [[group for group in blamed if group.channels == size] for size in {group.channels for group in blamed}],
    ):
        if tied := [(groups[0].units, group.units) for groups in sets for group in groups[1:]]:
            yield wiring.tie(tied)


def _pieces(operation: Operation) -> Iterator[tuple[Tensor, Tensor]]:
    """Equal offsets in what an operation splits: tensors of one shape, or the dimensions of a reshaped one.

    A channel shuffle splits C channels into (G, C/G): what is left must be a product again.
    """
    made = [layout.plane for layout in operation.makes if layout and layout.plane is not None]
    for other in made[1:]:
        if other.shape == made[0].shape:
            yield thin(made[0], other)  # type: ignore[misc]
    if len(made) == 1:
        for dim in lying(made[0])[:-1]:
            yield thin(made[0], made[0].narrow(dim, 0, 1).expand(made[0].shape))  # type: ignore[misc]
