"""The command line's words, each declared once, and how they become frozen options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from greg_compress.errors import RequestError
from greg_compress.options import (
    Decay,
    ExportOptions,
    ModelOptions,
    Output,
    Penalize,
    PenaltyOptions,
    Precision,
    Preset,
    Selection,
    TrainingOptions,
)
from greg_compress.selection.ratios import parse_ratios
from greg_compress.sources.specs import (
    Architecture,
    is_architecture,
    parse_architecture,
    parse_data,
    parse_input_shape,
)
from greg_compress.whole_files import require_file, require_free

Arch = Annotated[
    str | None, Option("--arch", metavar="SPEC", help="torchvision:NAME or FILE.py:CALLABLE; the file may run.")
]
ArchArg = Annotated[
    list[str] | None, Option("--arch-arg", metavar="KEY=VALUE", help="An argument of the architecture; repeats.")
]
InputShape = Annotated[
    list[str] | None,
    Option("--input-shape", metavar="C,H,W", help="Where the network does not say it; repeats for several inputs."),
]
Data = Annotated[str, Option("--data", metavar="DATA", help="digits or fashion-mnist[:ROOT].")]
Device = Annotated[str, Option("--device", help="auto, cpu, cuda or cuda:N.")]
Download = Annotated[bool, Option("--download", help="Fetch a data set that is not there.")]
Json = Annotated[bool, Option("--json", help="One JSON document on stdout, nothing else.")]
Force = Annotated[bool, Option("--force", help="Replace an output that exists.")]


def model_options(
    model: Annotated[str, Argument(metavar="MODEL", help="A state file, or an architecture spec.")],
    arch: Arch = None,
    arch_arg: ArchArg = None,
    input_shape: InputShape = None,
) -> ModelOptions:
    if is_architecture(model):
        if arch is not None:
            raise RequestError("--arch would have no effect: MODEL is an architecture itself")
        return _model_options(model, parse_architecture(model, arch_arg or ()), input_shape)
    require_file(Path(model))
    if arch_arg:
        raise RequestError("--arch-arg would have no effect: the state file records its own")
    return _model_options(model, parse_architecture(arch) if arch else None, input_shape)


def trainable_options(
    model: Annotated[str | None, Argument(metavar="[STATE]", help="A dense state to go on from.")] = None,
    arch: Arch = None,
    arch_arg: ArchArg = None,
    input_shape: InputShape = None,
) -> ModelOptions:
    if model is not None:
        return model_options(model, arch, arch_arg, input_shape)
    if arch is None:
        raise RequestError("say what to train: --arch SPEC, or a dense state to go on from")
    return _model_options(arch, parse_architecture(arch, arch_arg or ()), input_shape)


def _model_options(model: str, arch: Architecture | None, input_shape: list[str] | None) -> ModelOptions:
    return ModelOptions(model, arch, tuple(map(parse_input_shape, input_shape)) if input_shape else None)


def selection(
    ratios: Annotated[
        str | None,
        Option(
            "--ratios",
            metavar="RATIOS",
            help="Share of units to remove: 0.5; per stage [0, 0.5]; by index [1-15:0.7]; layer1=0.3; @FILE.json.",
        ),
    ] = None,
    skip: Annotated[
        list[str] | None, Option("--skip", metavar="NAME", help="Spare a module and all below it; repeats.")
    ] = None,
) -> Selection | None:
    if ratios is None:
        if skip:
            raise RequestError("--skip would have no effect without --ratios")
        return None
    return Selection(parse_ratios(ratios), tuple(skip or ()))


def output(
    out: Annotated[Path, Option("-o", "--out", metavar="OUT", help="The file to write.")], force: Force = False
) -> Output:
    found = Output(out, force)
    require_free(found, resumable=False)
    return found


def resumable_output(
    out: Annotated[Path, Option("-o", "--out", metavar="OUT", help="The file to write.")],
    force: Force = False,
    resume: Annotated[bool, Option("--resume", help="Go on from OUT.partial, if there is one.")] = False,
) -> Output:
    found = Output(out, force, resume)
    require_free(found, resumable=True)
    return found


def training_options(
    data: Data,
    epochs: Annotated[float | None, Option("--epochs", help="Length of the run.")] = None,
    iterations: Annotated[int | None, Option("--iterations", help="Length of the run, instead of --epochs.")] = None,
    batch_size: Annotated[int, Option("--batch-size")] = 128,
    lr: Annotated[float, Option("--lr", help="Learning rate.")] = 0.1,
    decay: Annotated[Decay, Option("--decay", help="How the learning rate falls.")] = Decay.COSINE,
    warmup: Annotated[
        int | None, Option("--warmup", help="Iterations of linear warm-up.", show_default="a twentieth of the run")
    ] = None,
    momentum: Annotated[float, Option("--momentum")] = 0.9,
    weight_decay: Annotated[float, Option("--weight-decay")] = 5e-4,
    precision: Annotated[
        Precision, Option("--precision", help="auto is bf16 where the processor has it.")
    ] = Precision.AUTO,
    device: Device = "auto",
    seed: Annotated[int, Option("--seed")] = 0,
    val_fraction: Annotated[
        float, Option("--val-fraction", help="Share of the training images held out for an accuracy per epoch.")
    ] = 0.0,
    save_every: Annotated[
        int, Option("--save-every", metavar="N", help="Iterations between saves of OUT.partial.")
    ] = 500,
    download: Download = False,
    default_epochs: float | None = None,
) -> TrainingOptions:
    if iterations is None and epochs is None:
        epochs = default_epochs
    return TrainingOptions(
        parse_data(data), lr, decay, batch_size, epochs, iterations, warmup, momentum, weight_decay, precision,
        device, seed, val_fraction, save_every, download,
    )  # fmt: skip


def penalty_options(
    preset: Annotated[Preset, Option("--preset", help="Settings for what the options below leave out.")] = Preset.QUICK,
    ceiling: Annotated[float | None, Option("--ceiling", help="Lambda at which the penalty stops to grow.")] = None,
    delta: Annotated[float | None, Option("--delta", help="Growth of lambda at each update.")] = None,
    update_every: Annotated[int | None, Option("--update-every", help="Iterations between updates.")] = None,
    stabilize: Annotated[int | None, Option("--stabilize", help="Iterations at the final lambda.")] = None,
    stop_ratio: Annotated[
        float | None, Option("--stop-ratio", help="Stop growing when kept filters are this many times larger.")
    ] = None,
    penalize: Annotated[
        Penalize | None, Option("--penalize", help="The filters' weights (the paper), or bias and BatchNorm too.")
    ] = None,
) -> PenaltyOptions:
    return PenaltyOptions(preset, ceiling, delta, update_every, stabilize, stop_ratio, penalize)


def export_options(
    baseline: Annotated[
        str | None, Option("--baseline", metavar="MODEL", help="Measured in turn with the exported network.")
    ] = None,
    opset: Annotated[int | None, Option("--opset", help="Default: the exporter's own.")] = None,
    threads: Annotated[int, Option("--threads", help="Of onnxruntime while timing.")] = 1,
    runs: Annotated[int, Option("--runs", help="Timed runs of each file.")] = 200,
    tolerance: Annotated[float, Option("--tolerance", help="Largest error relative to the largest output.")] = 1e-4,
) -> ExportOptions:
    if baseline is not None and not is_architecture(baseline):
        require_file(Path(baseline))
    return ExportOptions(baseline, opset, threads, runs, tolerance)
