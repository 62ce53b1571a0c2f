"""Cut a copy of a network and prove it, twice: the one way that `prune` and the Python interface take."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from greg_compress.cost import Cost
from greg_compress.errors import CheckFailed
from greg_compress.surgery.cut import Form, cut
from greg_compress.surgery.effect import cost_of, reduction
from greg_compress.surgery.folding import Folding, folded
from greg_compress.surgery.masking import SelfCheck, masked_equals_sliced
from greg_compress.surgery.replay import Difference, first_difference
from greg_compress.wiring.groups import Wiring


@dataclass(frozen=True)
class Pruned:
    """A network without the units that went, and what that comes to."""

    model: nn.Module
    form: Form
    """What it has that its factory does not make."""
    before: Cost
    """Parameters, multiply-adds of one sample and bytes of the network that was cut."""
    after: Cost
    check: SelfCheck
    """Masked against sliced, in float64."""
    folding: Folding | None = None
    """What became of the constants that removed units still made; None where nobody asked."""

    @property
    def macs_speedup(self) -> float:
        """How many times fewer multiply-adds; never time."""
        return float(reduction(self.before, self.after)["macs_speedup"])

    @property
    def sparsity(self) -> float:
        """Percent of the parameters that are gone."""
        return float(reduction(self.before, self.after)["sparsity"])

    def __str__(self) -> str:
        return (
            f"{self.before.params:,} -> {self.after.params:,} parameters, {self.before.macs:,} -> {self.after.macs:,}"
            f" MACs ({self.macs_speedup:.2f}x fewer); masked equals sliced to {self.check.max_rel_error:.1e}"
        )


def pruned(
    model: nn.Module,
    wiring: Wiring,
    removed: Tensor,
    *,
    fold: bool,
    recalibrate: Callable[[nn.Module], None] | None = None,
) -> Pruned:
    """Cut units out of a copy; `model` stays as it is.

    Args:
        removed: classes of the units that go (:meth:`Plan.removed_units`).
        fold: whether their readers are given what they still make, where it is constant; idle with `recalibrate`.
        recalibrate: measures the cut network's statistics anew.

    Raises:
        CheckFailed: the cut network would read other channels than the dense one did, or cannot be run in float64.
            That masked equals sliced is the caller's to require.
    """
    if (difference := first_difference(model, wiring, removed)) is not None:
        raise CheckFailed(f"this plan cannot be cut: {difference.reason}; {_way_out(wiring, removed, difference)}")
    small = copy.deepcopy(model)
    form = cut(small, wiring, removed)
    check = masked_equals_sliced(model, small, wiring, removed)
    folding = None
    if recalibrate is not None:
        recalibrate(small)
    elif fold:
        folding = folded(model, small, wiring, removed)
        small = folding.network
        form.shapes.update(folding.biases)
    return Pruned(small, form, cost_of(model, wiring), cost_of(small, wiring), check, folding)


def _way_out(wiring: Wiring, removed: Tensor, difference: Difference) -> str:
    """What to skip, when trial cuts held and this very plan does not."""
    losing = [group for group in wiring.groups if bool(torch.isin(group.units, removed).any())]
    passing = [group.name for group in losing if bool(torch.isin(group.units, difference.units).any())]
    names = " and ".join(dict.fromkeys(name.partition("#")[0] for name in passing))
    return f"it would do without {names} (see --skip)" if names else "please report this network"
