"""How long a run will take, from a few warm iterations on its own data."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import median

import torch

from greg_compress.long_run.course import Course
from greg_compress.training.schedule import Schedule

WARM, FEWEST, MOST = 3, 5, 50
LONGEST = 5.0
"""Seconds after which `FEWEST` timed iterations are enough."""
SLACK = 0.97
"""Of a budget; the rest is for saving, and for what else the machine does."""


@dataclass(frozen=True)
class Pace:
    """Seconds of an iteration with its share of evaluations at the end of epochs, and of those before and after."""

    step: float
    evaluations: float

    def seconds(self, iterations: int) -> float:
        return iterations * self.step + self.evaluations

    def iterations_in(self, budget: float) -> int:
        """As many as fit in `budget` seconds."""
        return max(0, int((SLACK * budget - self.evaluations) / self.step))


def end_in(seconds: float) -> str:
    """Local time, ISO 8601."""
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def measured(course: Course) -> Pace:
    """Time a copy of the network at a learning rate of 0. Data are read and augmented as they will be: with images
    from files that may be what takes the time.
    """
    step = _step(replace(course, model=copy.deepcopy(course.model), held_out=None))
    size = course.test.at_once * course.world.size
    some = course.test.select(torch.arange(min(size, len(course.test))))
    course.evaluate(some)
    begun = time.perf_counter()
    course.evaluate(some)
    image = (time.perf_counter() - begun) / len(some)
    held_out = 0 if course.held_out is None else len(course.held_out)
    found = step + image * held_out / len(course.batches), 2 * image * len(course.test)
    return Pace(*course.world.of_first(found))


def _step(course: Course) -> float:
    times: list[float] = []
    loop = course.loop(Schedule(0.0, WARM + MOST))
    begun = last = time.perf_counter()
    for iteration in loop:
        loop.wait()
        now = time.perf_counter()
        if iteration > WARM:
            times.append(now - last)
        last = now
        if course.world.of_first(len(times) >= FEWEST and now - begun > LONGEST):
            break
    return median(times)
