"""What the penalty adds to a training step, against the way of the paper's code.

Usage: python tests/benchmarks/penalty.py [resnet56] [resnet50], on an otherwise idle machine, with the number of
threads that torch takes by itself (OMP_NUM_THREADS not set). All take turns in one process. Exit status 1 when the
penalty takes more than 2 % of a step, or is not 5 times cheaper than the paper's way of the same. Without --stop-ratio
the ratios are measured at every tenth update, since only the display asks for them; the paper's code always does.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from greg_compress.options.penalty import Penalize
from greg_compress.options.selecting import Selection
from greg_compress.options.training import Precision
from greg_compress.penalty.growing import MEASURE_EVERY, GrowingPenalty
from greg_compress.penalty.schedule import GrowthSchedule, Picking
from greg_compress.penalty.targets import Units
from greg_compress.selection.choose import by_l1, choose
from greg_compress.selection.plan import Plan
from greg_compress.selection.ratios import parse_ratios
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.training.numerics import autocast, flush_denormals, resolve_precision
from greg_compress.wiring.groups import Wiring
from sample_models.resnet_cifar import resnet56

MOST_PERCENT, LEAST_RATIO = 2.0, 5.0
DELTA, CEILING, STOP_RATIO = 1e-4, 1.0, 1000.0
RECOVER = -5e-4
ASKED = ("GReg-1", "GReg-2")
"""What has to be 5 times cheaper: the same parameters as in the paper's way."""


@dataclass(frozen=True)
class Setting:
    """A network, and how the paper's tables train and prune it."""

    name: str
    build: Callable[[], nn.Module]
    size: int
    batch: int
    ratios: str
    every: int
    """K_u."""
    periods: int
    """Of K_u steps each, of which the median is taken."""


SETTINGS = (
    Setting("resnet56", resnet56, 32, 128, "0.5", 10, 3),
    Setting("resnet50", torchvision.models.resnet50, 224, 8, "[0, 0.6, 0.6, 0.6, 0.21]", 5, 3),
)


class PapersWay:
    """One penalised step of github.com/MingSun-Tse/Regularization-Pruning, for filters; its printing left out.

    Args:
        removed: picked filters of each layer that loses any.
        recover: lambda of the kept filters of GReg-2; None for GReg-1.
    """

    def __init__(self, model: nn.Module, removed: dict[str, Tensor], every: int, recover: float | None) -> None:
        self.layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
        self.model = model
        self.lambdas = {name: torch.zeros(m.weight.shape[:2]) for name, m in self.layers.items()}
        self.removed, self.every, self.recover = removed, every, recover
        self.at_first = {name: m.weight.abs().mean().item() for name, m in self.layers.items()}
        self.kept = {
            name: [i for i in range(len(self.layers[name].weight)) if i not in gone] for name, gone in removed.items()
        }
        self.finished = self.layers.keys() - removed.keys()
        self._ratios: dict[str, Tensor] = {}
        self._updates = 0
        self.iteration = 0

    def add_gradients(self) -> None:
        if self.iteration % self.every == 0:
            self.update()
        for name, _ in self.model.named_modules():
            if name in self.lambdas:
                weight, lambdas = self.layers[name].weight, self.lambdas[name]
                if weight.dim() == 4:
                    lambdas = lambdas.unsqueeze(2).unsqueeze(3)
                assert weight.grad is not None
                weight.grad += lambdas * weight  # with a graph, as in the code
        self.iteration += 1

    def update(self) -> None:
        self._updates += 1
        self._ratios = dict(self._ratios)
        for name, _ in self.model.named_modules():
            if name in self.layers and name not in self.finished:
                weight = self.layers[name].weight
                score = weight.abs().mean(dim=[1, 2, 3])
                if self.recover is None:
                    self.measure(name, score)
                self.lambdas[name][self.removed[name], :] += DELTA
                if self.recover is not None:
                    self.lambdas[name][self.kept[name], :] = self.recover
                    self.measure(name, score)
                if self.pushed_enough(name):
                    self.finished.add(name)

    def measure(self, name: str, score: Tensor) -> None:
        removed = self.removed[name]
        kept = [i for i in range(len(score)) if i not in removed]
        of_removed, of_kept = score[removed].mean(), score[kept].mean()
        ratio = of_kept / of_removed
        self._ratios[name] = self._ratios[name] * 0.9 + ratio * 0.1 if name in self._ratios else ratio
        of_kept / self.at_first[name]

    def pushed_enough(self, name: str) -> bool:
        if self.recover is not None:
            return bool(self._ratios[name] >= STOP_RATIO or self.lambdas[name].max() > CEILING)
        separated = True
        for ratio in self._ratios.values():
            if ratio < STOP_RATIO:
                separated = False
        return bool(separated or self.lambdas[name].max() > CEILING)


def ours(
    model: nn.Module, wiring: Wiring, plan: Plan, every: int, second: bool,
    penalize: Penalize = Penalize.WEIGHTS, stop_ratio: float | None = None,
) -> GrowingPenalty:  # fmt: skip
    """As stage `regularize` builds it; of GReg-2 the part after it has picked, which is the longer one."""
    units = Units(model, wiring, penalize)
    if not second:
        schedule = GrowthSchedule(CEILING, DELTA, every, 10**6, stop_ratio)
        return GrowingPenalty(schedule, units.picked_by(plan, recover=False))

    def pick(saved: object) -> tuple[Plan, object]:
        chosen = by_l1(model, wiring, plan)
        return chosen, units.picked_by(chosen, recover=True)

    schedule = GrowthSchedule(CEILING, DELTA, every, 10**6, stop_ratio, Picking(0.5 * DELTA, DELTA, RECOVER))
    penalty = GrowingPenalty(schedule, units.all_of(plan), pick)
    while penalty.phase == "growing":
        penalty.add_gradients()
    while penalty._iteration % every:
        penalty.add_gradients()
    return penalty


class Step:
    """A training step as the loop takes it, with room for others between backward and the optimizer."""

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=True)
        images = torch.randn(setting.batch, 3, setting.size, setting.size)
        self.images = images.to(memory_format=torch.channels_last)
        self.labels = torch.randint(10, (setting.batch,))

    def __call__(self, precision: Precision, between: Callable[[], None]) -> float:
        """Seconds, without what is between."""
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(precision, torch.device("cpu")):
            output = self.model(self.images)
        F.cross_entropy(output.float(), self.labels).backward()
        taken = time.perf_counter() - start
        between()
        start = time.perf_counter()
        self.optimizer.step()
        return taken + time.perf_counter() - start


def compare(setting: Setting) -> bool:
    torch.manual_seed(0)
    model = setting.build().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    wiring = prunable_wiring(model, ((3, setting.size, setting.size),))
    plan = choose(model, wiring, Selection(parse_ratios(setting.ratios)))
    removed = {name: torch.tensor(share.removed) for name, share in plan.shares.items() if share.removed}
    step = Step(model, setting)
    step(Precision.FP32, lambda: None)  # gradients to begin with
    penalties = {
        (way, every): part
        for every in (setting.every, 1)
        for way, part in (
            ("GReg-1", ours(model, wiring, plan, every, second=False)),
            ("GReg-1, --stop-ratio", ours(model, wiring, plan, every, second=False, stop_ratio=STOP_RATIO)),
            ("GReg-1, whole units", ours(model, wiring, plan, every, second=False, penalize=Penalize.UNIT)),
            ("the paper's GReg-1", PapersWay(model, removed, every, None)),
            ("GReg-2", ours(model, wiring, plan, every, second=True)),
            ("GReg-2, --stop-ratio", ours(model, wiring, plan, every, second=True, stop_ratio=STOP_RATIO)),
            ("the paper's GReg-2", PapersWay(model, removed, every, RECOVER)),
        )
    }
    precisions = sorted({Precision.FP32, resolve_precision(Precision.AUTO, torch.device("cpu"))})
    cold = torch.zeros(2**25)
    steps: dict[Precision, list[float]] = {precision: [] for precision in precisions}
    calls: Calls = {key: {} for key in penalties}

    def call_all() -> None:
        for key, penalty in penalties.items():
            cold.add_(1)  # nothing is left in the processor's caches, as after a backward pass
            updates, ratios = penalty._updates, penalty._ratios
            start = time.perf_counter()
            penalty.add_gradients()
            taken = time.perf_counter() - start
            kind = "plain" if penalty._updates == updates else "update" if penalty._ratios is ratios else "measured"
            calls[key].setdefault(kind, []).append(taken)
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad = parameter.grad.detach()

    for precision in precisions:
        step(precision, call_all)
    for taken in calls.values():
        taken.clear()
    for _ in range(setting.every * setting.periods):
        for precision in precisions:
            steps[precision].append(step(precision, call_all if precision is precisions[0] else lambda: None))
    return report(setting, steps, calls)


Calls = dict[tuple[str, int], dict[str, list[float]]]


def report(setting: Setting, steps: dict[Precision, list[float]], calls: Calls) -> bool:
    step = {precision: statistics.median(taken) for precision, taken in steps.items()}
    spent = {key: per_iteration(taken, key[1], MEASURE_EVERY if key[0] in ASKED else 1) for key, taken in calls.items()}
    lengths = ", ".join(f"{1e3 * taken:.0f} ms in {precision}" for precision, taken in step.items())
    print(f"{setting.name}, {setting.batch} images of {setting.size}x{setting.size}: a step takes {lengths}")
    held = True
    for (way, every), taken in spent.items():
        shares = {precision: 100 * taken / whole for precision, whole in step.items()}
        line = f"  {way + ',':22} K_u = {every:2}: {1e3 * taken:8.3f} ms, " + " and ".join(
            f"{share:.2f} % ({precision})" for precision, share in shares.items()
        )
        if not way.startswith("the paper's"):
            ratio = spent[f"the paper's {way[:6]}", every] / taken
            line += f", {ratio:.1f} times less than the paper's way"
            held = held and max(shares.values()) <= MOST_PERCENT and (way not in ASKED or ratio >= LEAST_RATIO)
        print(line, flush=True)
    return held


def per_iteration(calls: dict[str, list[float]], every: int, measure_every: int) -> float:
    """Seconds on average, from the median of each kind of call: plain, with an update, with a measurement too."""
    plain, update, measured = (statistics.median(calls.get(kind, [0.0])) for kind in ("plain", "update", "measured"))
    updating = (measured + (measure_every - 1) * update) / measure_every
    return (updating + (every - 1) * plain) / every


flush_denormals()
names = sys.argv[1:] or [setting.name for setting in SETTINGS]
held = [compare(setting) for setting in SETTINGS if setting.name in names]
sys.exit(0 if all(held) else 1)
