"""Accuracy of an ONNX file, run in onnxruntime on the images of a data set."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from greg_compress.deploy.opening import OnnxNetwork, open_network, try_one
from greg_compress.errors import RequestError
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Samples
from greg_compress.training.evaluation import Accuracy, accuracy_of, counted


def evaluate_file(path: Path, samples: Samples, normalization: Normalization | None, threads: int) -> Accuracy:
    """Top-1, top-5 and loss of a file.

    Args:
        normalization: how its images are normalised; None for a file that takes them as they are.

    Raises:
        InputError: onnxruntime cannot open or run the file.
        RequestError: its outputs are no logits, or the images do not fit.
        GregError: the outputs are not finite.
    """
    return evaluate_network(open_network(path, threads), samples, normalization)


def evaluate_network(network: OnnxNetwork, samples: Samples, normalization: Normalization | None) -> Accuracy:
    """The same of a file that is open."""

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(network(images.numpy()))

    sums = torch.zeros(4, dtype=torch.float64)
    size = network.batch or samples.at_once
    size *= max(1, samples.at_once // size)  # several fixed batches of images are read at once
    for images, labels in samples.batches(torch.arange(len(samples)), size):
        if network.takes_bytes and (normalization is not None or images.is_floating_point()):
            raise RequestError(f"{network.path} takes images of bytes, but these are floating-point numbers")
        sums += counted(run, images if normalization is None else normalization(images), labels)
    return accuracy_of(sums)


def fitting_file(network: OnnxNetwork, data: Dataset, asked: tuple[int, ...] | None) -> Dataset:
    """The data as a file takes them.

    Args:
        asked: (C, H, W) as the user says; None for what the file or the data say.

    Raises:
        RequestError: images of another shape, another number of classes, or nobody says how large images are.
        InputError: the file fails on an image of the shape that it declares.
    """
    shape = _shape(network, data, asked)
    data = data.at(shape)
    if data.input_shape != shape:
        raise RequestError(f"{data.name} has images of {_by(data.input_shape)}, but {network.path} takes {_by(shape)}")
    sizes = try_one(network, shape).shape
    if len(sizes) == 2 and data.classes is not None and sizes[1] != data.classes:
        raise RequestError(f"{data.name} has {data.classes} classes, but {network.path} has {sizes[1]} outputs")
    return data


def _shape(network: OnnxNetwork, data: Dataset, asked: tuple[int, ...] | None) -> tuple[int, ...]:
    """What the file declares; where it leaves a size free, what it was exported with, else what the data have."""
    known = asked or network.exported_shape or data.input_shape
    declared = network.shape
    if known is None or len(known) != len(declared):
        if None not in declared:
            return tuple(side for side in declared if side is not None)
        raise RequestError(f"{network.path} does not say how large its images are; add --input-shape C,H,W")
    if asked is not None and any(own not in (None, side) for own, side in zip(declared, asked, strict=True)):
        raise RequestError(f"--input-shape contradicts {network.path}, which takes {_by(declared)}")
    return tuple(side if own is None else own for own, side in zip(declared, known, strict=True))


def _by(shape: tuple[int | None, ...] | None) -> str:
    return "x".join("any" if side is None else str(side) for side in shape or ())
