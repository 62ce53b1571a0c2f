"""Stage `finetune`: let the smaller network recover, with a fresh optimizer and a short warm-up."""

from __future__ import annotations

from typing import Any

from greg_compress.errors import InputError, RequestError
from greg_compress.long_run import life
from greg_compress.long_run.job import Job
from greg_compress.long_run.teacher import Teacher
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.training import TeacherOptions, TrainingOptions
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.sources.dataset import Dataset
from greg_compress.state.models import Opened, open_model
from greg_compress.unstructured.hold import Hold


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

    taught = Teacher(teacher, model)
    job = Job(
        command="finetune",
        stage="finetuned",
        output=output,
        options=training,
        recorded=recorded(model, training) | taught.recorded(),
        model=model,
        open=opened,
        objective=taught.objective,
        regularizer=lambda network, state: Hold(network, state.masks) if state.masks else None,
    )
    return life.run(job, ui)
