"""What a run on labels leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from greg_compress.wiring.labels import Labels

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


@dataclass(frozen=True)
class Operation:
    """One ATen call: how labels lay in what it read and in what it made."""

    name: str
    module: str
    reads: tuple[Tensor, ...]
    makes: tuple[tuple[Tensor, ...], ...]
    """The planes of each tensor made; none for a constant."""
    unions: tuple[tuple[Tensor, Tensor], ...] = ()
    """The labels that it united."""
    scalars: tuple[str, ...] = ()
    """Numbers and words among its arguments that a cut must not change."""

    def __str__(self) -> str:
        return f"{self.name} in {self.module or 'the network itself'}"


@dataclass
class Trace:
    """What a run on labels saw."""

    labels: Labels
    axes: Axes
    operations: list[Operation] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    """By weight, in order of execution."""
    consumers: set[tuple[str, int]] = field(default_factory=set)
    """(tensor, dimension) pairs along which a layer reads the channels of its input."""
    called: set[str] = field(default_factory=set)
    leaving: list[Tensor] = field(default_factory=list)
    """Labels that reach the network's output."""
    failure: str | None = None
    """Why the run broke off, when it did."""
    unfollowed: dict[str, Unfollowed] = field(default_factory=dict)
    """By module, in order of execution."""
    decisions: list[int] = field(default_factory=list)
    """What rules decided from shapes, in order of execution."""
    device: str = "meta"
    """Where it ran: on the CPU only if the network does not run on meta."""
    script: tuple[int, ...] | None = None
    """In a replay, the dense run's decisions: a cut that leaves one channel must not change them."""

    def replay(self, axes: Axes) -> Trace:
        """An empty trace for a cut network whose tensors carry `axes`, counting on from the same label."""
        tensors = {id(dims): dims for dims in self.axes.values()}  # tied ones share their labels
        start = 1 + sum(labels.numel() for dims in tensors.values() for labels in dims)
        return Trace(Labels(start), axes, script=tuple(self.decisions))

    def decide(self, from_shapes: Callable[[], int]) -> int:
        """A decision that shapes make in a dense network, and that a replay repeats."""
        at = len(self.decisions)
        chosen = self.script[at] if self.script is not None and at < len(self.script) else from_shapes()
        self.decisions.append(chosen)
        return chosen
