"""Groups: all the units with the same wiring, and why some may not be pruned.

A unit is a class of labels; a group is the set of units that live in the same (tensor, dimension) pairs.
"The last conv of a residual block" needs no name matching: it is in a group that additions couple.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from greg_compress.wiring.record import Axes, Layer, Trace
from greg_compress.wiring.skeleton import skeleton
from greg_compress.wiring.trace import trace


@dataclass(frozen=True)
class Group:
    """Units with the same wiring."""

    name: str
    """Module of the first source in order of execution."""
    units: Tensor
    """The class of each unit, shape (channels,), in the order of the first source's filters."""
    sources: tuple[str, ...]
    """Weights whose filters make these units, in order of execution."""
    coupled: bool
    frozen: str | None
    """Why these units may not be cut; None when they may."""

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


@dataclass(frozen=True)
class Wiring:
    """Everything that a plan, a cut and a penalty need to know about how a network hangs together."""

    trace: Trace
    classes: Axes
    """For every parameter and buffer, the unit (class) of each index of each dimension."""
    groups: tuple[Group, ...]
    """In order of execution of their first source."""
    input_shape: tuple[int, ...]

    @property
    def layers(self) -> list[Layer]:
        return list(self.trace.layers.values())

    def group_of(self, weight: str) -> Group | None:
        """The group of a source's filters; None when the layer makes no units of its own."""
        return next((group for group in self.groups if weight in group.sources), None)

    def freeze(self, reasons: dict[str, str]) -> Wiring:
        """The same wiring with more groups frozen, by name."""
        groups = tuple(replace(group, frozen=group.frozen or reasons.get(group.name)) for group in self.groups)
        return replace(self, groups=groups)


def find_groups(model: nn.Module, input_shape: Sequence[int]) -> Wiring:
    """Trace `model` on labels and find its groups.

    Raises:
        TraceError: the network does not run with this input.
    """
    run = trace(skeleton(model), input_shape)
    roots = run.labels.classes()
    loose = run.labels.classes(with_coupling=False)
    classes = {name: tuple(roots[labels] for labels in dims) for name, dims in run.axes.items()}
    signature = _signatures(classes, len(run.labels))
    reasons = run.labels.reasons(roots)
    groups: dict[tuple[int, str | None], Group] = {}
    for weight, layer in run.layers.items():
        if layer.follows:
            continue
        rows = classes[weight][0]
        for key, members in _split(rows, signature, reasons):
            if (known := groups.get(key)) is not None:
                groups[key] = replace(known, sources=(*known.sources, weight))
            else:
                groups[key] = Group(layer.module, members, (weight,), False, key[1])
    named = _unique_names(list(groups.values()))
    found = tuple(replace(group, coupled=_coupled(group, run, roots, loose)) for group in named)
    return Wiring(run, classes, found, tuple(input_shape))


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


def _split(rows: Tensor, signature: Tensor, reasons: dict[int, str]) -> list[tuple[tuple[int, str | None], Tensor]]:
    """Split a source's filters into units with the same wiring and the same freedom."""
    order: dict[int, None] = dict.fromkeys(rows.tolist())
    parts: dict[tuple[int, str | None], list[int]] = {}
    for root in order:
        parts.setdefault((int(signature[root]), reasons.get(root)), []).append(root)
    return [(key, torch.tensor(members)) for key, members in parts.items()]


def _coupled(group: Group, run: Trace, roots: Tensor, loose: Tensor) -> bool:
    """Whether two sources fall apart without the unions that additions made."""
    rows = torch.cat([run.axes[weight][0] for weight in group.sources])
    first = loose[rows[roots[rows] == group.units[0]]]
    return bool((first != first[0]).any())


def _unique_names(groups: list[Group]) -> list[Group]:
    """A layer may make units of several wirings; the second such group of a name is NAME#2."""
    seen: dict[str, int] = {}
    result = []
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        number = seen[group.name]
        result.append(replace(group, name=f"{group.name}#{number}") if number > 1 else group)
    return result
