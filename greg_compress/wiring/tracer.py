"""The dispatch mode that carries labels through every ATen call; what a call does is in :mod:`.rules`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from greg_compress.wiring.layout import Layout, Layouts
from greg_compress.wiring.on_meta import made_on_meta
from greg_compress.wiring.record import Layer, Operation, Trace, Unfollowed
from greg_compress.wiring.skeleton import BATCH, named_tensors


class Tracer(TorchDispatchMode):
    """Carries labels through every ATen call of one run, by the rules.

    Args:
        result: where labels, layers and operations are recorded.
        follow: what an operation does to labels (:func:`.rules.apply`).
        count: whether layers are counted, for their MACs.
    """

    def __init__(self, result: Trace, follow: Callable[..., Layouts], count: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.result = result
        self.module = ""
        self.failed_at = ""
        """The operation, if any, and the module in which the run broke off."""
        self._follow, self._count = follow, count
        # Tensors are held, since the id of a freed one is used again.
        self._known: dict[int, tuple[Tensor, Layout | None]] = {}
        # Which convolutions led to a tensor, one bit each; bit 0 is the network's input.
        self._ancestors: dict[int, int] = {}
        self._mark = 0
        self._input: Tensor | None = None
        self._decisions: list[int] = []
        self.positional: set[int] = set()
        """Constants of which the order of the entries matters."""

    def remember(self, tensor: Tensor, layout: Layout | None) -> None:
        # A scalar has no dimension that could be cut: to the rules it is a constant.
        self._known[id(tensor)] = (tensor, layout if layout and layout.planes else None)

    def remember_tensors(self, bones: nn.Module) -> None:
        for name, tensor in reversed(list(named_tensors(bones))):  # a tied tensor goes by its first name
            self.remember(tensor, self.parameter(name))

    def parameter(self, name: str) -> Layout:
        """How labels lie in a parameter or buffer."""
        return self.result.tensors[name]

    def remember_input(self, tensor: Tensor) -> None:
        """All inputs carry one label: a layer may read several of them at once."""
        if self._input is None:
            self._input = self.result.labels.new(1)
            self.result.labels.freeze(self._input, "it is the network's input")
        self.remember(tensor, Layout((self._input[0].expand(tensor.shape),)))
        self._ancestors[id(tensor)] = 1

    def layout(self, tensor: Tensor) -> Layout | None:
        """How labels lie in `tensor`; None for constants, which carry none."""
        return self._known.get(id(tensor), (tensor, None))[1]

    def is_positional(self, tensor: Tensor) -> bool:
        """Whether a tensor is a constant of which the order matters; one from outside may hold anything."""
        unknown = id(tensor) not in self._known
        return tensor.numel() > 1 and self.layout(tensor) is None and (unknown or id(tensor) in self.positional)

    @property
    def where(self) -> str:
        return self.module or "the network itself"

    @contextmanager
    def watching(self, bones: nn.Module) -> Iterator[None]:
        """Know which module an operation is called from."""
        stack = [""]

        def enter(name: str) -> None:
            stack.append(name)
            self.module = name
            self.result.called.add(name)

        def leave() -> None:
            if sys.exc_info()[1] is not None and not self.failed_at:
                self.failed_at = f"in {self.where}"
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
        kwargs = kwargs or {}
        try:
            out = made_on_meta(func, args, kwargs)
            if out is None:
                out = func(*args, **kwargs)
        except Exception:
            self.failed_at = f"{func} in {self.where}"
            raise
        arguments: list[Any] = []
        read: list[Tensor] = []
        _sort(args, read, arguments)
        if kwargs:
            _sort(kwargs.values(), read, arguments)
        made: list[Tensor] = []
        _sort((out,), made, [])
        layouts = self.observe(func, args, kwargs, read, made, tuple(arguments))
        for tensor, layout in zip(made, layouts, strict=True):
            self.remember(tensor, layout)
        return out

    def observe(
        self, func: Any, args: Any, kwargs: Any, read: list[Tensor], made: list[Tensor], arguments: tuple[Any, ...]
    ) -> Layouts:
        """Follow a call by the rules, and record it."""
        labels = self.result.labels
        reads = tuple([self.layout(tensor) for tensor in read])
        unions, self._decisions = len(labels.unions), []
        layouts = self._follow(self, func, args, kwargs, read, made)
        self._trace_ancestors(read, made)
        idle = len(labels.unions) == unions and all(made is None or made in reads for made in layouts)
        self.result.operations.append(
            Operation(
                str(func), self.module, arguments, reads, layouts, tuple(self._decisions), len(labels), idle
            )
        )  # fmt: skip
        return layouts

    def decide(self, from_shapes: Callable[[], int]) -> int:
        """A decision that shapes make in a dense network, and that a replay repeats."""
        self._decisions.append(chosen := int(from_shapes()))
        return chosen

    def _trace_ancestors(self, read: list[Tensor], made: list[Tensor]) -> None:
        mask, self._mark = self._mark, 0
        for tensor in read:
            mask |= self._ancestors.get(id(tensor), 0)
        for tensor in made:
            self._ancestors[id(tensor)] = mask

    # What the rules report.

    def layer(self, layer: Layer) -> None:
        """Record a call of a layer, with its positions for a whole batch."""
        known = self.result.layers.setdefault(layer.weight, replace(layer, positions=0))
        if self._count:
            known.positions += layer.positions // BATCH
        if layer.convolves:
            self._mark = 2 << list(self.result.layers).index(layer.weight)

    def unfollowed(self, kind: str, macs: int) -> None:
        """Record a layer whose channels cannot be followed, with its multiply-adds for a whole batch."""
        known = self.result.unfollowed.setdefault(self.module, Unfollowed(self.module, kind, len(self.result.layers)))
        if self._count:
            known.macs += macs // BATCH

    def addition(self, left: Tensor, right: Tensor) -> None:
        """Mark shortcuts: of two paths from one tensor, the convolutions on the one with fewer."""
        a, b = self._ancestors.get(id(left), 0), self._ancestors.get(id(right), 0)
        if not a & b:
            return
        only_a, only_b = a & ~b, b & ~a
        fewer = min(only_a, only_b, key=int.bit_count)
        if only_a.bit_count() != only_b.bit_count():
            for position, layer in enumerate(self.result.layers.values()):
                layer.shortcut |= bool(fewer >> position + 1 & 1)


def _sort(values: Sequence[Any], tensors: list[Tensor], others: list[Any]) -> None:
    """Tell the tensors among the arguments of an ATen call, which nests lists at most, from all others."""
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            _sort(value, tensors, others)
        else:
            others.append(value)
