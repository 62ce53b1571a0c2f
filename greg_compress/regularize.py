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
from greg_compress.penalty.phase import UnitPhase
from greg_compress.penalty.presets import PRESETS
from greg_compress.penalty.schedule import GrowthSchedule, schedule_of
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
        schedule = schedule_of(options, steps, training.weight_decay, allowed)
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
        at_first = picks_from_json(state.plan, self._wiring)
        self._compares = compares
        self._schedule = schedule
        show_plan(network, self._wiring, at_first, ui)
        _show_schedule(schedule, options, ui)
        self.iterations = schedule.iterations
        self._losing = [group for group in self._wiring.groups if group.name in at_first.shares]
        self._witness = Witness(self._norms, {group.name: group.channels for group in self._losing}, schedule)
        penalize = options.penalize or PRESETS[options.preset].penalize
        self._units = UnitPhase(network, self._wiring, at_first, schedule, penalize, ui.note, self._witness)

    @property
    def regularizer(self) -> Regularizer:
        return self._units.penalty

    def _norms(self) -> dict[str, Tensor]:
        """What the witness looks at: the L1 norm of every unit of the groups that lose some."""
        return {group.name: l1(self._network, self._wiring, group) for group in self._losing}

    @property
    def most_recorded(self) -> int:
        return self._witness.most_bytes

    def record(self) -> dict[str, Any]:
        """`norms`: see :mod:`greg_compress.penalty.witness`."""
        return {"norms": self._units.penalty.record()}

    def conclude(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The plan of the finished state (the picks), and how many of them L1 would not have made at the start."""
        picks = self._units.picks
        differs = picks_from_json(picks, self._wiring).differs_from(self._units.start)
        return {"plan": picks}, {"l1_differs": differs if self._compares else None, **self._schedule.figures()}


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
