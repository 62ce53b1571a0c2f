"""The command line's words, each declared once, and how they become frozen options."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from greg_compress.errors import InputError, RequestError
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.penalty import Method, Penalize, PenaltyOptions, Preset
from greg_compress.options.training import Decay, Precision, TeacherOptions, TrainingOptions
from greg_compress.penalty.presets import PRESETS
from greg_compress.sources.specs import (
    is_architecture,
    parse_architecture,
    parse_data,
    parse_input_shape,
    refuse_misspelt,
)
from greg_compress.whole_files import require_file, require_free

Model = Annotated[
    str,
    Argument(
        metavar="MODEL",
        help="A state file, a weights file with --arch, or an architecture spec; a FILE.py:CALLABLE runs.",
    ),
]
Arch = Annotated[
    str | None,
    Option(
        "--arch",
        metavar="SPEC",
        help="torchvision:NAME[@WEIGHTS] or timm:NAME, /PART for a part of it; or FILE.py:CALLABLE, whose code runs.",
    ),
]
ArchArg = Annotated[
    list[str] | None, Option("--arch-arg", metavar="KEY=VALUE", help="An argument of the architecture; repeats.")
]
InputShape = Annotated[
    list[str] | None,
    Option("--input-shape", metavar="C,H,W", help="Where the network does not say it; repeats for several inputs."),
]
Data = Annotated[
    str,
    Option(
        "--data",
        metavar="DATA",
        help="digits, fashion-mnist[:ROOT], cifar10[:ROOT], cifar100[:ROOT], imagefolder:ROOT; FILE.py:CALLABLE runs.",
    ),
]
Device = Annotated[str, Option("--device", help="auto, cpu, cuda or cuda:N.")]
Download = Annotated[bool, Option("--download", help="Fetch data or official weights that are not there.")]
Workers = Annotated[
    int | None,
    Option("--workers", min=0, max=1024, help="Processes that read images from files.", show_default="up to 4"),
]
AllowPickle = Annotated[
    bool, Option("--allow-pickle", help="Open a whole pickled network, which runs whatever code it holds.")
]
PresetName = Annotated[Preset, Option("--preset", help="Settings for what other options leave out.")]
Json = Annotated[bool, Option("--json", help="One JSON document on stdout, nothing else.")]
Force = Annotated[bool, Option("--force", help="Replace an output that exists.")]


Accumulate = Annotated[
    int, Option("--accumulate", metavar="N", help="Make each step of N smaller pieces, where memory is short.")
]
SyncBn = Annotated[bool, Option("--sync-bn", help="Batch normalisation over the images of all processes (torchrun).")]
Compiled = Annotated[
    bool, Option("--compile", help="Let torch.compile make the network faster; needs a C++ compiler on CPUs.")
]
Tf32 = Annotated[bool, Option("--tf32", help="CUDA: float32 products in TensorFloat-32.")]
Deterministic = Annotated[bool, Option("--deterministic", help="CUDA: only algorithms that repeat bit for bit.")]
Log = Annotated[Path | None, Option("--log", metavar="FILE", help="Figures as JSON lines, readable while it runs.")]
Timing = Annotated[bool, Option("--time", help="Say how long it would take, from a few iterations, and stop.")]

Milestones = Annotated[
    str | None,
    Option(
        "--milestones",
        metavar="SHARES",
        help="multistep: shares of the run, like 1/3,2/3,5/6, after each of which it is a tenth.",
        show_default="1/2,3/4",
    ),
]


def model_options(
    model: Model,
    arch: Arch = None,
    arch_arg: ArchArg = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    download: Download = False,
    fetches_data: bool = False,
) -> ModelOptions:
    spec = arch
    if is_architecture(model):
        if arch is not None:
            raise RequestError("--arch would have no effect: MODEL is an architecture itself")
        if allow_pickle:
            raise RequestError("--allow-pickle would have no effect: MODEL is an architecture")
        spec = model
    else:
        require_model(model)
        if arch_arg and arch is None:
            raise RequestError("--arch-arg would have no effect without --arch")
    parsed = parse_architecture(spec, arch_arg or ()) if spec else None
    if not is_architecture(model) and parsed is not None and parsed.has_weights and not parsed.part:
        raise RequestError(f"--arch {spec}: MODEL has weights of its own; leave @{parsed.name.partition('@')[2]} out")
    if download and not fetches_data and not (is_architecture(model) and parsed and parsed.has_weights):
        raise RequestError("--download would have no effect: MODEL is not of the form torchvision:NAME@WEIGHTS")
    shapes = tuple(map(parse_input_shape, input_shape)) if input_shape else None
    return ModelOptions(model, parsed, shapes, allow_pickle, download)


def require_model(text: str) -> None:
    """Refuse a MODEL that is neither a file nor an architecture."""
    if not text:
        raise InputError("MODEL is empty; name a file or an architecture")
    if text.endswith(".py"):
        refuse_misspelt(text)
    try:
        require_file(Path(text))
    except InputError:
        refuse_misspelt(text)
        raise


def trainable_options(
    model: Annotated[str | None, Argument(metavar="[MODEL]", help="What to go on from: dense, or weights.")] = None,
    arch: Arch = None,
    arch_arg: ArchArg = None,
    input_shape: InputShape = None,
    allow_pickle: AllowPickle = False,
    download: Download = False,
) -> ModelOptions:
    if model is None and arch is None:
        raise RequestError("say what to train: --arch SPEC, or a dense state to go on from")
    if model is None:
        parse_architecture(str(arch))
        model, arch = arch, None
    return model_options(str(model), arch, arch_arg, input_shape, allow_pickle, download, fetches_data=True)


def output(
    out: Annotated[Path, Option("-o", "--out", metavar="OUT", help="The file to write.")], force: Force = False
) -> Output:
    found = Output(named_file(out), force)
    require_free(found, resumable=False)
    return found


def resumable_output(
    out: Annotated[Path, Option("-o", "--out", metavar="OUT", help="The file to write.")],
    force: Force = False,
    resume: Annotated[bool, Option("--resume", help="Go on from OUT.partial, if there is one.")] = False,
) -> Output:
    found = Output(named_file(out), force, resume)
    require_free(found, resumable=True)
    return found


def named_file(out: Path, option: str = "-o") -> Path:
    """An output's path, which must name something."""
    if not out.name or out.name == "..":
        raise RequestError(f"{option} {out} names no file")
    return out


def training_options(
    data: Data,
    epochs: Annotated[float | None, Option("--epochs", help="Length of the run.")] = None,
    iterations: Annotated[int | None, Option("--iterations", help="Length of the run, instead of --epochs.")] = None,
    batch_size: Annotated[
        int | None, Option("--batch-size", help="Images in a step; in regularize the preset's.")
    ] = 128,
    lr: Annotated[float | None, Option("--lr", help="Learning rate; in regularize the preset's.")] = 0.1,
    decay: Annotated[Decay, Option("--decay", help="How the learning rate falls.")] = Decay.COSINE,
    milestones: Milestones = None,
    warmup: Annotated[
        int | None, Option("--warmup", help="Iterations of linear warm-up.", show_default="a twentieth of the run")
    ] = None,
    momentum: Annotated[float, Option("--momentum")] = 0.9,
    weight_decay: Annotated[
        float | None, Option("--weight-decay", help="Of every parameter; in regularize the preset's.")
    ] = 5e-4,
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
    workers: Workers = None,
    accumulate: Accumulate = 1,
    sync_bn: SyncBn = False,
    compiled: Compiled = False,
    tf32: Tf32 = False,
    deterministic: Deterministic = False,
    log: Log = None,
    timing: Timing = False,
    preset: PresetName = Preset.QUICK,
    default_epochs: float | None = None,
) -> TrainingOptions:
    if iterations is None and epochs is None:
        epochs = default_epochs
    chosen = PRESETS[preset]
    return TrainingOptions(
        parse_data(data),
        chosen.lr if lr is None else lr,
        decay,
        chosen.batch_size if batch_size is None else batch_size,
        epochs, iterations, warmup, momentum,
        chosen.weight_decay if weight_decay is None else weight_decay,
        precision, device, seed, val_fraction, save_every, download, workers, accumulate, sync_bn, compiled, tf32,
        deterministic, log, timing, None if milestones is None else shares(milestones),
    )  # fmt: skip


def shares(text: str) -> tuple[float, ...]:
    """`1/3,2/3` or `0.5,0.75`: shares of a run."""
    try:
        return tuple(float(Fraction(part.strip())) for part in text[:200].split(","))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise RequestError(f"--milestones {text[:40]}: write shares of the run, like 1/2,3/4") from None


def penalty_options(
    method: Annotated[
        Method, Option("--method", help="greg-1 picks by L1 at once; greg-2 after a penalty on all units.")
    ] = Method.GREG_1,
    preset: PresetName = Preset.QUICK,
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
    pick_ceiling: Annotated[float | None, Option("--pick-ceiling", help="greg-2: lambda at which it picks.")] = None,
    pick_delta: Annotated[
        float | None, Option("--pick-delta", help="greg-2: growth of lambda at each update until then.")
    ] = None,
    recover: Annotated[
        float | None,
        Option("--recover", help="greg-2: lambda of kept units afterwards.", show_default="minus the weight decay"),
    ] = None,
    budget: Annotated[
        str | None,
        Option("--budget", metavar="TIME", help="30m, 2h or 90s: chooses delta, update-every and stabilize to fit."),
    ] = None,
    scale: Annotated[
        float | None, Option("--scale", metavar="F", help="The phase F times as long, in the same proportions.")
    ] = None,
) -> PenaltyOptions:
    return PenaltyOptions(
        method, preset, ceiling, delta, update_every, stabilize, stop_ratio, penalize, pick_ceiling, pick_delta,
        recover, None if budget is None else seconds(budget), scale,
    )  # fmt: skip


def seconds(text: str) -> float:
    """`30m`, `1h30m`, `90s`: a time in seconds."""
    found = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", text, re.ASCII)
    total = sum(int(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    if not total:
        raise RequestError(f"--budget {text[:20]}: write a time, like 90s, 30m or 1h30m")
    return float(total)


def teacher_options(
    teacher: Annotated[
        str | None, Option("--teacher", metavar="MODEL", help="Learn from its outputs too, say the dense network's.")
    ] = None,
    temperature: Annotated[
        float | None, Option("--temperature", help="Of both networks' outputs.", show_default="4")
    ] = None,
    teacher_weight: Annotated[
        float | None, Option("--teacher-weight", help="Its share of the loss.", show_default="0.9")
    ] = None,
) -> TeacherOptions:
    if teacher is not None and not is_architecture(teacher):
        require_model(teacher)
    return TeacherOptions(teacher, temperature, teacher_weight)
