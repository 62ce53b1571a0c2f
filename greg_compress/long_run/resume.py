"""Going on from OUT.partial, which must be of the same command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from greg_compress.errors import InputError, RequestError, input_fault
from greg_compress.long_run.job import RECORDS, Job
from greg_compress.options.training import Decay
from greg_compress.sources import user_files
from greg_compress.sources.specs import is_architecture
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
    with input_fault(f"{output.path} is damaged; begin anew with --force"):
        metrics = {name: value for name, value in last["metrics"].items() if name not in RECORDS}
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
        raise InputError(f"{path} holds no unfinished work; begin anew with --force")
    state.run = None
    with input_fault(f"{path} is damaged; begin anew with --force"):
        if saved["command"] != job.command:
            raise RequestError(f"{path} was begun by greg {saved['command']}, not {job.command}; choose another name")
        _require_same_options(job, saved["options"])
        _require_same_network(job, saved)
        if type(saved["allowed"]) is not (int if job.budget else type(None)):
            raise ValueError("a budget that is none")
        return Opened(network(state, job.model, str(path)), state, saved["digest"]), saved


def _require_same_options(job: Job, before: dict[str, Any]) -> None:
    """All but a limit on which no step before it depends: that one may grow."""
    path, now = job.output.partial, job.recorded
    changed = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
    limits = [n for n in changed if n in _limits(now) and None not in (before.get(n), now.get(n))]
    if others := [n for n in changed if n not in limits]:
        was = ", ".join(f"{name} {before.get(name)}" for name in others)
        raise RequestError(f"{path} was begun with other options ({was}); repeat them, or begin anew with --force")
    for name in limits:
        if now[name] < before[name]:
            raise RequestError(f"{path} was begun with --{name} {before[name]}, which may only grow, not {now[name]}")


def _limits(options: dict[str, Any]) -> tuple[str, ...]:
    if "stabilize" in options:
        return ("stabilize",) if options.get("scale") is None else ()  # of a scaled phase it moves every update
    fixed = options["decay"] == Decay.CONSTANT and options["warmup"] is not None
    return ("epochs", "iterations") if fixed else ()


def named_file(job: Job) -> str | None:
    """SHA-256 of the FILE.py that the command names, which may differ from the one that a state records."""
    source = job.model.arch.source if job.model.arch is not None else ""
    return user_files.sha256(user_files.contents(Path(source))) if source.endswith(".py") else None


def _require_same_network(job: Job, saved: dict[str, Any]) -> None:
    """MODEL or FILE.py may have been written anew since; going on would pass over that in silence."""
    model = job.model.model
    if saved["digest"] is not None and not is_architecture(model):
        _require_same_file(job, model, user_files.sha256(user_files.contents(Path(model))), saved["digest"])
    if job.model.arch is not None and (now := named_file(job)) is not None:
        _require_same_file(job, job.model.arch.source, now, str(saved["factory"]))


def _require_same_file(job: Job, name: str, now: str, digest: str) -> None:
    partial = job.output.partial
    if now != digest:
        raise RequestError(
            f"{name} is another file (SHA-256 {now[:12]}) than {partial} was begun with ({digest[:12]}); put that one"
            " back, or begin anew with --force"
        )
