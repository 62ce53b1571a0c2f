"""The growing penalty."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from greg_compress.errors import RequestError
from greg_compress.options.limits import MANY, require_between


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
    budget: float | None = None
    """Seconds for the whole phase, which then decides delta, K_u and K_s."""
    scale: float | None = None
    """Times the length that all the rest comes to, in the same proportions."""

    def __post_init__(self) -> None:
        require_between("ceiling", self.ceiling, 0, 1e6)
        require_between("pick-ceiling", self.pick_ceiling, 0, 1e6)
        require_between("pick-delta", self.pick_delta, 1e-12, 1e6)
        require_between("recover", self.recover, -1, 1)
        if self.method is not Method.GREG_2:
            for name in ("pick_ceiling", "pick_delta", "recover"):
                if getattr(self, name) is not None:
                    raise RequestError(f"--{name.replace('_', '-')} would have no effect without --method greg-2")
        require_between("budget", self.budget, 0, MANY)
        require_between("scale", self.scale, 0, 1e6)
        if self.budget is not None and self.scale is not None:
            raise RequestError("--scale is what --budget decides; give one of them")
        for name in ("delta", "pick_delta", "update_every", "stabilize") if self.budget is not None else ():
            if getattr(self, name) is not None:
                raise RequestError(f"--{name.replace('_', '-')} is what --budget decides; give one of them")
        require_between("delta", self.delta, 1e-12, 1e6)
        require_between("update-every", self.update_every, 0, MANY)
        require_between("stabilize", self.stabilize, -1, MANY)
        require_between("stop-ratio", self.stop_ratio, 0, 1e12)
