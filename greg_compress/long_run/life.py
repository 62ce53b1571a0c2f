"""A training command from its beginning to its end."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from greg_compress.errors import GregError, Interrupted, Lost, is_lost_connection
from greg_compress.long_run.job import Job
from greg_compress.long_run.meeting import meet
from greg_compress.long_run.resume import finished_already
from greg_compress.long_run.work import begin_or_resume
from greg_compress.options.training import TrainingOptions
from greg_compress.processes.ending import LONGEST_START
from greg_compress.processes.place import place
from greg_compress.processes.stop_signals import StopSignals
from greg_compress.reporting import Reporter
from greg_compress.sources.data import load_data
from greg_compress.sources.dataset import Dataset
from greg_compress.training import numerics
from greg_compress.training.world import World


def run(job: Job, ui: Reporter) -> dict[str, Any]:
    """Run a job to its end; return `top1_before`, `top1_after`, `val_top1`, `iterations`, `seconds`.

    Raises:
        Interrupted: OUT.partial was saved; the message says how to go on.
        GregError: the loss is not finite, or a file could not be written.
    """
    if (done := finished_already(job)) is not None:
        ui.note(f"{job.output.path} is finished already")
        return done
    numerics.flush_denormals()
    numerics.keep_freed_memory()
    here = place()
    if not here.alone:
        minutes = LONGEST_START.total_seconds() / 60
        ui.note(f"waiting up to {minutes:g} minutes until all {here.size} processes are here")
    try:
        world, device = meet(here, job.options.device)
        numerics.configure_cuda(device, tf32=job.options.tf32, deterministic=job.options.deterministic)
        return _lived(job, world, device, ui)
    except RuntimeError as error:
        if here.alone or not is_lost_connection(error):
            raise
        raise Lost(_hint(job)) from error


def _lived(job: Job, world: World, device: torch.device, ui: Reporter) -> dict[str, Any]:
    # Until the first step there is nothing to save: a signal ends it at once.
    work = begin_or_resume(job, _data(job.options, world), world, device, ui)
    if job.options.timing:
        return work.expected()
    if work.pace is not None:
        ui.note(f"the budget allows {work.allowed} iterations; expected end {work.expected()['end']}")
    with StopSignals(world) as stop, work.saver:
        try:
            log = work.begin_log()
            if work.before is None:
                work.before = work.evaluate(stop.check)
                ui.note(f"top-1 before: {work.before:.2f}%")
                log.write(work.elapsed(), iteration=0, test_top1=work.before)
            for iteration in work.loop:
                ui.progress(work.loop.progress)
                work.show(log)
                stop.check()
                if iteration % job.options.save_every == 0 and not work.loop.done:
                    work.save_partial()
            ui.finish()
            after = work.evaluate(stop.check)
            log.write(work.elapsed(), iteration=work.loop.iteration, test_top1=after)
        except GregError as error:
            work.saver.settle()
            interrupted = isinstance(error, Interrupted)
            number = error.number if isinstance(error, Interrupted) else stop.number
            if number is not None:  # heard by us, or by a worker that it ended
                if interrupted or world.size == 1:
                    work.save_partial(last=True)
                raise Interrupted(number, _hint(job), agreed=interrupted) from error
            if type(error) is GregError and job.output.partial.exists():
                raise GregError(f"{error}; {job.output.partial} holds the last good state") from error
            raise
        finally:
            ui.finish()
        position = work.loop.state_dict()
        try:
            return work.finish(after)
        except GregError:
            with contextlib.suppress(GregError):
                work.write_partial(position, last=True)  # OUT could not be written: the work is not lost
            raise


def _data(options: TrainingOptions, world: World) -> Dataset:
    """The first process fetches what is not there; the others wait for it."""
    if world.rank:
        world.of_first(None)
    data = load_data(options.data, options.download and world.rank == 0, options.workers)
    if not world.rank:
        world.of_first(None)
    return data


def _hint(job: Job) -> str:
    partial = job.output.partial
    return f"repeat the command with --resume to go on from {partial}" if partial.exists() else "nothing was saved yet"
