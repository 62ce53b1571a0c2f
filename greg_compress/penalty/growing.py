"""The state machine of GReg-1 and GReg-2. Handed to the training loop as its regularizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from greg_compress.penalty.fused import Answer, Pull, separation
from greg_compress.penalty.schedule import GrowthSchedule
from greg_compress.penalty.targets import Aim
from greg_compress.penalty.witness import Witness

RATIO_DECAY = 0.9
MEASURE_EVERY = 10
"""Updates between two looks at the ratios, where nothing but the display asks for them."""


class GrowingPenalty:
    """Parts: *growing* (GReg-2 alone: on all units, until tau'), *pushing* the picked until tau, *stabilizing*.

    Args:
        aim: what is pulled at from the first iteration on.
        pick: for GReg-2: called once lambda has passed tau'; it decides which units go, or repeats a decision that
            was saved. It returns that decision as plain data that can be saved (JSON values and tensors on the CPU),
            and what is pulled at from then on.
        witness: writes down what becomes of the units' norms.
    """

    def __init__(
        self,
        schedule: GrowthSchedule,
        aim: Aim,
        pick: Callable[[dict[str, Any] | None], tuple[dict[str, Any], Aim]] | None = None,
        witness: Witness | None = None,
    ) -> None:
        if (pick is None) != (schedule.picking is None):
            raise ValueError("a schedule with picking needs something that picks, and no other does")
        self.schedule = schedule
        self._pick = pick
        self._witness = witness
        self._iteration = 0
        self._growths = 0
        self._updates = 0
        self._stabilizing_since: int | None = None
        self._picks: dict[str, Any] | None = None
        self._ratios: Tensor | None = None
        self._separated: Answer | None = None
        """Whether every group's ratio had reached the limit at the last update."""
        self._take(aim)

    @property
    def strength(self) -> float:
        """lambda of the picked units; before GReg-2 has picked, of all."""
        grown = self._growths * self.schedule.picking.delta if self.schedule.picking else 0.0
        return grown + self._updates * self.schedule.delta

    @property
    def phase(self) -> str:
        if self._pick is not None and self._picks is None:
            return "growing"
        return "pushing" if self._stabilizing_since is None else "stabilizing"

    @property
    def finished(self) -> bool:
        since = self._stabilizing_since
        return since is not None and self._iteration - since >= self.schedule.stabilize

    @property
    def picks(self) -> dict[str, Any] | None:
        """GReg-2's own decision, as plain data; None before it is made, and for GReg-1."""
        return self._picks

    def add_gradients(self) -> None:
        """Grow lambda if it is due, and add lambda * w to the gradients of the units.

        It never waits for the device, but for the one time that GReg-2 picks, and where the witness looks.
        """
        if self._witness is not None:
            self._witness.look(self._iteration, self.strength)
        if self._stabilizing_since is None and self._iteration % self.schedule.update_every == 0:
            self._update()
        self._pull.add(self.strength)
        self._iteration += 1
        if self._stabilizing_since is None and self._updates >= self.schedule.updates:
            self._stabilizing_since = self._iteration

    def _update(self) -> None:
        """Lines 6 to 11 of Algorithm 1."""
        if self.schedule.picking is not None and self._picks is None:
            if self._growths < self.schedule.picking.updates:
                self._growths += 1
                return
            self._decide(None)
        if self._separated:
            self._stabilizing_since = self._iteration
            return
        self._updates += 1
        if self.schedule.stop_ratio is not None or (self._updates - 1) % MEASURE_EVERY == 0:
            self._measure()

    def _decide(self, saved: dict[str, Any] | None) -> None:
        assert self._pick is not None
        picks, aim = self._pick(saved)
        self._take(aim)
        self._picks = picks

    def _take(self, aim: Aim) -> None:
        self._gauges = aim.gauges
        self._pull = Pull(aim.targets, self.schedule.picking.recover if self.schedule.picking else 0.0)
        self._separation = separation(aim.gauges)

    def _measure(self) -> None:
        if self._separation is not None:
            now = self._separation.ratios()
            old = now if self._ratios is None else self._ratios
            self._move(RATIO_DECAY * old + (1 - RATIO_DECAY) * now)

    def _move(self, ratios: Tensor) -> None:
        self._ratios = ratios
        limit = self.schedule.stop_ratio
        self._separated = None if limit is None else Answer((ratios >= limit).all())

    def record(self) -> dict[str, Any] | None:
        """What the witness saw until now, which is when the phase ends."""
        return None if self._witness is None else self._witness.record(self._iteration, self.strength)

    def status(self) -> dict[str, float]:
        measured = {} if self._ratios is None else {"weakest_ratio": float(self._ratios.min())}
        return {"lambda": self.strength, **measured}

    def state_dict(self) -> dict[str, Any]:
        return {
            "iteration": self._iteration,
            "growths": self._growths,
            "updates": self._updates,
            "stabilizing_since": self._stabilizing_since,
            "picks": self._picks,
            "ratios": self._ratios,
            "witness": None if self._witness is None else self._witness.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ValueError: it holds other gauges, or counts or norms that do not belong together.
        """
        iteration, growths, updates = (state[name] for name in ("iteration", "growths", "updates"))
        since = state["stabilizing_since"]
        if not all(type(number) is int and number >= 0 for number in (iteration, growths, updates, since or 0)):
            raise ValueError("impossible counts")
        until = iteration if since is None else since
        if not until <= iteration or growths + updates != -(-until // self.schedule.update_every):
            raise ValueError(f"{growths + updates} updates in {iteration} iterations")
        most = self.schedule.picking.updates if self.schedule.picking else 0
        picked = state["picks"] is not None
        if growths > most or (updates and growths < most) or picked != bool(most and updates):
            raise ValueError(f"picks that do not belong to {growths} and {updates} updates")
        if state["picks"] is not None:
            self._decide(state["picks"])
        self._iteration, self._growths, self._updates = iteration, growths, updates
        self._stabilizing_since = since
        ratios, gauges = state["ratios"], self._gauges
        if ratios is not None and (tuple(ratios.shape) != (len(gauges),) or not bool((ratios >= 0).all())):
            raise ValueError(f"{len(gauges)} groups, but other moving ratios")
        self._ratios = self._separated = None
        if ratios is not None:
            self._move(ratios.to(gauges[0].weight.device))
        if self._witness is not None and state.get("witness") is not None:  # older files hold none
            self._witness.load_state_dict(state["witness"])
