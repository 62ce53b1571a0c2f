"""The words of `greg analyze` that measure: --sensitivity, and what it is measured on."""

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
from greg_compress.errors import RequestError
from greg_compress.options.measuring import SAMPLES, SensitivityOptions
from greg_compress.options.network import ModelOptions
from greg_compress.sources.specs import parse_data

MeasuredOn = Annotated[
    str | None, Option("--data", metavar="DATA", help="What --sensitivity is measured on, as for greg evaluate.")
]


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
    sensitivity: Annotated[
        bool, Option("--sensitivity", help="Measure what accuracy each group alone costs at a few ratios.")
    ] = False,
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
        for name, value in {"data": data, "samples": samples, "device": device, "workers": workers}.items():
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
