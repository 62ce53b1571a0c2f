"""How a network is trained: the loop, and a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from greg_compress.errors import RequestError
from greg_compress.options.limits import MANY, require_between, require_device
from greg_compress.sources.specs import DataSpec


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
    FP16 = "fp16"


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

    accumulate: int = 1
    """Pieces of a batch (in each process) whose gradients add up to a step, for memory too small for a whole one."""
    sync_bn: bool = False
    """Whether batch normalisation sees the images of all processes."""
    compiled: bool = False
    """Whether torch.compile makes the network faster."""
    tf32: bool = False
    """Whether CUDA may round the factors of float32 products to 10 bits."""
    deterministic: bool = False
    """Whether CUDA takes algorithms that repeat bit for bit."""
    log: Path | None = None
    """Where figures go as JSON lines while it runs."""
    timing: bool = False
    """Whether to say how long it would take, and stop there."""
    milestones: tuple[float, ...] | None = None
    """Shares of the run at which `multistep` divides the rate by 10; None for the usual."""

    def __post_init__(self) -> None:
        require_between("accumulate", self.accumulate, 0, MANY)
        require_between("lr", self.lr, 0, 1e6)
        require_between("batch-size", self.batch_size, 0, MANY)
        require_between("save-every", self.save_every, 0, MANY)
        require_between("epochs", self.epochs, 0, MANY)
        require_between("iterations", self.iterations, 0, MANY)
        require_between("warmup", self.warmup, -1, MANY)
        require_between("seed", self.seed, -1, 2**63)
        if self.epochs is not None and self.iterations is not None:
            raise RequestError("give --epochs or --iterations, not both")
        self._require_milestones()
        for name, value in {
            "val-fraction": self.val_fraction,
            "momentum": self.momentum,
            "weight-decay": self.weight_decay,
        }.items():
            if not 0 <= value < 1:
                raise RequestError(f"--{name} must be at least 0 and below 1, not {value:g}")
        require_device(self.device)

    def _require_milestones(self) -> None:
        if self.milestones is None:
            return
        if self.decay is not Decay.MULTISTEP:
            raise RequestError("--milestones would have no effect without --decay multistep")
        if not all(0 < a < b for a, b in pairwise((*self.milestones, 1.0))):
            raise RequestError("--milestones must grow, above 0 and below 1, like 1/2,3/4")

    def total(self, steps_per_epoch: int) -> int:
        """Iterations of the whole run."""
        if self.iterations is not None:
            return self.iterations
        assert self.epochs is not None
        return max(1, round(self.epochs * steps_per_epoch))


@dataclass(frozen=True)
class TeacherOptions:
    """Whom fine-tuning learns from, besides the labels (Hinton et al., 2015)."""

    teacher: str | None = None
    temperature: float | None = None
    teacher_weight: float | None = None

    def __post_init__(self) -> None:
        require_between("temperature", self.temperature, 1e-3, 1e6)
        if self.teacher_weight is not None and not 0 < self.teacher_weight <= 1:
            raise RequestError(f"--teacher-weight must be above 0 and at most 1, not {self.teacher_weight:g}")
        for name in ("temperature", "teacher_weight"):
            if self.teacher is None and getattr(self, name) is not None:
                raise RequestError(f"--{name.replace('_', '-')} would have no effect without --teacher")
