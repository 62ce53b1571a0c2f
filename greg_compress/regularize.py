"""Stage `regularize`: drive the units that lose to zero with a growing penalty (GReg-1 or GReg-2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from greg_compress.criteria.images import scoring_images
from greg_compress.criteria.loss import Batches
from greg_compress.criteria.scores import l1
from greg_compress.errors import InputError
from greg_compress.fit import normalization_of
from greg_compress.long_run import life
from greg_compress.long_run.job import Job
from greg_compress.long_run.teacher import Teacher
from greg_compress.options.criterion import L1
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.penalty import Method, PenaltyOptions
from greg_compress.options.selecting import Selection
from greg_compress.options.training import TeacherOptions, TrainingOptions
from greg_compress.penalty.growing import GrowingPenalty
from greg_compress.penalty.presets import PRESETS
from greg_compress.penalty.schedule import GrowthSchedule, fitted_schedule, resolve_schedule, scaled_schedule
from greg_compress.penalty.targets import Aim, Units
from greg_compress.penalty.witness import Witness
from greg_compress.preview import show_plan
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.selection.choose import by_l1, choose
from greg_compress.selection.plan import picks_from_json
from greg_compress.sources.dataset import Dataset
from greg_compress.state.format import State
from greg_compress.state.models import Opened, open_model
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.training.loop import Regularizer
from greg_compress.unstructured.layers import choose as choose_weights
from greg_compress.unstructured.layers import from_json, require_kind, show_counts, to_json
from greg_compress.unstructured.masks import counts_of
from greg_compress.unstructured.phase import WeightPhase
from greg_compress.wiring.groups import find_groups


def run(
    model: ModelOptions,
    selection: Selection,
    options: PenaltyOptions,
    training: TrainingOptions,
    teacher: TeacherOptions,
    output: Output,
    ui: Reporter,
) -> dict[str, Any]:
    """Regularize a network and write it to `output`.

    Returns:
        what :func:`life.run` does, and `l1_differs`: how many of the picks L1 would not have made before the
        first iteration (0 for GReg-1 by it; None for GReg-1 by another criterion or a plan file).
    """

    weights: dict[str, Tensor] = {}
    """The picks of single weights, unless the run is resumed, which knows them."""

    def begin(opened: Opened, data: Dataset) -> None:
        images = scoring_images(data.train, normalization_of(opened.state))
        if selection.unstructured:
            weights.update(_chosen_weights(opened, selection, images))
            opened.state.plan = to_json(opened.model, counts_of(weights))
            return
        wiring = prunable_wiring(opened.model, opened.state.input_shapes)
        plan = choose(opened.model, wiring, selection, images, ui)
        if plan.solution is not None:
            ui.note(str(plan.solution))
        # GReg-2 picks itself, and tells its picks from L1's: of a plan it takes the counts alone.
        chosen = by_l1(opened.model, wiring, plan) if options.method is Method.GREG_2 else plan
        opened.state.plan = chosen.to_json()

    def phase(network: nn.Module, state: State, steps: int, allowed: int | None) -> Phase | WeightPhase:
        schedule = _schedule(options, steps, training.weight_decay, allowed)
        compares = options.method is Method.GREG_2 or (selection.plan is None and selection.criterion == L1)
        if not selection.unstructured:
            return Phase(network, state, schedule, options, ui, compares)
        wanted = from_json(state.plan, network)
        show_counts(network, wanted, ui)
        # As in the authors' code no preset ends it early; who asks for it gets it.
        schedule = replace(schedule, stop_ratio=options.stop_ratio)
        _show_schedule(schedule, options, ui)
        return WeightPhase(network, state.masks, wanted, schedule, options.method, ui, weights, compares)

    taught = Teacher(teacher, model)
    job = Job(
        command="regularize",
        stage="regularized",
        output=output,
        options=training,
        recorded=recorded(model, selection, options, training) | taught.recorded(),
        objective=taught.objective,
        open=lambda data: _opened(model, selection, data.input_shape, ui),
        begin=begin,
        phase=phase,
        budget=options.budget,
        model=model,
    )
    return life.run(job, ui)


def _chosen_weights(opened: Opened, selection: Selection, images: Callable[[], Batches]) -> dict[str, Tensor]:
    wiring = find_groups(opened.model, opened.state.input_shapes)
    return choose_weights(opened.model, wiring, selection, opened.state.masks, images)


def _opened(model: ModelOptions, selection: Selection, likely: tuple[int, ...] | None, ui: Reporter) -> Opened:
    opened = open_model(model, ui, likely)
    if opened.state.stage == "regularized":
        raise InputError(f"{model.model} is regularized already; next: greg prune {model.model}")
    require_kind(opened.state.masks, opened.state.stage, selection, model.model)
    return opened


class Phase:
    """The paper's phase on one network: the penalty, how long it takes, and what it decided in the end."""

    def __init__(
        self,
        network: nn.Module,
        state: State,
        schedule: GrowthSchedule,
        options: PenaltyOptions,
        ui: Reporter,
        compares: bool = True,
    ) -> None:
        self._wiring = prunable_wiring(network, state.input_shapes)
        self._network = network
        self._at_first = picks_from_json(state.plan, self._wiring)
        """The picks before the first iteration, by the criterion or a plan file: GReg-1's own, of which GReg-2 takes
        the counts alone."""
        self._compares = compares
        self._ui = ui
        self._schedule = schedule
        self._units = Units(network, self._wiring, options.penalize or PRESETS[options.preset].penalize)
        show_plan(network, self._wiring, self._at_first, ui)
        _show_schedule(schedule, options, ui)
        self.iterations = schedule.iterations
        self._losing = [group for group in self._wiring.groups if group.name in self._at_first.shares]
        self._witness = Witness(self._norms, {group.name: group.channels for group in self._losing}, schedule)
        self._penalty = self._greg_2(schedule) if options.method is Method.GREG_2 else self._greg_1(schedule)

    @property
    def regularizer(self) -> Regularizer:
        return self._penalty

    def _greg_1(self, schedule: GrowthSchedule) -> GrowingPenalty:
        return GrowingPenalty(schedule, self._units.picked_by(self._at_first, recover=False), witness=self._witness)

    def _greg_2(self, schedule: GrowthSchedule) -> GrowingPenalty:
        return GrowingPenalty(schedule, self._units.all_of(self._at_first), self._pick, self._witness)

    def _norms(self) -> dict[str, Tensor]:
        """What the witness looks at: the L1 norm of every unit of the groups that lose some."""
        return {group.name: l1(self._network, self._wiring, group) for group in self._losing}

    def _pick(self, saved: dict[str, Any] | None) -> tuple[dict[str, Any], Aim]:
        if saved is None:
            plan = by_l1(self._network, self._wiring, self._at_first)
            units = sum(share.channels - share.kept for share in plan.shares.values())
            differs = plan.differs_from(self._at_first)
            self._ui.note(f"picked {units} units, {differs} of which L1 would not have picked at the start")
        else:
            plan = picks_from_json(saved, self._wiring)
            if plan.counts != self._at_first.counts:
                raise ValueError("picks of other counts than at the start")
        return plan.to_json(), self._units.picked_by(plan, recover=True)

    @property
    def most_recorded(self) -> int:
        return self._witness.most_bytes

    def record(self) -> dict[str, Any]:
        """`norms`: see :mod:`greg_compress.penalty.witness`."""
        return {"norms": self._penalty.record()}

    def conclude(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The plan of the finished state (the picks), and how many of them L1 would not have made at the start."""
        picks = self._penalty.picks or self._at_first.to_json()
        differs = picks_from_json(picks, self._wiring).differs_from(self._at_first)
        return {"plan": picks}, {"l1_differs": differs if self._compares else None, **self._schedule.figures()}


def _schedule(options: PenaltyOptions, steps: int, weight_decay: float, allowed: int | None) -> GrowthSchedule:
    if options.scale is not None:
        return scaled_schedule(options, steps, weight_decay, options.scale)
    if allowed is None:
        return resolve_schedule(options, steps, weight_decay)
    return fitted_schedule(options, steps, weight_decay, allowed)


def _show_schedule(schedule: GrowthSchedule, options: PenaltyOptions, ui: Reporter) -> None:
    first = ""
    if (picking := schedule.picking) is not None:
        first = (
            f"to {picking.ceiling:g} by {picking.delta:g} for all units, then (kept units recover at"
            f" {picking.recover:g}) for the picked "
        )
    ui.note(
        f"{options.method}, preset {options.preset}: lambda grows {first}to {schedule.ceiling:g} by {schedule.delta:g}"
        f" every {schedule.update_every} iterations; {schedule.iterations} iterations, the last"
        f" {schedule.stabilize} to stabilize"
    )
