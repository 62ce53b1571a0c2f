"""The life of a command that trains: begin or resume, save now and then, stop when asked, finish.

Unfinished work lives in OUT.partial, never in OUT. SIGINT and SIGTERM are heard between two steps, so that
what is saved is always a whole position. Start reading at :func:`run`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from greg_compress.errors import GregError, InputError, Interrupted, RequestError, input_fault
from greg_compress.fit import normalization_of, require_fit
from greg_compress.options import Output, TrainingOptions
from greg_compress.reporting import Reporter
from greg_compress.sources.data import Dataset, Part, load_data
from greg_compress.sources.specs import Architecture
from greg_compress.state import files, history
from greg_compress.state.format import State
from greg_compress.state.models import Opened, network, weights_of
from greg_compress.stop_signals import StopSignals
from greg_compress.training import numerics
from greg_compress.training.batches import Batches
from greg_compress.training.evaluation import evaluate
from greg_compress.training.loop import Loop, Regularizer, Settings
from greg_compress.training.randomness import generator
from greg_compress.training.schedule import Schedule


@dataclass(frozen=True)
class Job:
    """What tells one training command from another."""

    command: str
    stage: str
    """Of the result."""
    output: Output
    options: TrainingOptions
    recorded: dict[str, Any]
    """Everything on the command line that decides the result, as JSON values."""
    begin: Callable[[Dataset], Opened]
    """Open the network to start from; called unless the run is resumed."""
    regularizer: Callable[[nn.Module, State, int], tuple[Regularizer, int]] | None = None
    """From network, state and steps per epoch: the regularizer and the iterations of its run."""
    named: Architecture | None = None


@dataclass
class Work:
    """A run in progress: everything that goes into OUT.partial."""

    job: Job
    opened: Opened
    loop: Loop
    device: torch.device
    before: float | None
    seconds: float
    """Spent in earlier parts of the run."""
    started: float

    def elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def evaluate(self, part: Part, check: Callable[[], None]) -> float:
        normalization = normalization_of(self.opened.state)
        return evaluate(self.opened.model, part, normalization, self.device, check).top1

    def save_partial(self) -> None:
        self.loop.require_finite()
        state = self.opened.state
        state.weights = weights_of(self.opened.model)
        state.run = {
            "command": self.job.command,
            "options": self.job.recorded,
            "loop": self.loop.state_dict(),
            "top1_before": self.before,
            "digest": self.opened.digest,
            "clock": {"seconds": self.elapsed()},
        }
        files.save(state, self.job.output.partial, replace=True)
        state.run = None

    def finish(self, after: float) -> dict[str, Any]:
        """Write OUT, drop OUT.partial and return the command's figures."""
        state, job = self.opened.state, self.job
        untrained = not state.history and job.command != "train"
        log = self.loop.log
        metrics = {
            "top1_before": self.before,
            "top1_after": after,
            "val_top1": log[-1].get("val_top1") if log else None,
            "iterations": self.loop.iteration,
        }
        entry = history.entry(
            job.command,
            job.recorded,
            {**metrics, "log": log},
            model=job.recorded["model"],
            digest=self.opened.digest,
            untrained=untrained,
            seconds=self.elapsed(),
        )
        weights = weights_of(self.opened.model)
        result = replace(state, stage=job.stage, weights=weights, history=[*state.history, entry])
        files.save(result, job.output.path, replace=job.output.force)
        job.output.partial.unlink(missing_ok=True)
        return {**metrics, "seconds": self.elapsed()}


def run(job: Job, ui: Reporter) -> dict[str, Any]:
    """Run a job to its end; return `top1_before`, `top1_after`, `val_top1`, `iterations`, `seconds`.

    Raises:
        Interrupted: OUT.partial was saved; the message says how to go on.
        GregError: the loss is not finite, or a file could not be written.
    """
    if (done := _finished_already(job)) is not None:
        ui.note(f"{job.output.path} is finished already")
        return done
    numerics.flush_denormals()
    with StopSignals() as stop:
        data = load_data(job.options.data, job.options.download)
        work = _work(job, data, ui)
        try:
            if work.before is None:
                work.before = work.evaluate(data.test, stop.check)
                ui.note(f"top-1 before: {work.before:.2f}%")
            for iteration in work.loop:
                ui.progress(work.loop.progress)
                stop.check()
                if iteration % job.options.save_every == 0 and not work.loop.done:
                    work.save_partial()
            ui.finish()
            after = work.evaluate(data.test, stop.check)
        except Interrupted as interrupted:
            work.save_partial()
            hint = f"repeat the command with --resume to go on from {job.output.partial}"
            raise Interrupted(interrupted.number, hint) from interrupted
        finally:
            ui.finish()
        try:
            return work.finish(after)
        except GregError:
            with contextlib.suppress(GregError):
                work.save_partial()  # OUT could not be written: the work is not lost
            raise


def _finished_already(job: Job) -> dict[str, Any] | None:
    output = job.output
    if not (output.resume and output.path.exists()) or (output.force and output.partial.exists()):
        return None
    state, _ = files.load(output.path)
    last = state.history[-1] if state.history else {}
    if last.get("command") != job.command or last.get("options") != job.recorded:
        if output.force:
            return None
        raise RequestError(f"{output.path} exists, made by another command or other options; choose another -o")
    output.partial.unlink(missing_ok=True)
    with input_fault(f"{output.path} is damaged"):
        metrics = {name: value for name, value in last["metrics"].items() if name != "log"}
        return {**metrics, "seconds": last["clock"]["seconds"]}


def _work(job: Job, data: Dataset, ui: Reporter) -> Work:
    """Begin, or pick up OUT.partial."""
    resumed = job.output.resume and job.output.partial.exists()
    opened, saved = _reopen(job) if resumed else (job.begin(data), None)
    require_fit(opened, data)
    if opened.state.normalization is None:
        opened.state.normalization = data.normalization.to_json()
        opened.state.classes = data.classes
    opened.state.data = data.name
    device = numerics.resolve_device(job.options.device)
    opened.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    opened.state.memory_format = "channels_last"
    loop = _loop(job, opened, data, device)
    work = Work(job, opened, loop, device, None, 0.0, time.monotonic())
    if saved is not None:
        with input_fault(f"{job.output.partial} is damaged; begin anew with --force"):
            loop.load_state_dict(saved["loop"])
            work.before, work.seconds = saved["top1_before"], float(saved["clock"]["seconds"])
        ui.note(f"going on from iteration {loop.iteration} of {job.output.partial}")
    return work


def _reopen(job: Job) -> tuple[Opened, dict[str, Any]]:
    path = job.output.partial
    state, _ = files.load(path)
    saved = state.run
    if saved is None:
        raise InputError(f"{path} holds no unfinished work")
    state.run = None
    with input_fault(f"{path} is damaged; begin anew with --force"):
        if saved["command"] != job.command:
            raise RequestError(f"{path} was begun by greg {saved['command']}, not {job.command}")
        before = saved["options"]
        changed = sorted(n for n in before.keys() | job.recorded.keys() if before.get(n) != job.recorded.get(n))
        if changed:
            was = ", ".join(f"{name} {before.get(name)}" for name in changed)
            raise RequestError(f"{path} was begun with other options ({was}); repeat them, or begin anew with --force")
        return Opened(network(state, job.named, str(path)), state, saved["digest"]), saved


def _loop(job: Job, opened: Opened, data: Dataset, device: torch.device) -> Loop:
    options = job.options
    train, held_out = _split(data.train, options)
    normalization = normalization_of(opened.state)
    batches = Batches(train, normalization, options.batch_size, options.seed, data.padding, data.flips)
    settings = Settings(
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        precision=numerics.resolve_precision(options.precision, device),
        device=device,
        seed=options.seed,
    )
    if job.regularizer is None:
        regularizer, total = None, options.total(len(batches))
    else:
        regularizer, total = job.regularizer(opened.model, opened.state, len(batches))
    warmup = total // 20 if options.warmup is None else options.warmup
    schedule = Schedule(options.lr, total, options.decay, warmup)
    validate = (lambda: evaluate(opened.model, held_out, normalization, device).top1) if held_out else None
    return Loop(opened.model, batches, schedule, settings, regularizer, validate)


def _split(part: Part, options: TrainingOptions) -> tuple[Part, Part | None]:
    """Hold out a fraction of the training images, drawn by the seed."""
    count = round(options.val_fraction * len(part))
    if not 0 < count < len(part):
        return part, None
    order = torch.randperm(len(part), generator=generator(options.seed, "validation"))
    return part.select(order[count:].sort().values), part.select(order[:count].sort().values)
