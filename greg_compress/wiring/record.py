"""What a run on labels leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from greg_compress.wiring.labels import Labels
from greg_compress.wiring.layout import Layout, Layouts

LINEAR = "linear"
Axes = dict[str, tuple[Tensor, ...]]
"""For every parameter and buffer, the labels of each of its dimensions."""


@dataclass
class Layer:
    """A convolution or matrix product with a parameter, as it ran."""

    weight: str
    module: str
    """The module that called it."""
    kind: str
    """conv1d, conv_transpose2d, linear..., as torch.nn.functional names it."""
    channels: Tensor
    """Labels of the channels that it makes, shape (channels,)."""
    makes: int = 0
    """The dimension of its weight that holds its filters: 1 of a transposed convolution, else 0."""
    whole_groups: bool = False
    """A grouped convolution that loses whole groups, not equal offsets in each."""
    follows: bool = False
    """Depthwise: its filters follow the channels that it reads instead of making new ones."""
    positions: int = 0
    """How often its weight is applied to one sample, over all its calls: positions * weights are its MACs."""
    shortcut: bool = False
    """On the path with strictly fewer convolutions of two that meet in an addition."""

    @property
    def name(self) -> str:
        """The module that owns its weight, or the parameter that a functional call reads."""
        return self.weight.removesuffix(".weight")

    @property
    def convolves(self) -> bool:
        return self.kind != LINEAR


@dataclass
class Unfollowed:
    """A convolution or matrix product whose weight or input cannot be followed: it counts, and stays as it is."""

    name: str
    """The module that called it."""
    kind: str
    after: int
    """How many layers ran before it."""
    macs: int = 0
    """Multiply-adds for one sample, over all its calls."""
    weight = ""
    shortcut = False
    follows = False

    @property
    def convolves(self) -> bool:
        return self.kind != LINEAR


@dataclass
class Operation:
    """One ATen call: how labels lay in what it read and in what it made."""

    name: str
    module: str
    arguments: tuple[Any, ...]
    """What is no tensor among its arguments, in order."""
    reads: tuple[Layout | None, ...]
    makes: Layouts
    decisions: tuple[int, ...] = ()
    """What its rule decided from shapes."""
    labels: int = 0
    """How many labels there were after it."""
    idle: bool = False
    """It makes what it reads, as far as labels go, and unites nothing: an activation, a dropout."""

    def __str__(self) -> str:
        return f"{self.name} in {self.module or 'the network itself'}"


@dataclass
class Trace:
    """What a run on labels saw."""

    labels: Labels
    axes: Axes
    tensors: dict[str, Layout] = field(default_factory=dict)
    """How these labels lie in every parameter and buffer."""
    operations: list[Operation] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    """By weight, in order of execution."""
    consumers: set[tuple[str, int]] = field(default_factory=set)
    """(tensor, dimension) pairs along which a layer reads the channels of its input."""
    called: set[str] = field(default_factory=set)
    leaving: list[Tensor] = field(default_factory=list)
    """Labels that reach the network's output."""
    unfollowed: dict[str, Unfollowed] = field(default_factory=dict)
    """By module, in order of execution."""
    device: str = "meta"
    """Where it ran: on the CPU only if the network does not run on meta."""
    modes: tuple[int, int] = (0, 0)
    """How many operations ran in eval and in train mode, one after the other."""

    trains_alike: bool = False
    """Whether training did to labels what evaluation did (no auxiliary heads); every replay asks."""


def work(operations: Sequence[Operation]) -> list[tuple[Any, ...]]:
    """What operations do besides what dropout and BatchNorm's statistics add in training."""
    return [
        (each.name, each.module, *(() if "batch_norm" in each.name else each.arguments), each.makes[0].shape)
        for each in operations
        if not each.idle and each.makes[0] is not None
    ]
