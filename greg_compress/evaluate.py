"""Stage `evaluate`: top-1, top-5 and loss on the test images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from greg_compress.cost import zeros_and_share
from greg_compress.deploy import identity, metadata
from greg_compress.deploy.accuracy import evaluate_network, fitting_file
from greg_compress.deploy.opening import open_network
from greg_compress.errors import RequestError
from greg_compress.fit import fitting, normalization_of
from greg_compress.options.network import ModelOptions
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.sources.data import load_data
from greg_compress.sources.specs import DataSpec, is_onnx
from greg_compress.state import history
from greg_compress.state.models import open_model
from greg_compress.training.evaluation import evaluate
from greg_compress.training.numerics import resolve_device


def run(
    model: ModelOptions, spec: DataSpec, device: str, download: bool, workers: int | None, ui: Reporter
) -> dict[str, Any]:
    """Return `top1`, `top5` (percent), `loss`, `samples`, what :func:`.cost.zeros_and_share` does, and `made_by`: this
    command as an entry of history.

    An ONNX file runs in onnxruntime; its `zeros` and `sparsity` are those of its floating-point weights, and None where
    it has integers.
    """
    if is_onnx(model.model):
        return _of_onnx(model, spec, device, download, workers, ui)
    data = load_data(spec, download, workers)
    opened = open_model(model, ui, data.input_shape)
    data = fitting(opened, data)
    place = resolve_device(device)
    opened.model.to(place)
    accuracy = evaluate(opened.model, data.test, normalization_of(opened.state), place)
    said = _made_by(model, spec, device, opened.digest, opened.untrained)
    return {**asdict(accuracy), **zeros_and_share(opened.model), "made_by": said}


def _made_by(model: ModelOptions, spec: DataSpec, device: str, digest: str | None, untrained: bool) -> dict[str, Any]:
    options = recorded(model) | {"data": str(spec), "device": device}
    return history.entry("evaluate", options, {}, model=model.model, digest=digest, untrained=untrained)


def _of_onnx(
    model: ModelOptions, spec: DataSpec, device: str, download: bool, workers: int | None, ui: Reporter
) -> dict[str, Any]:
    path = Path(model.model)
    useless = {"--arch": model.arch, "--allow-pickle": model.allow_pickle, "--device cuda": device.startswith("cuda")}
    for name, given in useless.items():
        if given:
            raise RequestError(f"{name} would have no effect: {path} is an ONNX file, which runs on the processor")
    shape, *more = model.input_shapes or (None,)
    if more:
        raise RequestError(f"--input-shape contradicts {path}, which takes one image")
    network = open_network(path, torch.get_num_threads())
    data = fitting_file(network, load_data(spec, download, workers), shape)
    assert data.input_shape is not None
    normalization = None
    if not (metadata.normalizes_itself(network.said, path) or network.takes_bytes):
        own = data.normalization
        normalization = metadata.normalization_in(network.said, path, data.input_shape[0], own.scale)
        if normalization is None:
            normalization = own
            ui.note(f"{path} does not say how its images are normalised; taken: as for {data.name}")
    accuracy = evaluate_network(network, data.test, normalization)
    share = None if network.zeros is None else 100 * network.zeros / network.weights if network.weights else 0.0
    said = _made_by(model, spec, device, identity.digest(path), False)
    return {**asdict(accuracy), "zeros": network.zeros, "sparsity": share, "made_by": said}
