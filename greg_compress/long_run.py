"""The life of a command that trains: begin or resume, save now and then, stop when asked, finish.

Unfinished work lives in OUT.partial, never in OUT. SIGINT and SIGTERM are heard between two steps, so that
what is saved is always a whole position. Start reading at :func:`run`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from greg_compress.errors import GregError, InputError, Interrupted, RequestError, input_fault
from greg_compress.fit import fitting, normalization_of
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.training import TrainingOptions
from greg_compress.reporting import Reporter
from greg_compress.sources.data import load_data
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.samples import Samples
from greg_compress.state import files, history
from greg_compress.state.format import State
from greg_compress.state.models import Opened, network, weights_of
from greg_compress.stop_signals import StopSignals
from greg_compress.training import numerics
from greg_compress.training.batches import Batches
from greg_compress.training.evaluation import evaluate
from greg_compress.training.loop import Loop, Regularizer, Settings
from greg_compress.training.objective import Objective, cross_entropy
from greg_compress.training.randomness import generator
from greg_compress.training.schedule import Schedule


class Phase(Protocol):
    """A regularizer with the length of its run, and what it leaves behind."""

    iterations: int

    @property
    def regularizer(self) -> Regularizer: ...

    def conclude(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The plan for the finished state, and figures for the result."""


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
    model: ModelOptions
    open: Callable[[Dataset], Opened]
    """Open the network to start from; called unless the run is resumed."""
    begin: Callable[[Opened], None] = lambda _: None
    """What is decided once, about a network that fits the data; called unless the run is resumed."""
    phase: Callable[[nn.Module, State, int], Phase] | None = None
    """From network, state and steps per epoch: what regularizes the run."""
    objective: Callable[[State, Dataset, Settings], Objective] = lambda *_: cross_entropy


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

    def elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def evaluate(self, check: Callable[[], None]) -> float:
        normalization = normalization_of(self.opened.state)
        return evaluate(self.opened.model, self.data.test, normalization, self.device, check).top1

    def save_partial(self) -> None:
        self.loop.require_finite()
        weights = weights_of(self.opened.model)
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise GregError(f"the weights are not finite after iteration {self.loop.iteration}; lower --lr")
        state = self.opened.state
        state.weights = weights
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
        plan, figures = self.phase.conclude() if self.phase else (state.plan, {})
        metrics = {
            "top1_before": self.before,
            "top1_after": after,
            "val_top1": log[-1].get("val_top1") if log else None,
            "iterations": self.loop.iteration,
            **figures,
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
        result = replace(state, stage=job.stage, weights=weights, plan=plan, history=[*state.history, entry])
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
    # Until the first step there is nothing to save: a signal ends it at once.
    work = _work(job, load_data(job.options.data, job.options.download, job.options.workers), ui)
    with StopSignals() as stop:
        try:
            if work.before is None:
                work.before = work.evaluate(stop.check)
                ui.note(f"top-1 before: {work.before:.2f}%")
            for iteration in work.loop:
                ui.progress(work.loop.progress)
                stop.check()
                if iteration % job.options.save_every == 0 and not work.loop.done:
                    work.save_partial()
            ui.finish()
            after = work.evaluate(stop.check)
        except GregError as error:
            if stop.number is not None:  # heard by us, or by a worker whose end we saw first
                work.save_partial()
                hint = f"repeat the command with --resume to go on from {job.output.partial}"
                raise Interrupted(stop.number, hint) from error
            if type(error) is GregError and job.output.partial.exists():
                raise GregError(f"{error}; {job.output.partial} holds the last good state") from error
            raise
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
        raise RequestError(f"{output.path} exists, made by another command or other options; choose another name")
    output.partial.unlink(missing_ok=True)
    with input_fault(f"{output.path} is damaged"):
        metrics = {name: value for name, value in last["metrics"].items() if name != "log"}
        for name in ("top1_before", "top1_after", "val_top1"):
            _percent(metrics[name])
        return {**metrics, "iterations": int(metrics["iterations"]), "seconds": float(last["clock"]["seconds"])}


def _percent(value: Any) -> float | None:
    """A recorded accuracy; ValueError if it is none."""
    if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 100):
        raise ValueError("an accuracy that is none")
    return value


def _work(job: Job, data: Dataset, ui: Reporter) -> Work:
    """Begin, or pick up OUT.partial."""
    resumed = job.output.resume and job.output.partial.exists()
    opened, saved = _reopen(job) if resumed else (job.open(data), None)
    data = fitting(opened, data)
    if not resumed:
        job.begin(opened)
    opened.state.data = data.name
    device = numerics.resolve_device(job.options.device)
    opened.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    opened.state.memory_format = "channels_last"
    loop, phase = _loop(job, opened, data, device)
    work = Work(job, opened, data, loop, phase, device, None, 0.0, time.monotonic())
    if saved is not None:
        with input_fault(f"{job.output.partial} is damaged; begin anew with --force"):
            loop.load_state_dict(saved["loop"])
            work.before, work.seconds = _percent(saved["top1_before"]), float(saved["clock"]["seconds"])
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
        return Opened(network(state, job.model, str(path)), state, saved["digest"]), saved


def _loop(job: Job, opened: Opened, data: Dataset, device: torch.device) -> tuple[Loop, Phase | None]:
    options = job.options
    train, held_out = _split(data.train, options)
    normalization = normalization_of(opened.state)
    batches = Batches(train, normalization, options.batch_size, options.seed)
    settings = Settings(
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        precision=numerics.resolve_precision(options.precision, device),
        device=device,
        seed=options.seed,
    )
    phase = job.phase(opened.model, opened.state, len(batches)) if job.phase else None
    total = phase.iterations if phase else options.total(len(batches))
    warmup = total // 20 if options.warmup is None else options.warmup
    schedule = Schedule(options.lr, total, options.decay, warmup)
    validate = (lambda: evaluate(opened.model, held_out, normalization, device).top1) if held_out else None
    objective = job.objective(opened.state, data, settings)
    regularizer = phase.regularizer if phase else None
    return Loop(opened.model, batches, schedule, settings, regularizer, validate, objective), phase


def _split(train: Samples, options: TrainingOptions) -> tuple[Samples, Samples | None]:
    """Hold out a fraction of the training images, drawn by the seed."""
    count = round(options.val_fraction * len(train))
    if not 0 < count < len(train):
        return train, None
    order = torch.randperm(len(train), generator=generator(options.seed, "validation"))
    return train.select(order[count:].sort().values), train.select(order[:count].sort().values)
