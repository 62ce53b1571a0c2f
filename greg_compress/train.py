"""Stage `train`: from an architecture, or a dense state to go on from, to a dense state."""

from __future__ import annotations

from typing import Any

import torch

from greg_compress import long_run
from greg_compress.errors import InputError
from greg_compress.options import ModelOptions, Output, TrainingOptions
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.sources.data import Dataset
from greg_compress.sources.specs import is_architecture
from greg_compress.state.models import Opened, fresh, open_model


def run(model: ModelOptions, training: TrainingOptions, output: Output, ui: Reporter) -> dict[str, Any]:
    """Train a network and write it to `output`; see :func:`long_run.run` for what is returned."""

    def begin(data: Dataset) -> Opened:
        if is_architecture(model.model):
            assert model.arch is not None
            torch.manual_seed(training.seed)
            return fresh(model.arch, model.input_shapes or (data.input_shape,))
        opened = open_model(model.model, model.arch, model.input_shapes)
        if opened.state.stage != "dense":
            raise InputError(f"{model.model} is {opened.state.stage}; train takes a dense state, see greg finetune")
        return opened

    job = long_run.Job(
        command="train",
        stage="dense",
        output=output,
        options=training,
        recorded=recorded(model, training),
        begin=begin,
        named=model.arch,
    )
    return long_run.run(job, ui)
