"""The words that measure on images: --sensitivity, criteria of the loss, --recalibrate, and --data for all of them."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from greg_compress.cli.arguments import (
    AllowPickle,
    Arch,
    ArchArg,
    Download,
    InputShape,
    Model,
    Workers,
    model_options,
)
from greg_compress.cli.selecting import CriterionText
from greg_compress.errors import RequestError
from greg_compress.options.criterion import parse_criterion
from greg_compress.options.measuring import SAMPLES, ImageOptions, SensitivityOptions
from greg_compress.options.network import ModelOptions
from greg_compress.sources.specs import parse_data

MeasuredOn = Annotated[
    str | None, Option("--data", metavar="DATA", help="The images of what is measured on images, as for greg evaluate.")
]
Sensitivity = Annotated[bool, Option("--sensitivity", help="Measure what accuracy each group alone costs.")]


def analyzed_options(
    model: Model,
    arch: Arch = None,
    arch_arg: ArchArg = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    download: Download = False,
    data: MeasuredOn = None,
) -> ModelOptions:
    return model_options(model, arch, arch_arg, input_shape, allow_pickle, download, fetches_data=data is not None)


def sensitivity(
    sensitivity: Sensitivity = False,
    criterion: CriterionText = None,
    data: MeasuredOn = None,
    samples: Annotated[
        int | None,
        Option(
            "--samples", metavar="N", help="Test images to measure on, evenly spread.", show_default=f"up to {SAMPLES}"
        ),
    ] = None,
    device: Annotated[str | None, Option("--device", help="auto, cpu, cuda or cuda:N.", show_default="auto")] = None,
    download: Download = False,
    workers: Workers = None,
) -> SensitivityOptions | None:
    if not sensitivity:
        only = {"samples": samples, "device": device}
        others = {} if _is_measured(criterion) else {"data": data, "workers": workers}
        for name, value in (others | only).items():
            if value is not None:
                raise RequestError(f"--{name} would have no effect without --sensitivity")
        return None
    if data is None:
        raise RequestError("say what --sensitivity is to be measured on with --data")
    return SensitivityOptions(
        parse_data(data),
        SAMPLES if samples is None else samples,
        "auto" if device is None else device,
        download,
        workers,
    )


def images(
    criterion: CriterionText = None,
    recalibrate: Annotated[
        int | None,
        Option("--recalibrate", metavar="N", help="Measure BatchNorm's statistics anew on N batches, after the cut."),
    ] = None,
    data: MeasuredOn = None,
    download: Download = False,
    workers: Workers = None,
    sensitivity: Sensitivity = False,
) -> ImageOptions | None:
    """The training images that a command reads without training; None where nothing asks for them."""
    asking = f"--criterion {criterion}" if _is_measured(criterion) else None if recalibrate is None else "--recalibrate"
    if asking is None:
        for name, value in {"data": data, "workers": workers}.items():
            if value is not None and not sensitivity:
                raise RequestError(f"--{name} would have no effect without --criterion obd or taylor")
        return None
    if data is None:
        raise RequestError(f"{asking} is measured on training images; name them with --data")
    return ImageOptions(parse_data(data), download, workers, recalibrate)


def _is_measured(criterion: str | None) -> bool:
    return criterion is not None and parse_criterion(criterion).needs_images
