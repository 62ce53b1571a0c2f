"""What of a state's own log can be drawn: figures for the pictures of :mod:`greg_compress.figures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from greg_compress.errors import unknown
from greg_compress.figures.accuracy import Accuracy, Part
from greg_compress.figures.kept import Kept, Layer
from greg_compress.figures.norms import Norms, Snapshot
from greg_compress.figures.page import Picture
from greg_compress.figures.penalty import Penalty
from greg_compress.figures.separation import Separation
from greg_compress.figures.style import Curve, Moments
from greg_compress.options.plotting import Figure
from greg_compress.penalty.witness import MOST_UNITS, evenly
from greg_compress.state.format import State

Entry = Mapping[str, Any]
NEVER = "it was never regularized"
OLDER = "no norms were written down (an older greg regularized it, or single weights lose)"

MOST_LAYERS = 2000
"""In a picture: nobody tells more apart, and each takes time to draw."""


class Missing(Exception):
    """Why a state has no such figure."""


def pictures(state: State, layer: str | None) -> tuple[dict[Figure, Picture], dict[Figure, str]]:
    """What can be drawn of a state, and why the rest cannot."""
    entries = [*state.history, *_unfinished(state)]
    ways: dict[Figure, Callable[[], Picture]] = {
        Figure.ACCURACY: lambda: _accuracy(entries),
        Figure.PENALTY: lambda: _penalty(entries),
        Figure.SEPARATION: lambda: _separation(entries),
        Figure.NORMS: lambda: _norms(entries, _decided(state), layer),
        Figure.KEPT: lambda: _kept(state.plan),
    }
    found, missing = {}, {}
    for name, way in ways.items():
        try:
            found[name] = way()
        except Missing as reason:
            missing[name] = str(reason)
    return found, missing


def _unfinished(state: State) -> list[Entry]:
    """The command whose work is in OUT.partial, as far as it got."""
    if (run := state.run) is None:
        return []
    loop, phase = run["loop"], run["loop"]["regularizer"] or {}
    since = phase.get("stabilizing_since")
    metrics = {
        "top1_before": run["top1_before"],
        "top1_after": None,
        "iterations": loop["iteration"],
        "log": loop["log"],
        "norms": phase.get("witness"),
        "stabilize": None if since is None else loop["iteration"] - since,
    }
    return [{"command": run["command"], "metrics": metrics}]


def _decided(state: State) -> Mapping[str, Any] | None:
    """The plan with the units that went; unfinished, GReg-2 has another at first than it comes to pick."""
    phase = None if state.run is None else state.run["loop"]["regularizer"]
    if phase and (phase.get("witness") or {}).get("picked"):
        picks: Mapping[str, Any] | None = phase["picks"]
        return picks
    return state.plan


def _accuracy(entries: Sequence[Entry]) -> Accuracy:
    parts: list[Part] = []
    first, between = 0, []
    for entry in entries:
        metrics = entry["metrics"]
        between.append(str(entry["command"]))
        if "log" not in metrics or not (length := _count(metrics["iterations"])):
            continue
        top1, loss, held_out = (_curve(metrics["log"], name, first) for name in ("top1", "loss", "val_top1"))
        before, after = (_number(metrics.get(name)) for name in ("top1_before", "top1_after"))
        parts.append(Part("\n".join(between), first, length, top1, loss, held_out, before, after))
        first, between = first + length, []
    if not parts:
        raise Missing("no command in its history has trained it")
    return Accuracy(parts)


def _regularized(entries: Sequence[Entry]) -> tuple[Entry, Moments]:
    """The figures of the last phase, and when it changed."""
    found = [entry["metrics"] for entry in entries if entry["command"] == "regularize"]
    if not found:
        raise Missing(NEVER)
    metrics = found[-1]
    stabilize = metrics.get("stabilize")
    since = _count(metrics["iterations"]) - _count(stabilize) if stabilize else None
    picked = (metrics.get("norms") or {}).get("picked")
    return metrics, Moments(None if picked is None else _count(picked), since)


def _penalty(entries: Sequence[Entry]) -> Penalty:
    metrics, moments = _regularized(entries)
    log, norms = metrics["log"], metrics.get("norms")
    strength = _curve(log, "lambda")
    if norms:
        known = dict(zip(norms["iterations"], norms["lambda"], strict=True))
        known |= dict(zip(strength.iterations, strength.values, strict=True))
        strength = Curve(sorted(known), [_finite(known[k]) for k in sorted(known)])
    if not strength:
        raise Missing("the phase has only begun")
    return Penalty(strength, _curve(log, "weakest_ratio", least=0.0), max(1, _count(metrics["iterations"])), moments)


def _separation(entries: Sequence[Entry]) -> Separation:
    metrics, moments = _regularized(entries)
    if not (norms := metrics.get("norms")):
        raise Missing(OLDER)
    iterations = list(map(_count, norms["iterations"]))
    _require_few(norms["spread"])
    spread = {name: list(map(_finite, values)) for name, values in norms["spread"].items()}
    if not all(len(values) == len(iterations) == len(norms["lambda"]) for values in spread.values()) or not spread:
        raise ValueError("norms of other iterations")
    return Separation(iterations, list(map(_finite, norms["lambda"])), spread, moments)


def _norms(entries: Sequence[Entry], plan: Mapping[str, Any] | None, layer: str | None) -> Norms:
    metrics, _ = _regularized(entries)
    if not (norms := metrics.get("norms")) or not norms["snapshots"]:
        raise Missing(OLDER)
    names = list(norms["snapshots"][0]["norms"])
    units = {name: _count(norms["units"][name]) for name in names}
    if layer is not None and layer not in units:
        raise unknown(f"--layer {layer}: no norms of such a layer were written down", layer, names)
    chosen = layer or max(names, key=lambda name: units[name])
    found = [
        Snapshot(_count(each["iteration"]), _finite(each["lambda"]), list(map(_finite, each["norms"][chosen])))
        for each in norms["snapshots"]
    ]
    positions = evenly(units[chosen], MOST_UNITS)
    if not positions or any(len(snapshot.norms) != len(positions) for snapshot in found):
        raise ValueError("norms of other units")
    removed = _picks(entries, plan, chosen)
    return Norms(chosen, units[chosen], found, None if removed is None else [unit in removed for unit in positions])


def _picks(entries: Sequence[Entry], plan: Mapping[str, Any] | None, layer: str) -> set[int] | None:
    """The units that the last phase picked, unless another plan has taken their place since."""
    commands = [entry["command"] for entry in entries]
    since = commands[len(commands) - commands[::-1].index("regularize") :]
    share = (plan or {}).get(layer)
    if share is None or share["removed"] is None or since.count("prune") > 1:
        return None
    return set(map(_count, share["removed"]))


def _require_few(layers: Mapping[str, Any]) -> None:
    if len(layers) > MOST_LAYERS:
        raise Missing(f"{len(layers):,} layers are more than a picture shows")


def _kept(plan: Mapping[str, Any] | None) -> Kept:
    if not plan:
        raise Missing("nothing was picked or cut")
    _require_few(plan)
    shares = plan.items()
    if not all(isinstance(share, dict) and {"channels", "kept"} <= share.keys() for _, share in shares):
        raise Missing("its plan is not one of channels")
    return Kept([Layer(name, _count(share["channels"]), _count(share["kept"])) for name, share in shares])


def _curve(log: Sequence[Mapping[str, Any]], name: str, first: int = 0, least: float = -math.inf) -> Curve:
    """A figure of the log over iterations, where there is one above a bound."""
    points = [(first + _count(record["iteration"]), _number(record.get(name))) for record in log]
    shown = [(at, value) for at, value in points if value is not None and value > least]
    return Curve([at for at, _ in shown], [value for _, value in shown])


def _number(value: Any) -> float | None:
    """A figure that can be drawn; None where there is none."""
    if value is not None and not isinstance(value, (int, float)):
        raise ValueError("a figure that is none")
    return value if value is not None and math.isfinite(value) else None


def _finite(value: Any) -> float:
    if (found := _number(value)) is None:
        raise ValueError("a figure that is none")
    return found


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError("a count that is none")
    return value
