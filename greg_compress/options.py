"""The options of each stage, as frozen values. No torch here: what is wrong with them is said at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from greg_compress.errors import RequestError
from greg_compress.selection.ratios import Ratios
from greg_compress.sources.specs import Architecture, DataSpec

QUICK_LR = 1e-2
"""Learning rate of preset `quick`: the paper's 1e-3 is too small for its short schedule."""


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


class Preset(StrEnum):
    """Named settings of the growing penalty."""

    QUICK = "quick"


@dataclass(frozen=True)
class ModelOptions:
    """Which network a command works on."""

    model: str
    arch: Architecture | None = None
    """What this command names itself, and so may run."""
    input_shape: tuple[int, ...] | None = None


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
    """What is to be pruned."""

    ratios: Ratios
    skip: tuple[str, ...] = ()


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

    def __post_init__(self) -> None:
        positive = {"lr": self.lr, "batch-size": self.batch_size, "save-every": self.save_every}
        optional = {"epochs": self.epochs, "iterations": self.iterations}
        positive |= {name: value for name, value in optional.items() if value is not None}
        for name, value in positive.items():
            if not 0 < value < float("inf"):
                raise RequestError(f"--{name} must be above 0, not {value:g}")
        if self.epochs is not None and self.iterations is not None:
            raise RequestError("give --epochs or --iterations, not both")
        if not 0 <= self.val_fraction < 1:
            raise RequestError(f"--val-fraction must be at least 0 and below 1, not {self.val_fraction:g}")
        for name, value in {"momentum": self.momentum, "weight-decay": self.weight_decay}.items():
            if not 0 <= value < 1:
                raise RequestError(f"--{name} must be at least 0 and below 1, not {value:g}")

    def total(self, steps_per_epoch: int) -> int:
        """Iterations of the whole run."""
        if self.iterations is not None:
            return self.iterations
        assert self.epochs is not None
        return max(1, round(self.epochs * steps_per_epoch))


@dataclass(frozen=True)
class PenaltyOptions:
    """The growing penalty (the paper's Algorithm 1); None leaves a value to the preset."""

    preset: Preset = Preset.QUICK
    ceiling: float | None = None
    delta: float | None = None
    update_every: int | None = None
    stabilize: int | None = None
    stop_ratio: float | None = None
    penalize: Penalize | None = None

    def __post_init__(self) -> None:
        values = {
            "ceiling": self.ceiling,
            "delta": self.delta,
            "update-every": self.update_every,
            "stop-ratio": self.stop_ratio,
        }
        for name, value in values.items():
            if value is not None and not 0 < value < float("inf"):
                raise RequestError(f"--{name} must be above 0, not {value:g}")
        if self.stabilize is not None and self.stabilize < 0:
            raise RequestError(f"--stabilize must be at least 0, not {self.stabilize}")


@dataclass(frozen=True)
class ExportOptions:
    """How the network is exported, checked and timed."""

    baseline: str | None = None
    opset: int | None = None
    threads: int = 1
    runs: int = 200
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        for name, value in {"threads": self.threads, "runs": self.runs, "tolerance": self.tolerance}.items():
            if not value > 0:
                raise RequestError(f"--{name} must be above 0, not {value:g}")
