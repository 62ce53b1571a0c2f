"""Labels: one integer for every index of every dimension of every parameter and buffer.

Labels that have to live or die together are united. Unions are only recorded while the network runs;
the classes are found once at the end, vectorised, so that a network of 100,000 channels costs
milliseconds.
"""

from __future__ import annotations

import torch
from torch import Tensor

NONE = 0
"""The label of an element that belongs to no channel: a constant, or the zeros of a padding."""


class Labels:
    """A growing set of labels, the unions between them and the reasons why some may not be cut."""

    def __init__(self, start: int = NONE + 1) -> None:
        self._count = start
        self.unions: list[tuple[Tensor, Tensor, bool]] = []
        """Both sides of every union, and whether an addition (or the like) made it."""
        self._frozen: list[tuple[Tensor, str]] = []

    def __len__(self) -> int:
        return self._count

    def copy(self) -> Labels:
        """Labels that go on from these without changing them."""
        other = Labels(self._count)
        other.unions, other._frozen = list(self.unions), list(self._frozen)
        return other

    def new(self, size: int) -> Tensor:
        """Return `size` fresh labels, int64 of shape (size,)."""
        start = self._count
        self._count += size
        return torch.arange(start, self._count)

    def unite(self, left: Tensor, right: Tensor, *, couples: bool = False) -> None:
        """Say that `left` and `right`, broadcast against each other, stand for the same units.

        `couples` marks a union made by an addition (or another operation that needs both of its
        operands), in contrast to a layer that merely reads, scales or follows its input.
        Elements labelled NONE unite with nothing.
        """
        left, right = torch.broadcast_tensors(left, right)
        pairs = torch.stack([left.flatten(), right.flatten()])
        pairs = pairs[:, (pairs != NONE).all(dim=0) & (pairs[0] != pairs[1])]
        if pairs.numel():
            self.unions.append((pairs[0], pairs[1], couples))

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Forbid cutting `labels` (and with them their classes), for a reason in words."""
        labels = labels[labels != NONE].unique()
        if labels.numel():
            self._frozen.append((labels, reason))

    def classes(self, *, with_coupling: bool = True) -> Tensor:
        """Return the smallest label of each label's class, shape (len(self),).

        Without coupling, unions made by additions are left out: two sources that fall apart then are
        coupled (design section 1).
        """
        chosen = [union[:2] for union in self.unions if with_coupling or not union[2]]
        root = torch.arange(self._count)
        if not chosen:
            return root
        left = torch.cat([pair[0] for pair in chosen])
        right = torch.cat([pair[1] for pair in chosen])
        # Connected components by hooking and pointer jumping: a few rounds whatever the depth.
        while True:
            a, b = root[left], root[right]
            apart = a != b
            if not apart.any():
                return root
            low, high = torch.minimum(a, b)[apart], torch.maximum(a, b)[apart]
            root.scatter_reduce_(0, high, low, reduce="amin")
            while not torch.equal(root[root], root):
                root = root[root]

    def reasons(self, classes: Tensor) -> dict[int, str]:
        """Map each frozen class (its root label) to the first reason that was given for it."""
        found: dict[int, str] = {}
        for labels, reason in self._frozen:
            for root in classes[labels].unique().tolist():
                found.setdefault(root, reason)
        return found
