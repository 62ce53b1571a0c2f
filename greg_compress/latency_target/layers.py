"""Layers as onnxruntime runs them: what decides their time, and which units their channels are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy
from torch import Tensor

from greg_compress.wiring.groups import Group, Wiring, unit_rows
from greg_compress.wiring.record import LINEAR, Operation

Ints = tuple[int, ...]
Integers = numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.int64]]


@dataclass(frozen=True)
class Form:
    """What decides the time of a layer besides the machine; equal layers are measured once."""

    reads: int
    """Channels of its input."""
    makes: int
    positions: Ints
    """The input's size beside batch and channels; of a linear layer how many vectors of a sample it maps."""
    kernel: Ints = ()
    """Empty for a linear layer."""
    stride: Ints = ()
    padding: Ints = ()
    dilation: Ints = ()
    transposed: bool = False
    output_padding: Ints = ()
    groups: int = 1
    whole_groups: bool = False
    """Of a grouped convolution whole groups go (depthwise: each is one channel), not equal offsets in each."""

    def at(self, reads: int, makes: int) -> Form:
        """The same layer with other channels, as its groups allow; where whole groups go `makes` decides both."""
        if not self.whole_groups:
            reads, makes = (max(1, side // self.groups) * self.groups for side in (reads, makes))
            return replace(self, reads=reads, makes=makes)
        groups = max(1, makes * self.groups // self.makes)
        return replace(
            self, groups=groups, reads=groups * (self.reads // self.groups), makes=groups * (self.makes // self.groups)
        )


@dataclass(frozen=True)
class Channels:
    """How many channels one side of a layer has, for any number of kept units of each group."""

    fixed: int
    each: Mapping[int, int]
    """Group (by position among those that may lose some) -> channels of one of its units."""

    def times(self, factor: int) -> Channels:
        return Channels(self.fixed * factor, {group: per * factor for group, per in self.each.items()})

    def at(self, kept: Integers) -> Integers:
        """The number for kept units of shape (groups, ...)."""
        total = numpy.full(kept.shape[1:], self.fixed)
        for group, per in self.each.items():
            total += per * kept[group]
        return total


@dataclass(frozen=True)
class Call:
    """One call of a layer in the network."""

    form: Form
    reads: Channels
    makes: Channels
    made: int
    """Positions of its output."""

    @property
    def free(self) -> tuple[bool, bool]:
        """Whether what it reads may shrink by itself, and what it makes."""
        return bool(self.reads.each) and not self.form.whole_groups, bool(self.makes.each)

    @property
    def groups(self) -> set[int]:
        """The groups that decide its time."""
        return {*self.reads.each, *self.makes.each}


def calls_of(wiring: Wiring, groups: Sequence[Group]) -> list[Call]:
    """Every call of a convolution or linear layer, in order, with how `groups` decide its channels."""

    def channels(rows: Tensor) -> Channels:
        counts = {at: int((unit_rows(group, rows) >= 0).sum()) for at, group in enumerate(groups)}
        each = {at: count // groups[at].channels for at, count in counts.items() if count}
        return Channels(rows.numel() - sum(per * groups[at].channels for at, per in each.items()), each)

    return [*_convolutions(wiring, channels), *_linear(wiring, channels)]


def _convolutions(wiring: Wiring, channels: Callable[[Tensor], Channels]) -> Iterator[Call]:
    for operation in wiring.trace.operations[: wiring.trace.modes[0]]:
        weight = operation.reads[1].origin if "aten.convolution" in operation.name and operation.reads[1] else None
        if weight not in wiring.trace.layers or operation.reads[0] is None or operation.makes[0] is None:
            continue
        layer, rows = wiring.trace.layers[weight], wiring.classes[weight]
        form = _form(operation, layer.whole_groups)
        # Of a grouped convolution, dimension 0 is whole and dimension 1 that of one group.
        whole = channels(rows[0])
        if form.whole_groups:
            part = _other_side(whole, rows[0].numel() // form.groups, rows[1].numel())
        else:
            part = channels(rows[1]).times(form.groups)
        read, made = (whole, part) if form.transposed else (part, whole)
        yield Call(form, read, made, prod(operation.makes[0].shape[2:]))


def _other_side(channels: Channels, each: int, other: int) -> Channels:
    """The channels of a layer's other side, of which every group of `each` channels has `other`."""
    return Channels(
        channels.fixed // each * other, {group: per // each * other for group, per in channels.each.items()}
    )


def _form(operation: Operation, whole_groups: bool) -> Form:
    reads, weight = (layout.shape for layout in operation.reads[:2] if layout is not None)
    dims = len(weight) - 2
    words = [word for word in operation.arguments if word is not None]  # a bias that is not there comes as None
    stride, padding, dilation, (transposed, *more) = (
        tuple(words[:dims]), tuple(words[dims : 2 * dims]), tuple(words[2 * dims : 3 * dims]), words[3 * dims :],
    )  # fmt: skip
    makes = weight[1] * more[-1] if transposed else weight[0]
    return Form(
        reads[1], makes, tuple(reads[2:]), tuple(weight[2:]), stride, padding, dilation, bool(transposed),
        tuple(more[:dims]) if transposed else (), more[-1], whole_groups,
    )  # fmt: skip


def _linear(wiring: Wiring, channels: Callable[[Tensor], Channels]) -> Iterator[Call]:
    for layer in wiring.layers:
        if layer.kind == LINEAR:
            makes, reads = wiring.classes[layer.weight][:2]
            form = Form(reads.numel(), makes.numel(), (layer.positions,))
            yield Call(form, channels(reads), channels(makes), layer.positions)
