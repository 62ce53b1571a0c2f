"""States and weights: what is in them and how they were made. No factory is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from greg_compress.contents.contents import Contents, Entry, normalization, number
from greg_compress.contents.standings import of_state
from greg_compress.errors import InputError, input_fault
from greg_compress.following import HALF, PARTIAL, Way, ways
from greg_compress.retyping import COMMANDS, Words, retyped
from greg_compress.sources.specs import PICKLE, is_architecture
from greg_compress.state import files
from greg_compress.state.format import State
from greg_compress.state.models import pickled
from greg_compress.tensor_files.reader import read
from greg_compress.tensor_files.state_dicts import MOST_WRAPPERS, WRAPPERS

STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
"""How the tensors end that batch normalisation measures and nobody trains."""
FIGURES = {
    **dict.fromkeys(("train", "finetune"), ("top1_before", "top1_after", "val_top1", "iterations", "processes")),
    "regularize": ("top1_before", "top1_after", "val_top1", "iterations", "processes", "l1_differs"),
    "prune": ("macs_speedup", "sparsity", "params", "macs"),
}
"""Of each command, the metrics that a person would ask for first."""


def contents(path: Path) -> Contents:
    """What a file of tensors is: a state of ours, unfinished work, somebody's weights, or a pickled network.

    Raises:
        InputError: it is none, or damaged.
    """
    data, _ = read(path)
    if not files.is_state(data):
        return _strange(data, path)
    state = files.state_of(data, path)
    with input_fault(f"{path} is damaged"):
        entries = list(_history(state, path))
        if state.run is not None:
            return _unfinished(state, path, entries)
        what = f"a {state.stage} network, a state file of greg"
        return Contents("state", what, _holds(state), entries, ways(of_state(state, path), typed="show"))


def _unfinished(state: State, path: Path, entries: list[Entry]) -> Contents:
    assert state.run is not None
    run = state.run
    command, iteration = str(run["command"]), int(run["loop"]["iteration"])
    words = retyped(command, run["options"], allow_pickle=state.architecture.source == PICKLE)
    out = str(path).removesuffix(PARTIAL) if path.name.endswith(PARTIAL) else "OUT"
    model = str(run["options"]["model"])
    there = is_architecture(model) or Path(model).is_file()
    follows = [Way((*words, "-o", out, "--resume"), f"goes on from iteration {iteration}", there and out != "OUT")]
    follows.append(Way(("plot", str(path), "-o", f"{Path(out).stem}.png"), "pictures of what it did so far"))
    entries.append(
        Entry(
            Way((*words, "-o", out), "").line,
            f"as far as iteration {iteration}",
            seconds=float(run["clock"]["seconds"]),
            digest=run["digest"],
            figures=_figures(run | {"iterations": iteration}, ("top1_before", "iterations", "processes")),
        )
    )
    return Contents("unfinished", f"unfinished work of greg {command}", _holds(state), entries, follows)


def _holds(state: State) -> dict[str, Any]:
    return {
        "stage": state.stage,
        "architecture": asdict(state.architecture),
        "input_shapes": [list(shape) for shape in state.input_shapes],
        "classes": state.classes,
        "data": state.data,
        "normalization": normalization(state.normalization),
        "memory_format": state.memory_format,
        **_counted(state.weights),
        "cut_tensors": len(state.shapes),
        "plan": _plan(state.plan),
        "masks": _masks(state.masks),
    }


def _counted(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parameters as far as names tell: what batch normalisation measures is not one."""
    trained = [tensor for name, tensor in weights.items() if not name.endswith(STATISTICS)]
    return {
        "parameters": sum(tensor.numel() for tensor in trained),
        "tensors": len(weights),
        "weights_size": sum(tensor.nbytes for tensor in weights.values()),
    }


def _plan(plan: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A plan of channels or of weights in sums."""
    if not plan:
        return None
    shares = list(plan.values())
    of = "weights" if "weights" in shares[0] else "channels"
    picked = of == "channels" and all(share["removed"] is not None for share in shares)
    whole, kept = (sum(int(share[key]) for share in shares) for key in (of, "kept"))
    return {"of": of, "groups": len(shares), "all": whole, "kept": kept, "decided": picked}


def _masks(masks: Mapping[str, Tensor]) -> dict[str, Any] | None:
    if not masks:
        return None
    whole, going = (sum(int(count) for count in counts) for counts in zip(*map(_mask, masks.values()), strict=True))
    return {"tensors": len(masks), "weights": whole, "zero": going}


def _mask(mask: Tensor) -> tuple[int, int]:
    return mask.numel(), int(mask.sum())


def _history(state: State, path: Path) -> Iterator[Entry]:
    """Every command with the name that its result had: the one under which the next command read it."""
    names = [_read(entry) for entry in state.history[1:]]
    last = "" if state.run is not None else str(path)
    names.append(last or _begun_from(state))
    for entry, out in zip(state.history, names, strict=True):
        yield _entry(entry, out or "OUT.pt", state.architecture.source == PICKLE)


def _begun_from(state: State) -> str | None:
    assert state.run is not None
    return str(state.run["options"]["model"])


def _read(entry: Mapping[str, Any]) -> str | None:
    model = entry["input"]["model"]
    return None if model is None else str(model)


def _entry(entry: Mapping[str, Any], out: str, allow_pickle: bool) -> Entry:
    command, metrics, clock = str(entry["command"]), entry["metrics"], entry["clock"]
    line = None
    if command in COMMANDS:
        line = Way((*retyped(command, entry["options"], allow_pickle=allow_pickle), "-o", out), "").line
    said = {"open": f"opened {_read(entry)}", "save": "saved from Python"}.get(command, f"greg {command}")
    if command == "open" and (arch := entry["options"].get("arch")) not in (None, _read(entry)):
        said += f" as {arch}"
    seconds = clock["seconds"]
    return Entry(
        line,
        said + ", without trained weights" * bool(entry["input"]["untrained"]),
        {str(name): str(version) for name, version in entry["versions"].items()},
        None if seconds is None else float(seconds),
        str(clock["finished"]),
        entry["input"]["sha256"],
        _figures(metrics, FIGURES.get(command, ())),
    )


def _figures(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Numbers, and of parameters and MACs those before and after."""
    found = {name: metrics[name] for name in names if metrics.get(name) is not None}
    return {
        name: [number(value[key]) for key in ("before", "after")] if isinstance(value, dict) else number(value)
        for name, value in found.items()
    }


def _strange(data: Any, path: Path) -> Contents:
    """A file of tensors that greg did not write."""
    if (kind := pickled(data)) is not None:
        words: Words = ("analyze", str(path), *HALF, "--allow-pickle")
        way = Way(words, "opens it, which runs whatever code it holds", complete=False)
        return Contents("pickle", f"a pickled {kind}, which greg did not write; nothing in it was run", {}, (), [way])
    weights, under = _weights(data)
    if not weights:
        raise InputError(f"{path} holds no network: no state of greg, no weights and no pickled module")
    holds = {**_counted(weights), "under": under, "first": next(iter(weights))}
    named = (str(path), "--arch", "SPEC")
    follows = [
        Way(("analyze", *named, *HALF), "what could go, once its network is named", complete=False),
        Way(("prune", *named, *HALF, "-o", "pruned.pt"), "the cut at once", complete=False),
    ]
    return Contents("weights", "weights without their network, which greg did not write", holds, (), follows)


def _weights(data: Any) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a file, and the keys under which they were."""
    under: Sequence[str] = ()
    for _ in range(MOST_WRAPPERS + 1):
        if not isinstance(data, Mapping):
            break
        key = next((key for key in WRAPPERS if isinstance(data.get(key), Mapping)), None)
        if key is None:
            found = {str(name): tensor for name, tensor in data.items() if isinstance(tensor, Tensor)}
            return found, ".".join(under) or None
        data, under = data[key], [*under, key]
    return {}, None
