"""Stage `train`: from an architecture, or a dense state to go on from, to a dense state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from greg_compress.errors import InputError
from greg_compress.long_run import life
from greg_compress.long_run.job import Job
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.training import TrainingOptions
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.specs import is_architecture
from greg_compress.state.models import Opened, fresh, open_model


def run(model: ModelOptions, training: TrainingOptions, output: Output, ui: Reporter) -> dict[str, Any]:
    """Train a network and write it to `output`; see :func:`life.run` for what is returned."""

    def opened(data: Dataset) -> Opened:
        if is_architecture(model.model):
            assert model.arch is not None
            torch.manual_seed(training.seed)
            fixed = None if data.input_shape is None else (data.input_shape,)
            return fresh(model.arch, replace(model, input_shapes=model.input_shapes or fixed))
        found = open_model(model, ui, data.input_shape)
        if found.state.stage != "dense":
            raise InputError(f"{model.model} is {found.state.stage}; train takes a dense state, see greg finetune")
        return found

    job = Job(
        command="train",
        stage="dense",
        output=output,
        options=training,
        recorded=recorded(model, training),
        model=model,
        open=opened,
    )
    return life.run(job, ui)
