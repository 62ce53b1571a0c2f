"""What is to be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from greg_compress.errors import RequestError
from greg_compress.options.criterion import L1, Criterion
from greg_compress.options.limits import MANY, require_between
from greg_compress.selection.amounts import percent
from greg_compress.selection.plan_file import PlanFile
from greg_compress.selection.ratios import Ratios

SELECTING = ("ratios", "plan", "target-macs", "target-params", "target-latency", "target-speedup")
"""The options that say how much goes; the others narrow or widen it."""
WAYS = " and ".join([", ".join(f"--{name}" for name in SELECTING[:-1]), f"--{SELECTING[-1]}"])
DEFAULT_CAP = Decimal("0.9")


class Scope(StrEnum):
    """Whether every group loses its ratio, or one threshold runs through all groups."""

    LOCAL = "local"
    GLOBAL = "global"


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
    criterion: Criterion = L1
    unstructured: bool = False
    """Whether single weights go, not channels."""
    auto_align: bool = False
    """Whether measured times decide what kept channels are multiples of."""
    target_latency: float | None = None
    """Milliseconds of one run in onnxruntime (p50)."""
    target_speedup: float | None = None
    """How many times faster, in measured time."""
    threads: int = 1
    batch: int = 1
    """Where these times hold: threads of the runtime, and samples of a run."""

    def __post_init__(self) -> None:
        given = [option for option, value in self._ways().items() if value is not None]
        require_one(given)
        require_between("align", self.align, 0, MANY)
        require_between("threads", self.threads, 0, 1025)
        require_between("batch", self.batch, 0, MANY)
        if self.scope is Scope.GLOBAL and self.ratios is not None and self.ratios.uniform is None:
            raise RequestError(f"--scope global takes one number as --ratios, not {self.ratios.text[:80]}; or a target")

    def _ways(self) -> dict[str, str | None]:
        """How each of the options that select was given."""
        targets = {"--target-macs": self.target_macs, "--target-params": self.target_params}
        return {
            "--ratios": None if self.ratios is None else self.ratios.text,
            "--plan": None if self.plan is None else self.plan.path,
            **{option: None if target is None else percent(target) for option, target in targets.items()},
            "--target-latency": None if self.target_latency is None else f"{self.target_latency:g}ms",
            "--target-speedup": None if self.target_speedup is None else f"{self.target_speedup:g}x",
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
    def timed(self) -> bool:
        """Whether it depends on measured times."""
        return self.target_latency is not None or self.target_speedup is not None or self.auto_align

    @property
    def cap(self) -> Decimal | None:
        """The largest share that a group may lose; one threshold for all would empty the least important ones."""
        return DEFAULT_CAP if self.max_ratio is None and self.scope is Scope.GLOBAL else self.max_ratio


def require_one(given: Sequence[str]) -> None:
    """Raise RequestError unless exactly one of the options that select is given."""
    if len(given) != 1:
        raise RequestError(f"say what to prune with one of {WAYS}" + f", not {' and '.join(given)}" * bool(given))
