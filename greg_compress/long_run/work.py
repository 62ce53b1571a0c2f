"""A run in progress: how it begins, and how it is saved."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from greg_compress.errors import GregError, RequestError, input_fault
from greg_compress.fit import fitting, normalization_of
from greg_compress.long_run import metrics_log
from greg_compress.long_run.course import Course
from greg_compress.long_run.job import Job, Phase
from greg_compress.long_run.metrics_log import MetricsLog, require_log
from greg_compress.long_run.pace import Pace, end_in, measured
from greg_compress.long_run.resume import named_file, percent_or_none, reopen
from greg_compress.long_run.room import require_room
from greg_compress.long_run.saver import Saver, is_finite
from greg_compress.options.training import TrainingOptions
from greg_compress.reporting import Reporter
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.samples import Samples, Share
from greg_compress.state import files, history
from greg_compress.state.models import Opened, weights_of
from greg_compress.training import numerics
from greg_compress.training.batches import Batches
from greg_compress.training.loop import Loop, Settings
from greg_compress.training.randomness import generator
from greg_compress.training.schedule import MILESTONES, Schedule
from greg_compress.training.world import World


@dataclass
class Work:
    """A run in progress: everything that goes into OUT.partial."""

    job: Job
    opened: Opened
    course: Course
    loop: Loop
    phase: Phase | None
    before: float | None
    seconds: float
    """Spent in earlier parts of the run."""
    started: float
    allowed: int | None
    """Iterations that a budget allows."""
    pace: Pace | None
    factory: str | None
    """SHA-256 of the FILE.py that the command names, as it was when the network was made of it."""
    saver: Saver = field(init=False)

    def __post_init__(self) -> None:
        self.saver = Saver(self.job.output.partial)

    def elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def evaluate(self, check: Callable[[], None]) -> float:
        return self.course.evaluate(self.course.test, check)

    def expected(self) -> dict[str, Any]:
        """How long it will take from here, by the pace that was measured."""
        assert self.pace is not None
        iterations = self.loop.schedule.total - self.loop.iteration
        seconds = self.pace.seconds(iterations)
        undecided = {"l1_differs": None} if self.phase else {}
        figures = {**self._figures(None), **undecided, "iterations": iterations, "seconds": seconds}
        return {**figures, "seconds_per_iteration": self.pace.step, "end": end_in(seconds)}

    def _figures(self, after: float | None) -> dict[str, Any]:
        """What the command has to show."""
        log = self.loop.log
        return {
            "top1_before": self.before,
            "top1_after": after,
            "val_top1": log[-1].get("val_top1") if log else None,
            "iterations": self.loop.iteration,
            "processes": self.loop.world.size,
            **(self.phase.conclude()[1] if self.phase else {}),
        }

    def begin_log(self) -> MetricsLog:
        path = self.job.options.log if self.loop.world.rank == 0 else None
        if path is not None:
            output = self.job.output
            taken = {output.path, output.partial, Path(self.job.model.model)}
            require_log(path, taken, replace=output.force or output.resume)
        return MetricsLog(path, self.loop.iteration)

    def show(self, log: MetricsLog) -> None:
        """Write a line to the log now and then; called after each iteration, by all processes."""
        last = self.loop.log[-1] if self.loop.log else {}
        ended = last.get("iteration") == self.loop.iteration
        if self.job.options.log is not None and (ended or self.loop.iteration % metrics_log.EVERY == 0):
            now = self.loop.recent()
            figures = {name: getattr(now, name) for name in ("iteration", "phase", "epoch", "loss", "top1", "lr")}
            log.write(self.elapsed(), **figures, **now.extra, val_top1=last.get("val_top1") if ended else None)

    def go_on(self, saved: dict[str, Any], ui: Reporter) -> None:
        """From where OUT.partial was saved."""
        partial, size = self.job.output.partial, self.loop.world.size
        with input_fault(f"{partial} is damaged; begin anew with --force"):
            self.loop.load_state_dict(saved["loop"])
            self.before, self.seconds = percent_or_none(saved["top1_before"]), float(saved["clock"]["seconds"])
            before = int(saved["processes"])
        ui.note(f"going on from iteration {self.loop.iteration} of {partial}")
        if before != size:
            ui.warn(
                f"it was begun by {before} process{'es' * (before > 1)} and goes on with {size}: the result will not be"
                " bit for bit that of an undisturbed run"
            )

    def save_partial(self, last: bool = False) -> None:
        """Have OUT.partial written; called by all processes, since each holds a part of the position."""
        self.loop.require_finite()
        self.write_partial(self.loop.state_dict(), last)

    def write_partial(self, position: dict[str, Any], last: bool) -> None:
        """Have OUT.partial written by the first process.

        Args:
            last: whether nothing follows: it is written at once, and whatever failed before is forgotten.
        """
        if self.loop.world.rank:
            return
        weights = weights_of(self.opened.model, copies=not last)
        if not all(map(is_finite, weights.values())):
            raise GregError(f"the weights are not finite after iteration {self.loop.iteration}; lower --lr")
        run = {
            "command": self.job.command,
            "options": self.job.recorded,
            "loop": position,
            "processes": self.loop.world.size,
            "allowed": self.allowed,
            "top1_before": self.before,
            "digest": self.opened.digest,
            "factory": self.factory,
            "clock": {"seconds": self.elapsed()},
        }
        (self.saver.save_now if last else self.saver.save)(replace(self.opened.state, weights=weights, run=run))

    def finish(self, after: float) -> dict[str, Any]:
        """Write OUT, drop OUT.partial and return the command's figures."""
        state, job = self.opened.state, self.job
        untrained = not state.history and job.command != "train"
        metrics = self._figures(after)
        if self.loop.world.rank:
            return metrics
        self.saver.wait()
        entry = history.entry(
            job.command,
            job.recorded,
            {**metrics, **(self.phase.record() if self.phase else {}), "log": self.loop.log},
            model=job.recorded["model"],
            digest=self.opened.digest,
            untrained=untrained,
            seconds=self.elapsed(),
        )
        decided = self.phase.conclude()[0] if self.phase else {}
        weights = weights_of(self.opened.model)
        result = replace(state, stage=job.stage, weights=weights, history=[*state.history, entry], **decided)
        files.save(result, job.output.path, replace=job.output.force)
        job.output.partial.unlink(missing_ok=True)
        return {**metrics, "seconds": self.elapsed()}


def begin_or_resume(job: Job, data: Dataset, world: World, device: torch.device, ui: Reporter) -> Work:
    """Begin, or pick up OUT.partial."""
    resumed = job.output.resume and job.output.partial.exists()
    factory = named_file(job)
    opened, saved = reopen(job) if resumed else (job.open(data), None)
    data = fitting(opened, data)
    world.share(opened.model.state_dict().values())  # a factory may draw its weights at random
    if not resumed:
        job.begin(opened, data)
    opened.state.data = data.name
    opened.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    opened.state.memory_format = "channels_last"
    course = _course(job, opened, data, world, device)
    allowed = saved["allowed"] if saved else None
    pace = None
    if job.options.timing or (job.budget is not None and saved is None):
        pace = measured(course)
    if pace is not None and job.budget is not None and saved is None:
        allowed = pace.iterations_in(job.budget)
    loop, phase = _loop(job, opened, course, allowed)
    work = Work(job, opened, course, loop, phase, None, 0.0, time.monotonic(), allowed, pace, factory)
    if saved is not None:
        work.go_on(saved, ui)
    if world.rank == 0:
        replaced = loop.schedule.total > job.options.save_every or resumed
        start = loop.regularizer.state_dict() if loop.regularizer else {}
        recorded = phase.most_recorded if phase else 0
        require_room(
            job.output.partial, opened.model, job.options.momentum > 0, opened.state, replaced, start, recorded
        )
    return work


def _course(job: Job, opened: Opened, data: Dataset, world: World, device: torch.device) -> Course:
    """What a run trains and evaluates on."""
    options = job.options
    train, held_out = _split(data.train, options)
    normalization = normalization_of(opened.state)
    share = Share(world.rank, world.size)
    batches = Batches(train.on(device), normalization, options.batch_size, options.seed, share, device)
    _require_images_for_all(batches, options, world)
    settings = Settings(
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        precision=numerics.resolve_precision(options.precision, device),
        device=device,
        seed=options.seed,
        accumulate=options.accumulate,
        sync_bn=options.sync_bn,
        compiled=options.compiled,
    )
    objective = job.objective(opened.state, data, settings)
    return Course(opened.model, batches, settings, objective, world, normalization, data.test, held_out)


def _loop(job: Job, opened: Opened, course: Course, allowed: int | None) -> tuple[Loop, Phase | None]:
    options, steps = job.options, len(course.batches)
    phase = job.phase(opened.model, opened.state, steps, allowed) if job.phase else None
    total = phase.iterations if phase else options.total(steps)
    warmup = total // 20 if options.warmup is None else options.warmup
    schedule = Schedule(options.lr, total, options.decay, warmup, options.milestones or MILESTONES)
    regularizer = phase.regularizer if phase else job.regularizer(opened.model, opened.state)
    return course.loop(schedule, regularizer), phase


def _require_images_for_all(batches: Batches, options: TrainingOptions, world: World) -> None:
    if options.sync_bn and world.size == 1:
        raise RequestError("--sync-bn would have no effect in one process; see torchrun")
    pieces = world.size * options.accumulate
    if batches.size < pieces:
        raise RequestError(
            f"a batch of {batches.size} images cannot be shared out in {pieces} pieces ({world.size} processes, "
            f"--accumulate {options.accumulate}); give a larger --batch-size"
        )


def _split(train: Samples, options: TrainingOptions) -> tuple[Samples, Samples | None]:
    """Hold out a fraction of the training images, drawn by the seed."""
    count = round(options.val_fraction * len(train))
    if not 0 < count < len(train):
        return train, None
    order = torch.randperm(len(train), generator=generator(options.seed, "validation"))
    return train.select(order[count:].sort().values), train.select(order[:count].sort().values)
