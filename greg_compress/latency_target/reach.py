"""Search, export the whole, measure, correct: until the network takes the time that was asked for."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

from greg_compress.deploy import latency, onnx_file
from greg_compress.deploy.latency import Latency
from greg_compress.errors import RequestError
from greg_compress.latency_target.layers import Integers, calls_of
from greg_compress.latency_target.predict import Prediction
from greg_compress.latency_target.search import Search
from greg_compress.latency_target.surface import Floats
from greg_compress.latency_target.timetable import Timetable, surfaces
from greg_compress.reporting import Reporter
from greg_compress.surgery.cut import cut
from greg_compress.wiring.groups import Group, Wiring

TOLERANCE = 0.05
"""Of the target, either way."""
AIM = 0.98
"""Of the time that is asked for: a little less passes a gate of that time, a little more does not."""
CORRECTIONS = 3
SECONDS, FEWEST_RUNS, MOST_RUNS = 4.0, 15, 2000
"""For the runs of both networks in one measurement; while it is noisy it is made again, at most twice."""


@dataclass(frozen=True)
class Goal:
    """A time, or a ratio of times, and where they hold."""

    option: str
    text: str
    milliseconds: float | None
    speedup: float | None
    threads: int = 1
    batch: int = 1

    def time(self, dense: Latency) -> float:
        """Milliseconds (p50) that are asked for, beside a dense network that takes `dense`."""
        return self.milliseconds if self.milliseconds is not None else dense.p50_ms / (self.speedup or 1.0)


@dataclass(frozen=True)
class Reached:
    """What was asked for, and what was measured."""

    goal: Goal
    dense: Latency
    pruned: Latency
    measurements: int

    @property
    def off(self) -> float:
        """The measured time over the one that is asked for."""
        return self.pruned.p50_ms / self.goal.time(self.dense)

    @property
    def meets(self) -> bool:
        """Whether it is fast enough, by no more than the tolerance."""
        return 1 - TOLERANCE <= self.off <= 1

    @property
    def speedup(self) -> float:
        return self.dense.p50_ms / self.pruned.p50_ms

    @property
    def noisy(self) -> bool:
        return self.dense.noisy or self.pruned.noisy

    @property
    def text(self) -> str:
        """What is reached, in the words of the option."""
        times = f"{self.pruned.p50_ms:.3g} ms instead of {self.dense.p50_ms:.3g}"
        return f"{times}, {self.speedup:.2f}x faster, by measurement (p50, threads: {self.goal.threads})"

    def __str__(self) -> str:
        return f"{self.goal.option} {self.goal.text}: {self.text}"

    def to_json(self) -> dict[str, Any]:
        """Milliseconds are p50."""
        return {
            "option": self.goal.option,
            "milliseconds": self.goal.time(self.dense),
            "dense_ms": self.dense.p50_ms,
            "p50_ms": self.pruned.p50_ms,
            "speedup": self.speedup,
            "threads": self.goal.threads,
            "batch": self.goal.batch,
            "noisy": self.noisy,
            "measurements": self.measurements,
        }


class Clock:
    """Predicts and measures what a network takes when groups of it keep fewer units."""

    def __init__(
        self,
        model: nn.Module,
        wiring: Wiring,
        groups: Sequence[Group],
        threads: int,
        batch: int,
        ui: Reporter,
        at: Path,
    ) -> None:
        """`at` is a folder for the files that are measured."""
        self._model, self._wiring, self._groups = model, wiring, groups
        self._threads, self._batch, self._folder = threads, batch, at
        ui.note("exporting the network to measure it")
        self._dense = self._exported(model, "dense.onnx")
        self.dense = latency.calmest([self._dense], wiring.input_shapes, threads, FEWEST_RUNS, batch).latencies[0]
        calls = calls_of(wiring, groups)
        sides = [(call.form, *call.free) for call in calls]
        found = surfaces(Timetable(threads, batch), sides, ui.note)
        self.channels = numpy.array([group.channels for group in groups], dtype=numpy.int64)
        self.prediction = Prediction(calls, found, self.channels, self.dense.p50_ms)

    def measure(self, kept: Integers) -> tuple[Latency, Latency]:
        """The dense network and the one that keeps so many units of each group, in turn."""
        removed = [group.units[int(count) :] for group, count in zip(self._groups, kept, strict=True)]
        small = copy.deepcopy(self._model)
        cut(small, self._wiring, torch.cat([torch.empty(0, dtype=torch.int64), *removed]))
        paths = [self._dense, self._exported(small, "pruned.onnx")]
        runs = int(min(MOST_RUNS, max(FEWEST_RUNS, SECONDS * 500 / self.dense.p50_ms)))
        dense, pruned = latency.calmest(paths, self._wiring.input_shapes, self._threads, runs, self._batch).latencies
        return dense, pruned

    def _exported(self, model: nn.Module, name: str) -> Path:
        path = self._folder / name
        onnx_file.write(onnx_file.flushed(model)[0], self._wiring.input_shapes, path, None)
        return path


@contextmanager
def clock(
    model: nn.Module, wiring: Wiring, groups: Sequence[Group], threads: int, batch: int, ui: Reporter
) -> Iterator[Clock]:
    """A clock for a network of which `groups` may lose units; what it measures is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="greg-") as folder:
        yield Clock(model, wiring, groups, threads, batch, ui, Path(folder))


def reach(
    goal: Goal, timed: Clock, counts: Sequence[Integers], worth: Callable[[Prediction], Sequence[Floats]], ui: Reporter
) -> tuple[Integers, Reached]:
    """Find how many units each group keeps, the most that is worth in the time that is asked for.

    Args:
        counts: the numbers of units that each group may keep, ascending.
        worth: what each of these numbers is worth, given what the layers take.

    Raises:
        RequestError: the network takes no more than that as it is, or no widths come within 5 % of it.
    """
    if goal.milliseconds is not None and goal.milliseconds >= timed.dense.p50_ms:
        raise RequestError(
            f"{goal.option} {goal.text}: the network takes {timed.dense.p50_ms:.3g} ms as it is; ask for less"
        )
    search = Search(timed.prediction, counts, worth(timed.prediction))
    least = numpy.array([each[0] for each in counts])
    aim, found, tried = AIM, list[tuple[Integers, Reached]](), set[bytes]()
    while len(found) <= CORRECTIONS:
        kept = search.within(aim * goal.time(timed.dense))
        if kept.tobytes() in tried:
            break
        tried.add(kept.tobytes())
        met = Reached(goal, *timed.measure(kept), measurements=len(found) + 1)
        ui.note(f"measurement {len(found) + 1}: {met.text}")
        found.append((kept, met))
        if met.meets:
            break
        aim *= AIM / met.off
    # What is slower by a little serves only where nothing that was measured is fast enough.
    kept, met = min(found, key=lambda each: (not each[1].meets, abs(each[1].off - 1)))
    if abs(met.off - 1) > TOLERANCE:
        fastest = bool((found[-1][0] == least).all()) and found[-1][1].off > 1
        what = (
            f"the narrowest that these groups can be takes {found[-1][1].text}" if fastest else f"nearest: {met.text}"
        )
        raise RequestError(f"{goal.option} {goal.text} is not reached within {100 * TOLERANCE:g}%; {what}")
    if met.noisy:
        ui.warn("times vary by more than 2.5% here: other work disturbs this machine; measure the export again")
    return kept, met
