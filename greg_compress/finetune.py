"""Stage `finetune`: let the smaller network recover, with a fresh optimizer and a short warm-up."""

from __future__ import annotations

from typing import Any

from greg_compress import long_run
from greg_compress.errors import InputError, RequestError
from greg_compress.options import ModelOptions, Output, TrainingOptions
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.sources.data import Dataset
from greg_compress.state.models import Opened, open_model


def run(model: ModelOptions, training: TrainingOptions, output: Output, ui: Reporter) -> dict[str, Any]:
    """Fine-tune a pruned network and write it to `output`; see :func:`long_run.run` for what is returned."""

    def begin(_data: Dataset) -> Opened:
        opened = open_model(model.model, model.arch, model.input_shapes)
        if opened.state.stage == "dense":
            raise RequestError(f"{model.model} is dense; use greg train to go on with it, or greg prune first")
        if opened.state.stage == "regularized":
            raise InputError(f"{model.model} is regularized but not cut yet; next: greg prune {model.model}")
        return opened

    job = long_run.Job(
        command="finetune",
        stage="finetuned",
        output=output,
        options=training,
        recorded=recorded(model, training),
        begin=begin,
        named=model.arch,
    )
    return long_run.run(job, ui)
