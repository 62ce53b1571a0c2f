"""Stage `evaluate`: top-1, top-5 and loss on the test images."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from greg_compress.cost import zeros_and_share
from greg_compress.fit import fitting, normalization_of
from greg_compress.options.network import ModelOptions
from greg_compress.reporting import Reporter
from greg_compress.sources.data import load_data
from greg_compress.sources.specs import DataSpec
from greg_compress.state.models import open_model
from greg_compress.training.evaluation import evaluate
from greg_compress.training.numerics import resolve_device


def run(
    model: ModelOptions, spec: DataSpec, device: str, download: bool, workers: int | None, ui: Reporter
) -> dict[str, Any]:
    """Return `top1`, `top5` (percent), `loss`, `samples`, and what :func:`.cost.zeros_and_share` does."""
    data = load_data(spec, download, workers)
    opened = open_model(model, ui, data.input_shape)
    data = fitting(opened, data)
    place = resolve_device(device)
    accuracy = evaluate(opened.model.to(place), data.test, normalization_of(opened.state), place)
    return {**asdict(accuracy), **zeros_and_share(opened.model)}
