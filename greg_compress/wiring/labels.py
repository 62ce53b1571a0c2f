"""Labels: one integer for every index of every dimension of every parameter and buffer.

Labels that have to live or die together are united. Unions are only recorded while the network runs;
the classes are found once at the end, vectorised, so that a network of 100,000 channels costs
milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from greg_compress.wiring.layout import thin

NONE = 0
"""The label of an element that belongs to no channel: a constant, or the zeros of a padding."""


class Labels:
    """A growing set of labels, the unions between them and the reasons why some may not be cut."""

    def __init__(self, start: int = NONE + 1) -> None:
        self._count = start
        self.unions: list[tuple[Tensor, Tensor, bool]] = []
        """Both sides of every union, as they came, and whether an addition (or the like) made it."""
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

    def go_on_from(self, count: int) -> None:
        """Give the label `count` next, as another run did."""
        self._count = count

    def unite(self, left: Tensor, right: Tensor, *, couples: bool = False) -> None:
        """Say that `left` and `right`, broadcast against each other, stand for the same units.

        `couples` marks a union made by an addition (or another operation that needs both of its
        operands), in contrast to a layer that merely reads, scales or follows its input.
        Elements labelled NONE unite with nothing.
        """
        if left is not right:
            self.unions.append((left, right, couples))

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Forbid cutting `labels` (and with them their classes), for a reason in words."""
        (labels,) = thin(labels)
        labels = labels[labels != NONE].unique()
        if labels.numel():
            self._frozen.append((labels, reason))

    def classes(self) -> tuple[Tensor, Tensor]:
        """Return the smallest label of each label's class, shape (len(self),), with and without coupling.

        Without, unions made by additions are left out: two sources that fall apart then are coupled (design
        section 1).
        """
        loose = _joined(torch.arange(self._count), *pairs([union for union in self.unions if not union[2]]))
        return _joined(loose, *pairs([union for union in self.unions if union[2]])), loose

    def reasons(self, classes: Tensor) -> list[tuple[Tensor, str]]:
        """The frozen classes (their root labels), with the reasons in the order in which they were given."""
        return [(classes[labels].unique(), reason) for labels, reason in self._frozen]


def _joined(root: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Connected components by hooking and pointer jumping: a few rounds whatever the depth.

    Args:
        root: a label of each label's class so far, its own for a root.
    """
    root = root.clone()
    while True:
        a, b = root[left], root[right]
        apart = a != b
        if not apart.any():
            return root
        left, right = a[apart], b[apart]
        root.scatter_reduce_(0, torch.maximum(left, right), torch.minimum(left, right), reduce="amin")
        while not torch.equal(jumped := root[root], root):
            root = jumped


def pairs(unions: Sequence[tuple[Tensor, Tensor, bool]]) -> tuple[Tensor, Tensor]:
    """Both sides of unions as vectors, element by element, without those of NONE or of a label with itself."""
    nothing = torch.empty(0, dtype=torch.int64)
    both = [thin(*torch.broadcast_tensors(left, right)) for left, right, _ in unions]
    left = torch.cat([nothing, *(pair[0].reshape(-1) for pair in both)])
    right = torch.cat([nothing, *(pair[1].reshape(-1) for pair in both)])
    real = (left != NONE) & (right != NONE) & (left != right)
    return left[real], right[real]
