"""Stage `finetune`: let the smaller network recover, with a fresh optimizer and a short warm-up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from greg_compress.errors import InputError, RequestError
from greg_compress.fit import fitting
from greg_compress.long_run import life
from greg_compress.long_run.job import Job
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.training import TeacherOptions, TrainingOptions
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.sources import user_files
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.specs import is_architecture
from greg_compress.state.format import State
from greg_compress.state.models import Opened, open_beside, open_model
from greg_compress.training.loop import Settings
from greg_compress.training.objective import Distillation, Objective, cross_entropy
from greg_compress.unstructured.hold import Hold

TEMPERATURE, TEACHER_WEIGHT = 4.0, 0.9
"""What Hinton et al. and most since them use for image classifiers."""


def run(
    model: ModelOptions, training: TrainingOptions, teacher: TeacherOptions, output: Output, ui: Reporter
) -> dict[str, Any]:
    """Fine-tune a pruned network and write it to `output`; see :func:`life.run` for what is returned."""

    def opened(data: Dataset) -> Opened:
        found = open_model(model, ui, data.input_shape)
        if found.state.stage == "dense":
            raise RequestError(f"{model.model} is dense; use greg train to go on with it, or greg prune first")
        if found.state.stage == "regularized":
            raise InputError(f"{model.model} is regularized but not cut yet; next: greg prune {model.model}")
        return found

    def objective(student: State, data: Dataset, settings: Settings) -> Objective:
        return _distillation(teacher, model, student, data, settings) if teacher.teacher else cross_entropy

    job = Job(
        command="finetune",
        stage="finetuned",
        output=output,
        options=training,
        recorded=recorded(model, training, teacher) | {"teacher_sha256": _digest(teacher.teacher)},
        model=model,
        open=opened,
        objective=objective,
        regularizer=lambda network, state: Hold(network, state.masks) if state.masks else None,
    )
    return life.run(job, ui)


def _digest(path: str | None) -> str | None:
    """A resumed run learns from the same teacher."""
    if path is None or is_architecture(path):
        return None
    return user_files.sha256(user_files.contents(Path(path)))


def _distillation(
    options: TeacherOptions, model: ModelOptions, student: State, data: Dataset, settings: Settings
) -> Distillation:
    """Learn from another network's outputs on the same images.

    Raises:
        RequestError: the teacher takes other images, or reads them otherwise normalised.
    """
    assert options.teacher is not None
    try:
        found = open_beside(options.teacher, model)
        fitting(found, data)
    except (InputError, RequestError) as error:
        raise type(error)(f"--teacher: {error}") from error
    if found.state.normalization != student.normalization:
        raise RequestError(f"--teacher {options.teacher} reads images otherwise normalised than the student")
    found.model.to(settings.device)
    temperature, weight = options.temperature or TEMPERATURE, options.teacher_weight or TEACHER_WEIGHT
    return Distillation(found.model, temperature, weight, settings.precision, settings.device)
