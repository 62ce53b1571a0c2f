"""A training command from its beginning to its end."""

from __future__ import annotations

import contextlib
from typing import Any

from greg_compress.errors import GregError, Interrupted
from greg_compress.long_run.job import Job
from greg_compress.long_run.resume import finished_already
from greg_compress.long_run.work import begin_or_resume
from greg_compress.reporting import Reporter
from greg_compress.sources.data import load_data
from greg_compress.stop_signals import StopSignals
from greg_compress.training import numerics


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
    # Until the first step there is nothing to save: a signal ends it at once.
    work = begin_or_resume(job, load_data(job.options.data, job.options.download, job.options.workers), ui)
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
