"""One ATen call, as the rules see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greg_compress.wiring.labels import NONE
from greg_compress.wiring.layout import Layout, Layouts

if TYPE_CHECKING:
    from greg_compress.wiring.tracer import Tracer


@dataclass(frozen=True)
class Call:
    """One ATen call with everything that a rule needs."""

    tracer: Tracer
    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    read: list[Tensor]
    made: list[Tensor]

    def plane(self, tensor: Any) -> Tensor | None:
        """The one plane of an activation or vector; None for constants and for raw matrices."""
        layout = self.tracer.layout(tensor) if isinstance(tensor, Tensor) else None
        return layout.plane if layout else None

    def channels(self, tensor: Tensor, dim: int) -> Tensor | None:
        """Labels along `dim` of an activation, shape (channels,); NONE for a constant."""
        layout = self.tracer.layout(tensor)
        return torch.full((tensor.shape[dim],), NONE) if layout is None else layout.along(dim)

    def is_vector(self, tensor: Tensor | None) -> bool:
        """Whether a bias or statistic is a constant, a vector, or not there: anything that can be followed."""
        return tensor is None or self.tracer.layout(tensor) is None or self.plane(tensor) is not None

    def same(self, layout: Layout | None) -> Layouts:
        return [layout] * len(self.made)

    def opaque(self, why: str = "reads it, and its channels cannot be followed through that") -> Layouts:
        """Freeze what flows in; what comes out carries one new frozen label."""
        reason = f"{self.func} in {self.tracer.where} {why}"
        labels = self.tracer.result.labels
        for tensor in self.read:
            if layout := self.tracer.layout(tensor):
                for plane in layout.planes:
                    labels.freeze(plane, reason)
        label = labels.new(1)
        labels.freeze(label, reason)
        return [Layout((label[0].expand(tensor.shape),)) for tensor in self.made]
