"""Stage `regularize`: drive the picked units to zero with a growing penalty (GReg-1)."""

from __future__ import annotations

from typing import Any

from torch import nn

from greg_compress import long_run, penalty
from greg_compress.errors import InputError
from greg_compress.fit import require_fit
from greg_compress.options import ModelOptions, Output, PenaltyOptions, Selection, TrainingOptions
from greg_compress.preview import show_plan
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.selection.choose import choose
from greg_compress.selection.plan import picks_from_json
from greg_compress.sources.data import Dataset
from greg_compress.state.format import State
from greg_compress.state.models import Opened, open_model
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.training.loop import Regularizer


def run(
    model: ModelOptions,
    selection: Selection,
    options: PenaltyOptions,
    training: TrainingOptions,
    output: Output,
    ui: Reporter,
) -> dict[str, Any]:
    """Regularize a network and write it to `output`; see :func:`long_run.run` for what is returned."""

    def begin(data: Dataset) -> Opened:
        opened = open_model(model.model, model.arch, model.input_shapes)
        if opened.state.stage == "regularized":
            raise InputError(f"{model.model} is regularized already; next: greg prune {model.model}")
        if opened.untrained:
            ui.warn(f"{model.model} has no trained weights")
        require_fit(opened, data)
        wiring = prunable_wiring(opened.model, opened.state.input_shapes)
        opened.state.plan = choose(opened.model, wiring, selection).to_json()
        return opened

    def regularizer(network: nn.Module, state: State, steps_per_epoch: int) -> tuple[Regularizer, int]:
        wiring = prunable_wiring(network, state.input_shapes)
        plan = picks_from_json(state.plan, wiring)
        schedule, penalize = penalty.resolve_schedule(options, steps_per_epoch)
        show_plan(network, wiring, plan, ui)
        _show_schedule(schedule, options.preset, ui)
        force = penalty.GrowingPenalty(
            schedule, penalty.targets(network, wiring, plan, penalize), penalty.gauges(network, wiring, plan)
        )
        return force, schedule.iterations

    job = long_run.Job(
        command="regularize",
        stage="regularized",
        output=output,
        options=training,
        recorded=recorded(model, selection, options, training),
        begin=begin,
        regularizer=regularizer,
        named=model.arch,
    )
    return long_run.run(job, ui)


def _show_schedule(schedule: penalty.GrowthSchedule, preset: str, ui: Reporter) -> None:
    ui.note(
        f"preset {preset}: lambda grows to {schedule.ceiling:g} by {schedule.delta:g} every {schedule.update_every}"
        f" iterations; {schedule.iterations} iterations, the last {schedule.stabilize} to stabilize"
    )
