"""What any plan would leave of a network, counted on its labels: no weights are touched and nothing runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from greg_compress.cost import Cost
from greg_compress.wiring.groups import Wiring


class Estimate:
    """Parameters, MACs and bytes after a cut, in milliseconds; as `surgery.effect.cost_after` measures them.

    A tensor keeps the product of what survives of each of its dimensions, and a layer's MACs are its weight's
    elements times the positions at which it is applied. What cannot be followed keeps its MACs.
    """

    def __init__(self, model: nn.Module, wiring: Wiring) -> None:
        parameters = dict(model.named_parameters())  # of several names of a tied tensor, the first
        tensors = {**parameters, **dict(model.named_buffers())}
        positions: dict[int, int] = {}
        for layer in wiring.layers:
            weight = id(model.get_parameter(layer.weight))
            positions[weight] = positions.get(weight, 0) + layer.positions
        dims = [(at, dim, units) for at, name in enumerate(tensors) for dim, units in enumerate(wiring.classes[name])]
        self._labels = len(wiring.trace.labels)
        self._units = torch.cat([units for _, _, units in dims])
        self._rows = torch.repeat_interleave(torch.tensor([units.numel() for _, _, units in dims]))
        self._place = torch.tensor([[at for at, _, _ in dims], [dim for _, dim, _ in dims]])
        sizes = torch.ones(len(tensors), 1 + max(dim for _, dim, _ in dims), dtype=torch.int64)
        sizes[*self._place] = torch.tensor([units.numel() for _, _, units in dims])
        self._sizes = sizes
        self._positions = torch.tensor([positions.get(id(tensor), 0) for tensor in tensors.values()])
        self._bytes = torch.tensor([tensor.element_size() for tensor in tensors.values()])
        self._parameters = len(parameters)
        self._unfollowed = sum(layer.macs for layer in wiring.trace.unfollowed.values())

    def after(self, removed: Tensor) -> Cost:
        """The cost without the units `removed` (classes)."""
        gone = torch.zeros(self._labels, dtype=torch.bool)
        gone[removed] = True
        lost = torch.bincount(self._rows[gone[self._units]], minlength=self._place.shape[1])
        sizes = self._sizes.clone()
        sizes[*self._place] -= lost
        elements = sizes.prod(dim=1)
        return Cost(
            params=int(elements[: self._parameters].sum()),
            macs=int((elements * self._positions).sum()) + self._unfollowed,
            size=int((elements * self._bytes).sum()),
        )
