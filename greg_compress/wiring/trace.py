"""Run a network on labels: no arithmetic happens, and any Python control flow just works.

The model runs on the `meta` device under a TorchDispatchMode, in eval and in train mode (auxiliary heads
read the trunk in training only), with batch 2 (batch 1 makes `squeeze()` and `view(-1)` lie).
`torch.func.functionalize` turns in-place writes and views into plain data movement.
Start reading at :func:`trace`; what one operation does to labels is in :mod:`.rules`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from greg_compress.errors import TraceError
from greg_compress.wiring.labels import Labels
from greg_compress.wiring.layout import Layout, compact, spread

BATCH = 2
Axes = dict[str, tuple[Tensor, ...]]
"""For every parameter and buffer, the labels of each of its dimensions."""


@dataclass
class Layer:
    """A convolution or matrix product with a parameter, as it ran."""

    weight: str
    module: str
    positions: int = 0
    """How often its weight is applied to one sample, over all its calls: positions * weights are its MACs."""
    follows: bool = False
    """Depthwise: its filters follow the channels that it reads instead of making new ones."""
    shortcut: bool = False
    """On the path with strictly fewer convolutions of two that meet in an addition."""


@dataclass(frozen=True)
class Operation:
    """One ATen call: how labels lay in what it read and in what it made."""

    name: str
    module: str
    reads: tuple[Tensor, ...]
    makes: tuple[tuple[Tensor, ...], ...]
    """The planes of each tensor made; none for a constant."""

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
    failure: str | None = None
    """Why the run broke off, when it did."""
    followers: frozenset[str] | None = None
    """In a replay, the weights that followed in the dense run: a cut may leave a grouped convolution one
    channel in each group, which makes it look depthwise."""

    def replay(self, axes: Axes) -> Trace:
        """An empty trace for a cut network whose tensors carry `axes`, counting on from the same label."""
        start = 1 + sum(labels.numel() for tensor in self.axes.values() for labels in tensor)
        followers = frozenset(weight for weight, layer in self.layers.items() if layer.follows)
        return Trace(Labels(start), axes, followers=followers)


def skeleton(model: nn.Module) -> nn.Module:
    """Return a deep copy of `model` whose parameters and buffers lie on the meta device (no memory)."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        meta = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(meta, requires_grad=False) if isinstance(tensor, nn.Parameter) else meta
    return copy.deepcopy(model, memo)


def trace(bones: nn.Module, input_shape: Sequence[int], seed: Trace | None = None) -> Trace:
    """Run a skeleton on labels, in eval and in train mode.

    Args:
        bones: what :func:`skeleton` returned; its training flags are changed.
        input_shape: shape of one sample, (C, H, W) for images.
        seed: a trace whose `axes` these tensors carry (a cut network proves itself with the labels that
            it kept). Without it every index of every dimension gets a fresh label.

    Raises:
        TraceError: the network cannot run on the meta device (only without `seed`; with it, the failure
            is recorded, since a cut network that breaks is an answer).
    """
    result = seed or Trace(Labels(), {})
    if seed is None:
        for name, tensor in [*bones.named_parameters(), *bones.named_buffers()]:
            result.axes[name] = tuple(result.labels.new(size) for size in tensor.shape)
    for training in (False, True):
        bones.train(training)
        try:
            _run(bones, input_shape, result, count=not training)
        except Exception as error:
            # Whatever user code raises on meta tensors or after a wrong cut: it is reported, not guessed at.
            result.failure = _first_line(error)
            if seed is None:
                raise _cannot_run(input_shape, error) from error
            break
    bones.eval()
    return result


def _run(bones: nn.Module, input_shape: Sequence[int], result: Trace, count: bool) -> None:
    parameters, buffers = dict(bones.named_parameters()), dict(bones.named_buffers())
    example = example_input(bones, input_shape)
    tracer = Tracer(result, count)
    for name, tensor in [*parameters.items(), *buffers.items()]:
        planes = tuple(spread(labels, tensor.shape, dim) for dim, labels in enumerate(result.axes[name]))
        tracer.remember(tensor, Layout(planes, name))
    tracer.remember_input(example)

    def call(parameters: Any, buffers: Any, example: Tensor) -> Any:
        return torch.func.functional_call(bones, (parameters, buffers), (example,))

    with torch.no_grad(), tracer.watching(bones), tracer:
        output = torch.func.functionalize(call, remove="mutations_and_views")(parameters, buffers, example)
    for tensor in tree_leaves(output):
        if isinstance(tensor, Tensor) and (layout := tracer.layout(tensor)):
            for plane in layout.planes:
                result.labels.freeze(plane, "it is the network's output")


class Tracer(TorchDispatchMode):
    """Carries labels through every ATen call of one run, by the rules."""

    def __init__(self, result: Trace, count: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.result = result
        self.count = count
        self.module = ""
        # Tensors are held, since the id of a freed one is used again.
        self._known: dict[int, tuple[Tensor, Layout | None]] = {}
        # Which layers led to a tensor, one bit each; bit 0 is the network's input.
        self._ancestors: dict[int, int] = {}
        self._mark = 0

    def remember(self, tensor: Tensor, layout: Layout | None) -> None:
        # A scalar has no dimension that could be cut: to the rules it is a constant.
        self._known[id(tensor)] = (tensor, layout if layout and layout.planes else None)

    def remember_input(self, tensor: Tensor) -> None:
        label = self.result.labels.new(1)
        self.result.labels.freeze(label, "it is the network's input")
        self.remember(tensor, Layout((label[0].expand(tensor.shape),)))
        self._ancestors[id(tensor)] = 1

    def layout(self, tensor: Tensor) -> Layout | None:
        """How labels lie in `tensor`; None for constants, which carry none."""
        return self._known.get(id(tensor), (tensor, None))[1]

    @contextmanager
    def watching(self, bones: nn.Module) -> Iterator[None]:
        """Know which module an operation is called from."""
        stack = [""]

        def enter(name: str) -> None:
            stack.append(name)
            self.module = name
            self.result.called.add(name)

        def leave() -> None:
            stack.pop()
            self.module = stack[-1]

        handles = []
        for name, module in bones.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
            handles.append(module.register_forward_hook(lambda *_: leave(), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from greg_compress.wiring import rules

        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        layouts = rules.apply(self, func, args, kwargs, read, made)
        self._trace_ancestors(read, made)
        for tensor, layout in zip(made, layouts, strict=True):
            if layout is not None:
                layout = Layout(tuple(compact(plane) for plane in layout.planes), layout.origin)
            self.remember(tensor, layout)
        self.result.operations.append(
            Operation(
                str(func),
                self.module,
                tuple(plane for tensor in read for plane in self._planes(tensor)),
                tuple(self._planes(tensor) for tensor in made),
            )
        )
        return out

    def _planes(self, tensor: Tensor) -> tuple[Tensor, ...]:
        layout = self.layout(tensor)
        return layout.planes if layout else ()

    def _trace_ancestors(self, read: list[Tensor], made: list[Tensor]) -> None:
        mask, self._mark = self._mark, 0
        for tensor in read:
            mask |= self._ancestors.get(id(tensor), 0)
        for tensor in made:
            self._ancestors[id(tensor)] = mask

    # What the rules report.

    def layer(self, weight: str, made: Tensor, *, follows: bool = False) -> None:
        """Record that the layer with parameter `weight` made `made`, with its channels in dimension 1."""
        layers = self.result.layers
        layer = layers.setdefault(weight, Layer(weight, self.module, follows=follows))
        if self.count:
            layer.positions += made.numel() // made.shape[1] // BATCH
        self._mark = 2 << list(layers).index(weight)

    def addition(self, left: Tensor, right: Tensor) -> None:
        """Mark shortcuts: of two paths from one tensor, the layers on the one with fewer."""
        a, b = self._ancestors.get(id(left), 0), self._ancestors.get(id(right), 0)
        if not a & b:
            return
        only_a, only_b = a & ~b, b & ~a
        fewer = min(only_a, only_b, key=int.bit_count)
        if only_a.bit_count() != only_b.bit_count():
            for position, layer in enumerate(self.result.layers.values()):
                layer.shortcut |= bool(fewer >> position + 1 & 1)


def output_shapes(bones: nn.Module, input_shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The shapes that a skeleton returns for a batch, without any arithmetic.

    Raises:
        TraceError: it does not run with this input.
    """
    try:
        with torch.no_grad():
            output = bones.eval()(example_input(bones, input_shape))
    except Exception as error:
        raise _cannot_run(input_shape, error) from error
    return [tuple(leaf.shape) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def example_input(bones: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """A batch on the meta device, of the dtype of the skeleton's weights."""
    floats = (tensor.dtype for tensor in bones.parameters() if tensor.is_floating_point())
    return torch.empty((BATCH, *input_shape), device="meta", dtype=next(floats, torch.float32))


def _cannot_run(input_shape: Sequence[int], error: Exception) -> TraceError:
    return TraceError(
        f"the network does not run with input {'x'.join(map(str, input_shape))} ({_first_line(error)});"
        " check --input-shape"
    )


def _first_line(error: Exception) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
