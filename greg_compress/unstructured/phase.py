"""The paper's phase on single weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from greg_compress.criteria.weights import weight_scores
from greg_compress.options.penalty import Method
from greg_compress.penalty.growing import GrowingPenalty
from greg_compress.penalty.schedule import GrowthSchedule
from greg_compress.penalty.targets import Aim, require_trained
from greg_compress.penalty.weights import all_of, picked_by
from greg_compress.reporting import Reporter
from greg_compress.unstructured.hold import Hold
from greg_compress.unstructured.layers import to_json
from greg_compress.unstructured.masks import Counts, Masks, counts_of, differing, least


class WeightPhase:
    """GReg-1 or GReg-2 on one network's weights: regularizer of the loop, and what it decided in the end.

    Args:
        gone: what went in earlier rounds; held at zero, and picked again.
        first: GReg-1's picks; empty for a run that is resumed, which knows them.
        compares: whether it makes sense to count picks that magnitude would not have made.

    Raises:
        RequestError: weights that are to shrink are frozen.
    """

    def __init__(
        self,
        network: nn.Module,
        gone: Masks,
        counts: Counts,
        schedule: GrowthSchedule,
        method: Method,
        ui: Reporter,
        first: Masks,
        compares: bool = True,
    ) -> None:
        self._network, self._gone, self._counts = network, gone, counts
        self._schedule, self._method, self._ui = schedule, method, ui
        self._compares = compares
        self._hold = Hold(network, gone)
        before = counts_of(gone)
        require_trained(network, all_of(network, [name for name in counts if counts[name] > before.get(name, 0)]))
        self.iterations = schedule.iterations
        self._begin(dict(first) or self._least())

    def _begin(self, first: dict[str, Tensor]) -> None:
        """Take the picks before the first iteration: GReg-1's own; GReg-2's are compared with them."""
        self._first = first
        if self._method is Method.GREG_1:
            self._penalty = GrowingPenalty(self._schedule, self._aim(first, recover=False))
        else:
            losing = [name for name, mask in self._new(first).items() if mask.any()]
            self._penalty = GrowingPenalty(self._schedule, all_of(self._network, losing), self._pick)

    def _least(self) -> dict[str, Tensor]:
        return least(self._counts, self._gone, weight_scores(self._network, self._counts))

    def _new(self, picks: Masks) -> dict[str, Tensor]:
        """The picks of this round."""
        return {name: mask & ~self._gone[name] if name in self._gone else mask for name, mask in picks.items()}

    def _aim(self, picks: Masks, recover: bool) -> Aim:
        return picked_by(self._network, {n: (new, ~picks[n]) for n, new in self._new(picks).items()}, recover)

    def _pick(self, saved: dict[str, Any] | None) -> tuple[dict[str, Any], Aim]:
        if saved is None:
            picks = self._least()
            number, differs = sum(self._counts.values()), differing(picks, self._first)
            self._ui.note(
                f"picked {number:,} weights, {differs:,} of which magnitude would not have picked at the start"
            )
        else:
            picks = self._checked(saved)
        return picks, self._aim(picks, recover=True)

    def _checked(self, picks: dict[str, Any]) -> dict[str, Tensor]:
        """Masks of unfinished work, which must be of as many weights as were counted."""
        shapes = {name: mask.shape for name, mask in self._first.items()}
        if {name: mask.shape for name, mask in picks.items()} != shapes or counts_of(picks) != self._counts:
            raise ValueError("masks of other weights than at the start")
        return {name: mask.bool() for name, mask in picks.items()}

    def conclude(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Plan and masks of the finished state, and how many magnitude would not have picked at the start."""
        picks = self._penalty.picks or self._first
        plan = to_json(self._network, counts_of(picks))
        return {"plan": plan, "masks": picks}, {
            "l1_differs": differing(picks, self._first) if self._compares else None,
            **self._schedule.figures(),
        }

    most_recorded = 0

    def record(self) -> dict[str, Any]:
        """Nothing: single weights have no norms to draw."""
        return {}

    # The regularizer.

    @property
    def regularizer(self) -> WeightPhase:
        return self

    @property
    def finished(self) -> bool:
        return self._penalty.finished

    @property
    def phase(self) -> str:
        return self._penalty.phase

    def add_gradients(self) -> None:
        self._penalty.add_gradients()
        self._hold.add_gradients()

    def status(self) -> dict[str, float]:
        return self._penalty.status()

    def state_dict(self) -> dict[str, Any]:
        return {"first": self._first, "penalty": self._penalty.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ValueError: it holds other masks, or counts that do not belong together.
        """
        self._begin(self._checked(state["first"]))
        self._penalty.load_state_dict(state["penalty"])
