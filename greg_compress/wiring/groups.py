"""Groups: all the units with the same wiring, and why some may not be pruned.

A unit is a class of labels; a group is the set of units that live in the same (tensor, dimension) pairs.
"The last conv of a residual block" needs no name matching: it is in a group that additions couple.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from greg_compress.errors import TraceError
from greg_compress.wiring.record import Axes, Layer, Trace, Unfollowed
from greg_compress.wiring.skeleton import Shapes, skeleton, uncollected
from greg_compress.wiring.trace import trace


@dataclass(frozen=True)
class Group:
    """Units with the same wiring."""

    name: str
    """Name of the first source in order of execution."""
    units: Tensor
    """The class of each unit, shape (channels,), in the order of the first source's filters."""
    sources: tuple[str, ...]
    """Weights whose filters make these units, in order of execution."""
    coupled: bool
    frozen: str | None
    """Why these units may not be cut; None when they may."""
    scored: tuple[str, ...] = ()
    """The sources whose filters score these units, in order of execution: see :func:`_scored`."""

    @property
    def channels(self) -> int:
        return self.units.numel()

    @property
    def reason(self) -> str | None:
        """Why the paper's default leaves this group alone, in words."""
        if self.frozen:
            return f"frozen: {self.frozen}"
        if self.coupled:
            return f"coupled: an addition ties {len(self.sources)} layers together"
        return None

    def left_alone(self, coupled: bool) -> str | None:
        """Why nothing may go here, in words, when coupled groups are asked for or not."""
        return None if coupled and not self.frozen else self.reason


@dataclass(frozen=True)
class Wiring:
    """Everything that a plan, a cut and a penalty need to know about how a network hangs together."""

    trace: Trace
    roots: Tensor
    """The class of each label, shape (labels,)."""
    classes: Axes
    """For every parameter and buffer, the unit (class) of each index of each dimension."""
    groups: tuple[Group, ...]
    """In order of execution of their first source."""
    input_shapes: Shapes

    @property
    def layers(self) -> list[Layer]:
        """Those that can be followed."""
        return list(self.trace.layers.values())

    @property
    def ran(self) -> list[Layer | Unfollowed]:
        """All layers in order of execution."""
        merged: list[Layer | Unfollowed] = list(self.layers)
        named = {layer.name for layer in self.layers}
        for other in reversed(self.trace.unfollowed.values()):
            if other.name not in named:  # of several calls of one layer, one may be followed and another not
                merged.insert(other.after, other)
        return merged

    def groups_of(self, weight: str) -> list[Group]:
        """The groups of a source's filters, mostly one; none when the layer makes no units of its own."""
        return [group for group in self.groups if weight in group.sources]

    def leaves(self, layer: Layer | Unfollowed) -> bool:
        """Whether what a layer makes is known to be the network's output."""
        if isinstance(layer, Unfollowed):
            return False
        made = self.roots[layer.channels]
        return any(bool(torch.isin(made, self.roots[labels]).any()) for labels in self.trace.leaving)

    def filters(self, weight: str) -> tuple[int, Tensor]:
        """The dimension of a layer's weight that holds its filters, and the unit of each of them."""
        makes = self.trace.layers[weight].makes
        return makes, self.classes[weight][makes]

    def freeze(self, reasons: dict[str, str]) -> Wiring:
        """The same wiring with more groups frozen, by name."""
        labels = self.trace.labels.copy()
        for group in self.groups:
            if group.name in reasons:
                labels.freeze(group.units, reasons[group.name])
        return group_units(replace(self.trace, labels=labels), self.input_shapes)

    def tie(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Wiring:
        """The same wiring with more units tied: those on both sides of a pair, element by element, go together."""
        labels = self.trace.labels.copy()
        for left, right in pairs:
            labels.unite(left, right)
        return group_units(replace(self.trace, labels=labels), self.input_shapes)


@uncollected()
def find_groups(model: nn.Module, input_shapes: Shapes) -> Wiring:
    """Trace `model` on labels and find its groups.

    Args:
        input_shapes: the shape of one sample of each input, ((C, H, W),) for images.

    Raises:
        TraceError: the network does not run with this input.
    """
    bones = skeleton(model)
    with suppress(TraceError):
        return group_units(trace(bones, input_shapes), input_shapes)
    # Values that decide, or tensors outside the module tree, which meta cannot give: the same on the CPU.
    run = trace(skeleton(model, "cpu"), input_shapes)
    run.device = "cpu"
    return group_units(run, input_shapes)


def group_units(run: Trace, input_shapes: Shapes) -> Wiring:
    """Group the units that a run on labels found."""
    roots, loose = run.labels.classes()
    classes = {name: tuple(roots[labels] for labels in dims) for name, dims in run.axes.items()}
    signature = _signatures(classes, len(run.labels))
    reason, words = _reasons(run, roots)
    groups: dict[tuple[int, int], Group] = {}
    for weight, layer in run.layers.items():
        if layer.follows:
            continue
        for key, members in _split(classes[weight][layer.makes], signature, reason):
            if (known := groups.get(key)) is not None:
                groups[key] = replace(known, sources=(*known.sources, weight))
            else:
                groups[key] = Group(layer.name, members, (weight,), False, words[key[1]])
    named = _unique_names(list(groups.values()))
    found = tuple(
        replace(
            group,
            coupled=_coupled(group, run, roots, loose),
            scored=_scored(group, run, roots, loose),
            frozen=group.frozen or _all_at_once(group, run, classes),
        )
        for group in named
    )
    return Wiring(run, roots, classes, found, input_shapes)


def unit_rows(group: Group, rows: Tensor) -> Tensor:
    """For each row of a tensor (its class), the position of its unit within `group`; -1 for others."""
    order = torch.argsort(group.units)
    ranked = group.units[order]
    place = torch.searchsorted(ranked, rows).clamp(max=ranked.numel() - 1)
    return torch.where(ranked[place] == rows, order[place], -1)


def _signatures(classes: Axes, count: int) -> Tensor:
    """Hash the set of (tensor, dimension) pairs in which each class lives; shape (count,), int64."""
    generator = torch.Generator().manual_seed(0)
    signature = torch.zeros(count, dtype=torch.int64)
    for dims in classes.values():
        for labels in dims:
            code = torch.randint(-(2**62), 2**62, (), generator=generator)
            signature[labels.unique()] += code
    return signature


def _reasons(run: Trace, roots: Tensor) -> tuple[Tensor, list[str | None]]:
    """For each class the number of the first reason that freezes it, 0 for none, and the reasons by number."""
    words: list[str | None] = [None]
    number = torch.zeros(len(run.labels), dtype=torch.int64)
    for frozen, reason in reversed(run.labels.reasons(roots)):
        if reason not in words:
            words.append(reason)
        number[frozen] = words.index(reason)
    return number, words


def _split(rows: Tensor, signature: Tensor, reason: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Split a source's filters into units with the same wiring and the same freedom, in order of appearance."""
    units, place = rows.unique(return_inverse=True)
    first = torch.full_like(units, rows.numel()).scatter_reduce_(0, place, torch.arange(rows.numel()), "amin")
    units = units[first.argsort()]
    keys = torch.stack([signature[units], reason[units]])
    while units.numel():
        same = (keys == keys[:, :1]).all(dim=0)
        yield (int(keys[0, 0]), int(keys[1, 0])), units[same]
        keys, units = keys[:, ~same], units[~same]


def _coupled(group: Group, run: Trace, roots: Tensor, loose: Tensor) -> bool:
    """Whether two sources fall apart without the unions that additions made.

    Halves of a single layer that are summed up are no two sources.
    """
    if len(group.sources) == 1:
        return False
    rows = torch.cat([run.axes[weight][run.layers[weight].makes] for weight in group.sources])
    first = loose[rows[roots[rows] == group.units[0]]]
    return bool((first != first[0]).any())


def _all_at_once(group: Group, run: Trace, classes: Axes) -> str | None:
    """Why a group of a single unit that makes several channels loses nothing."""
    weight = group.sources[0]
    filters = int((classes[weight][run.layers[weight].makes] == group.units[0]).sum()) if group.channels == 1 else 1
    return f"its {filters} channels hang together, and could only go all at once" if filters > 1 else None


def _scored(group: Group, run: Trace, roots: Tensor, loose: Tensor) -> tuple[str, ...]:
    """The first in execution of every set of sources that hang together without the unions that additions made.

    A gate's rows go with the unit and do not score it; the summands of a residual stream do, each of them.
    """
    seen, found = loose[:0], []
    for weight in group.sources:
        rows = run.axes[weight][run.layers[weight].makes]
        mine = loose[rows[roots[rows] == group.units[0]]]
        if not torch.isin(mine, seen).any():
            found.append(weight)
        seen = torch.cat([seen, mine])
    return tuple(found)


def _unique_names(groups: list[Group]) -> list[Group]:
    """A layer may make units of several wirings; the second such group of a name is NAME#2."""
    seen: dict[str, int] = {}
    result = []
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        number = seen[group.name]
        result.append(replace(group, name=f"{group.name}#{number}") if number > 1 else group)
    return result
