"""Going on from OUT.partial, which must be of the same command."""

from __future__ import annotations

from typing import Any

from greg_compress.errors import InputError, RequestError, input_fault
from greg_compress.long_run.job import Job
from greg_compress.state import files
from greg_compress.state.models import Opened, network


def finished_already(job: Job) -> dict[str, Any] | None:
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
            percent_or_none(metrics[name])
        return {**metrics, "iterations": int(metrics["iterations"]), "seconds": float(last["clock"]["seconds"])}


def percent_or_none(value: Any) -> float | None:
    """A recorded accuracy; ValueError if it is none."""
    if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 100):
        raise ValueError("an accuracy that is none")
    return value


def reopen(job: Job) -> tuple[Opened, dict[str, Any]]:
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
