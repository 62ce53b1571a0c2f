"""The paper's phase on the units of one network: the one way that `regularize` and the Python interface take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from greg_compress.criteria.scores import Scores
from greg_compress.options.penalty import Penalize
from greg_compress.penalty.growing import GrowingPenalty
from greg_compress.penalty.schedule import GrowthSchedule
from greg_compress.penalty.targets import Aim, Units, require_trained
from greg_compress.penalty.witness import Witness
from greg_compress.selection.plan import Plan, picks_from_json
from greg_compress.wiring.groups import Wiring


class UnitPhase:
    """What is pulled at, when, and which units go in the end.

    Args:
        start: a decided plan. GReg-1 (a schedule without picking) removes its picks, GReg-2 takes its counts alone.
        note: hears what GReg-2 picked.
        decays: the weight decay of each penalised parameter, which its kept rows recover with; without it those of
            all recover as the schedule says.

    Raises:
        RequestError: a parameter that is to shrink is frozen.
    """

    def __init__(
        self,
        model: nn.Module,
        wiring: Wiring,
        start: Plan,
        schedule: GrowthSchedule,
        penalize: Penalize,
        note: Callable[[str], None] = lambda _: None,
        witness: Witness | None = None,
        decays: Mapping[nn.Parameter, float] | None = None,
    ) -> None:
        self.start = start
        self._model = model
        self._wiring = wiring
        self._note = note
        self._units = Units(model, wiring, penalize, decays)
        require_trained(model, self._units.all_of(start))
        if schedule.picking is None:
            aim = self._units.picked_by(start, recover=False)
            self.penalty = GrowingPenalty(schedule, aim, witness=witness)
        else:
            self.penalty = GrowingPenalty(schedule, self._units.all_of(start), self._pick, witness)

    def _pick(self, saved: dict[str, Any] | None) -> tuple[dict[str, Any], Aim]:
        if saved is None:
            plan = self.start.decide(Scores(self._model, self._wiring))
            units = sum(share.channels - share.kept for share in plan.shares.values())
            differs = plan.differs_from(self.start)
            self._note(f"picked {units} units, {differs} of which L1 would not have picked at the start")
        else:
            plan = picks_from_json(saved, self._wiring)
            if plan.counts != self.start.counts:
                raise ValueError("picks of other counts than at the start")
        return plan.to_json(), self._units.picked_by(plan, recover=True)

    @property
    def picks(self) -> dict[str, Any]:
        """The plan so far, as plain data: GReg-2's own once it has picked."""
        return self.penalty.picks or self.start.to_json()
