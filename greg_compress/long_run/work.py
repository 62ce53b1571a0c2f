"""A run in progress: how it begins, and how it is saved."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from greg_compress.errors import GregError, RequestError, input_fault
from greg_compress.fit import fitting, normalization_of
from greg_compress.long_run.job import Job, Phase
from greg_compress.long_run.resume import percent_or_none, reopen
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
from greg_compress.training.evaluation import evaluate
from greg_compress.training.loop import Loop, Settings
from greg_compress.training.randomness import generator
from greg_compress.training.schedule import Schedule
from greg_compress.training.world import World


@dataclass
class Work:
    """A run in progress: everything that goes into OUT.partial."""

    job: Job
    opened: Opened
    data: Dataset
    loop: Loop
    phase: Phase | None
    device: torch.device
    before: float | None
    seconds: float
    """Spent in earlier parts of the run."""
    started: float
    saver: Saver = field(init=False)

    def __post_init__(self) -> None:
        self.saver = Saver(self.job.output.partial)

    def elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def evaluate(self, check: Callable[[], None]) -> float:
        normalization = normalization_of(self.opened.state)
        return evaluate(self.opened.model, self.data.test, normalization, self.device, check, self.loop.world).top1

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
        """Have OUT.partial written; called by all processes, since each holds a part of the position.

        Args:
            last: whether nothing follows: it is written at once, and whatever failed before is forgotten.
        """
        self.loop.require_finite()
        position = self.loop.state_dict()
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
            "top1_before": self.before,
            "digest": self.opened.digest,
            "clock": {"seconds": self.elapsed()},
        }
        (self.saver.save_now if last else self.saver.save)(replace(self.opened.state, weights=weights, run=run))

    def finish(self, after: float) -> dict[str, Any]:
        """Write OUT, drop OUT.partial and return the command's figures."""
        state, job = self.opened.state, self.job
        untrained = not state.history and job.command != "train"
        log = self.loop.log
        plan, figures = self.phase.conclude() if self.phase else (state.plan, {})
        metrics = {
            "top1_before": self.before,
            "top1_after": after,
            "val_top1": log[-1].get("val_top1") if log else None,
            "iterations": self.loop.iteration,
            **figures,
        }
        if self.loop.world.rank:
            return metrics
        self.saver.wait()
        entry = history.entry(
            job.command,
            job.recorded,
            {**metrics, "log": log, "processes": self.loop.world.size},
            model=job.recorded["model"],
            digest=self.opened.digest,
            untrained=untrained,
            seconds=self.elapsed(),
        )
        weights = weights_of(self.opened.model)
        result = replace(state, stage=job.stage, weights=weights, plan=plan, history=[*state.history, entry])
        files.save(result, job.output.path, replace=job.output.force)
        job.output.partial.unlink(missing_ok=True)
        return {**metrics, "seconds": self.elapsed()}


def begin_or_resume(job: Job, data: Dataset, world: World, device: torch.device, ui: Reporter) -> Work:
    """Begin, or pick up OUT.partial."""
    resumed = job.output.resume and job.output.partial.exists()
    opened, saved = reopen(job) if resumed else (job.open(data), None)
    data = fitting(opened, data)
    world.share(opened.model.state_dict().values())  # a factory may draw its weights at random
    if not resumed:
        job.begin(opened)
    opened.state.data = data.name
    opened.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    opened.state.memory_format = "channels_last"
    loop, phase = _loop(job, opened, data, world, device)
    work = Work(job, opened, data, loop, phase, device, None, 0.0, time.monotonic())
    if saved is not None:
        work.go_on(saved, ui)
    if world.rank == 0:
        replaced = loop.schedule.total > job.options.save_every
        require_room(job.output.partial, opened.model, job.options.momentum > 0, opened.state, replaced)
    return work


def _loop(job: Job, opened: Opened, data: Dataset, world: World, device: torch.device) -> tuple[Loop, Phase | None]:
    options = job.options
    train, held_out = _split(data.train, options)
    normalization = normalization_of(opened.state)
    batches = Batches(train.on(device), normalization, options.batch_size, options.seed, Share(world.rank, world.size))
    _require_images_for_all(batches, options, world)
    settings = Settings(
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        precision=numerics.resolve_precision(options.precision, device),
        device=device,
        seed=options.seed,
        accumulate=options.accumulate,
        sync_bn=options.sync_bn,
    )
    phase = job.phase(opened.model, opened.state, len(batches)) if job.phase else None
    total = phase.iterations if phase else options.total(len(batches))
    warmup = total // 20 if options.warmup is None else options.warmup
    schedule = Schedule(options.lr, total, options.decay, warmup)

    def validate() -> float:
        assert held_out is not None
        return evaluate(opened.model, held_out, normalization, device, world=world).top1

    objective = job.objective(opened.state, data, settings)
    regularizer = phase.regularizer if phase else None
    checked = validate if held_out else None
    return Loop(opened.model, batches, schedule, settings, regularizer, checked, objective, world), phase


def _require_images_for_all(batches: Batches, options: TrainingOptions, world: World) -> None:
    if options.sync_bn and world.size == 1:
        raise RequestError("--sync-bn would have no effect in one process; see torchrun")
    pieces = world.size * options.accumulate
    if batches.size < pieces:
        raise RequestError(
            f"a batch of {batches.size} images cannot be shared out in {pieces} pieces ({world.size} processes, "
            f"--accumulate {options.accumulate})"
        )


def _split(train: Samples, options: TrainingOptions) -> tuple[Samples, Samples | None]:
    """Hold out a fraction of the training images, drawn by the seed."""
    count = round(options.val_fraction * len(train))
    if not 0 < count < len(train):
        return train, None
    order = torch.randperm(len(train), generator=generator(options.seed, "validation"))
    return train.select(order[count:].sort().values), train.select(order[:count].sort().values)
