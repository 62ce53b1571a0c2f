"""The options of each stage, as frozen values. No torch here: what is wrong with them is said at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

from greg_compress.errors import RequestError
from greg_compress.selection.amounts import percent
from greg_compress.selection.plan_file import PlanFile
from greg_compress.selection.ratios import Ratios
from greg_compress.sources.specs import Architecture, DataSpec


class Decay(StrEnum):
    """How the learning rate falls after warm-up."""

    CONSTANT = "constant"
    COSINE = "cosine"
    MULTISTEP = "multistep"


class Precision(StrEnum):
    """What the forward and backward pass compute in; weights, penalty and picks stay float32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


class Penalize(StrEnum):
    """What of a unit the penalty pulls at: the paper's filter weights, or its bias and BatchNorm too."""

    WEIGHTS = "weights"
    UNIT = "unit"


class Method(StrEnum):
    """GReg-1 picks by L1 before the first iteration; GReg-2 lets a penalty on all units tell them apart first."""

    GREG_1 = "greg-1"
    GREG_2 = "greg-2"


class Preset(StrEnum):
    """Named settings of the growing penalty; `penalty.presets` says what they are."""

    QUICK = "quick"
    PAPER_CIFAR = "paper-cifar"
    PAPER_IMAGENET = "paper-imagenet"
    REPO_CIFAR = "repo-cifar"


class Scope(StrEnum):
    """Whether every group loses its ratio, or one threshold runs through all groups."""

    LOCAL = "local"
    GLOBAL = "global"


@dataclass(frozen=True)
class ModelOptions:
    """Which network a command works on."""

    model: str
    arch: Architecture | None = None
    """What this command names itself, and so may run."""
    input_shapes: tuple[tuple[int, ...], ...] | None = None
    allow_pickle: bool = False
    """Whether a whole pickled network may be opened, which runs code."""
    download: bool = False
    """Whether official weights may be fetched."""


@dataclass(frozen=True)
class Output:
    """Where a result goes."""

    path: Path
    force: bool = False
    resume: bool = False

    @property
    def partial(self) -> Path:
        """Unfinished work lives beside the output, never in it."""
        return self.path.with_name(self.path.name + ".partial")


@dataclass(frozen=True)
class Selection:
    """What is to be pruned: ratios, a plan or a target, exactly one of them, and what narrows or widens it."""

    ratios: Ratios | None = None
    skip: tuple[str, ...] = ()
    coupled: bool = False
    align: int | None = None
    """Kept channels are rounded to multiples of this."""
    scope: Scope = Scope.LOCAL
    max_ratio: Decimal | None = None
    target_macs: Decimal | None = None
    target_params: Decimal | None = None
    """What is to be left of the dense network, as a share of 1."""
    plan: PlanFile | None = None

    def __post_init__(self) -> None:
        given = [option for option, value in self._ways().items() if value is not None]
        require_one(given)
        _require_between("align", self.align, 0, MANY)
        if self.scope is Scope.GLOBAL and self.ratios is not None and self.ratios.uniform is None:
            raise RequestError(f"--scope global takes one number as --ratios, not {self.ratios.text[:80]}; or a target")

    def _ways(self) -> dict[str, str | None]:
        """How each of the options that select was given."""
        targets = {"--target-macs": self.target_macs, "--target-params": self.target_params}
        return {
            "--ratios": None if self.ratios is None else self.ratios.text,
            "--plan": None if self.plan is None else self.plan.path,
            **{option: None if target is None else percent(target) for option, target in targets.items()},
        }

    @property
    def option(self) -> str:
        """The option that selects."""
        return next(option for option, value in self._ways().items() if value is not None)

    @property
    def text(self) -> str:
        """That option with its value, as it can be typed."""
        return f"{self.option} {self._ways()[self.option]}"

    @property
    def target(self) -> Decimal | None:
        return self.target_params if self.target_macs is None else self.target_macs

    @property
    def cap(self) -> Decimal | None:
        """The largest share that a group may lose; one threshold for all would empty the least important ones."""
        return DEFAULT_CAP if self.max_ratio is None and self.scope is Scope.GLOBAL else self.max_ratio


@dataclass(frozen=True)
class TrainingOptions:
    """What every command that trains has in common."""

    data: DataSpec
    lr: float
    decay: Decay
    batch_size: int = 128
    epochs: float | None = None
    iterations: int | None = None
    warmup: int | None = None
    """Iterations; None for a twentieth of the run."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: Precision = Precision.AUTO
    device: str = "auto"
    seed: int = 0
    val_fraction: float = 0.0
    save_every: int = 500
    download: bool = False
    workers: int | None = None
    """Processes that read images, where they are not held in memory; None for up to 4."""

    def __post_init__(self) -> None:
        _require_between("lr", self.lr, 0, 1e6)
        _require_between("batch-size", self.batch_size, 0, MANY)
        _require_between("save-every", self.save_every, 0, MANY)
        _require_between("epochs", self.epochs, 0, MANY)
        _require_between("iterations", self.iterations, 0, MANY)
        _require_between("warmup", self.warmup, -1, MANY)
        _require_between("seed", self.seed, -1, 2**63)
        if self.epochs is not None and self.iterations is not None:
            raise RequestError("give --epochs or --iterations, not both")
        for name, value in {
            "val-fraction": self.val_fraction,
            "momentum": self.momentum,
            "weight-decay": self.weight_decay,
        }.items():
            if not 0 <= value < 1:
                raise RequestError(f"--{name} must be at least 0 and below 1, not {value:g}")
        require_device(self.device)

    def total(self, steps_per_epoch: int) -> int:
        """Iterations of the whole run."""
        if self.iterations is not None:
            return self.iterations
        assert self.epochs is not None
        return max(1, round(self.epochs * steps_per_epoch))


@dataclass(frozen=True)
class PenaltyOptions:
    """The growing penalty (the paper's Algorithm 1); None leaves a value to the preset."""

    method: Method = Method.GREG_1
    preset: Preset = Preset.QUICK
    ceiling: float | None = None
    delta: float | None = None
    update_every: int | None = None
    stabilize: int | None = None
    stop_ratio: float | None = None
    penalize: Penalize | None = None
    pick_ceiling: float | None = None
    pick_delta: float | None = None
    recover: float | None = None

    def __post_init__(self) -> None:
        _require_between("ceiling", self.ceiling, 0, 1e6)
        _require_between("pick-ceiling", self.pick_ceiling, 0, 1e6)
        _require_between("pick-delta", self.pick_delta, 1e-12, 1e6)
        _require_between("recover", self.recover, -1, 1)
        if self.method is not Method.GREG_2:
            for name in ("pick_ceiling", "pick_delta", "recover"):
                if getattr(self, name) is not None:
                    raise RequestError(f"--{name.replace('_', '-')} would have no effect without --method greg-2")
        _require_between("delta", self.delta, 1e-12, 1e6)
        _require_between("update-every", self.update_every, 0, MANY)
        _require_between("stabilize", self.stabilize, -1, MANY)
        _require_between("stop-ratio", self.stop_ratio, 0, 1e12)


@dataclass(frozen=True)
class TeacherOptions:
    """Whom fine-tuning learns from, besides the labels (Hinton et al., 2015)."""

    teacher: str | None = None
    temperature: float | None = None
    teacher_weight: float | None = None

    def __post_init__(self) -> None:
        _require_between("temperature", self.temperature, 1e-3, 1e6)
        if self.teacher_weight is not None and not 0 < self.teacher_weight <= 1:
            raise RequestError(f"--teacher-weight must be above 0 and at most 1, not {self.teacher_weight:g}")
        for name in ("temperature", "teacher_weight"):
            if self.teacher is None and getattr(self, name) is not None:
                raise RequestError(f"--{name.replace('_', '-')} would have no effect without --teacher")


@dataclass(frozen=True)
class ExportOptions:
    """How the network is exported, checked and timed."""

    baseline: str | None = None
    opset: int | None = None
    threads: int = 1
    runs: int = 200
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        _require_between("threads", self.threads, 0, 1025)
        _require_between("runs", self.runs, 0, 10**7)
        _require_between("tolerance", self.tolerance, 0, 1)
        if self.opset is not None and not OLDEST_OPSET <= self.opset < 100:
            raise RequestError(f"--opset {self.opset}: write {OLDEST_OPSET} or a newer one")


@dataclass(frozen=True)
class SensitivityOptions:
    """What the sensitivity of each group is measured on."""

    data: DataSpec
    samples: int
    """Test images at most."""
    device: str
    download: bool
    workers: int | None

    def __post_init__(self) -> None:
        _require_between("samples", self.samples, 0, MANY)
        require_device(self.device)


WAYS = "--ratios, --plan, --target-macs and --target-params"
DEFAULT_CAP = Decimal("0.9")
MANY = 10**9
SAMPLES = 2000
"""Test images that show a sensitivity: a quarter of a point is 5 of them, and a point takes seconds."""
OLDEST_OPSET = 18
"""The dynamo exporter's own; older ones need a conversion that it does not always manage."""


def require_one(given: Sequence[str]) -> None:
    """Raise RequestError unless exactly one of the options that select is given."""
    if len(given) != 1:
        raise RequestError(f"say what to prune with one of {WAYS}" + f", not {' and '.join(given)}" * bool(given))


def require_device(name: str) -> None:
    """Raise RequestError unless `name` is auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise RequestError(f"--device {name}: write auto, cpu, cuda or cuda:N")


def _require_between(name: str, value: float | None, above: float, below: float) -> None:
    if value is not None and not above < value < below:
        raise RequestError(f"--{name} {str(value)[:20]}: it must be above {above:g} and below {below:g}")
