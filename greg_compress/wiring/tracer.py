"""The dispatch mode that carries labels through every ATen call; what a call does is in :mod:`.rules`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from greg_compress.wiring.layout import Layout, Layouts, compact
from greg_compress.wiring.record import Layer, Operation, Trace, Unfollowed
from greg_compress.wiring.skeleton import BATCH


class Tracer(TorchDispatchMode):
    """Carries labels through every ATen call of one run, by the rules."""

    def __init__(
        self, result: Trace, count: bool, apply: Callable[..., Layouts], scalars: Callable[..., tuple[str, ...]]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.result = result
        self.count = count
        self._apply, self._scalars = apply, scalars
        self.module = ""
        self.failed_at = ""
        """The operation, if any, and the module in which the run broke off."""
        # Tensors are held, since the id of a freed one is used again.
        self._known: dict[int, tuple[Tensor, Layout | None]] = {}
        # Which convolutions led to a tensor, one bit each; bit 0 is the network's input.
        self._ancestors: dict[int, int] = {}
        self._mark = 0
        self._input: Tensor | None = None
        self.positional: set[int] = set()
        """Constants of which the order of the entries matters."""

    def remember(self, tensor: Tensor, layout: Layout | None) -> None:
        # A scalar has no dimension that could be cut: to the rules it is a constant.
        self._known[id(tensor)] = (tensor, layout if layout and layout.planes else None)

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
            out = func(*args, **kwargs)
        except Exception:
            self.failed_at = f"{func} in {self.where}"
            raise
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        united = len(self.result.labels.unions)
        layouts = self._apply(self, func, args, kwargs, read, made)
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
                tuple((left, right) for left, right, _ in self.result.labels.unions[united:]),
                self._scalars(func, args, kwargs) if any(map(self.layout, read)) else (),
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

    def layer(self, layer: Layer) -> None:
        """Record a call of a layer, with its positions for a whole batch."""
        known = self.result.layers.setdefault(layer.weight, replace(layer, positions=0))
        if self.count:
            known.positions += layer.positions // BATCH
        if layer.convolves:
            self._mark = 2 << list(self.result.layers).index(layer.weight)

    def unfollowed(self, kind: str, macs: int) -> None:
        """Record a layer whose channels cannot be followed, with its multiply-adds for a whole batch."""
        known = self.result.unfollowed.setdefault(self.module, Unfollowed(self.module, kind, len(self.result.layers)))
        if self.count:
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
