"""How `greg show` prints what it found: what the file is, what it holds, how it was made, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from greg_compress.cli.terminal import make_table
from greg_compress.cli.words import percent, size

Result = dict[str, Any]


def shown(out: Console, result: Result) -> None:
    """Print it; commands are never folded, so that they can be copied."""
    _say(out, f"{result['file']}: {result['what']}, {size(result['size'])}")
    rows = [(name, text) for name, text in _rows(result["kind"], result["holds"]) if text]
    if rows:
        out.print()
        out.print(make_table(("", "it holds"), rows, words=(0, 1)))
    if result["history"]:
        _say(out, "\nhow it was made:")
        for entry in result["history"]:
            _entry(out, entry)
    if result["next"]:
        _say(out, "\nnext:")
        for way in result["next"]:
            _say(out, f"  {way['command']}")
            _say(out, f"      {way['why']}" + ("" if way["complete"] else "; fill in what stands in capitals"))


def _say(out: Console, text: str) -> None:
    out.print(text, soft_wrap=True)


def _entry(out: Console, entry: Result) -> None:
    _say(out, f"  {entry['command'] or entry['text']}")
    made = [entry["text"]] if entry["command"] and not entry["text"].startswith("greg ") else []
    made += [*_figures(entry["figures"])]
    if entry["seconds"] is not None:
        made.append(f"{entry['seconds']:.1f} s")
    if entry["finished"]:
        made.append(entry["finished"])
    if entry["versions"]:
        made.append(", ".join(f"{name} {version}" for name, version in entry["versions"].items()))
    if text := "; ".join(filter(None, made)):
        _say(out, f"      {text}")


def _figures(figures: Mapping[str, Any]) -> list[str]:
    found = []
    if "top1_after" in figures or "top1_before" in figures:
        ends = [percent(figures[key]) for key in ("top1_before", "top1_after") if figures.get(key) is not None]
        found.append(f"top-1 {' to '.join(ends)}")
    if "iterations" in figures:
        found.append(f"{figures['iterations']:,} iterations")
    if "macs_speedup" in figures:
        found.append(f"{figures['macs_speedup']:.2f}x fewer MACs, sparsity {figures['sparsity']:.2f}%")
    if "params" in figures:
        before, after = figures["params"]
        found.append(f"{before:,} to {after:,} parameters")
    return found


def _rows(kind: str, holds: Result) -> list[tuple[str, str]]:
    ways: dict[str, Callable[[Result], list[tuple[str, str]]]] = {
        "state": _network,
        "unfinished": _network,
        "weights": _weights,
        "onnx": _onnx,
        "program": _program,
        "plan": _plan,
        "recipe": _recipe,
        "results": _results,
        "record": _record,
    }
    return ways[kind](holds) if kind in ways else []


def _network(holds: Result) -> list[tuple[str, str]]:
    arch = holds["architecture"]
    arguments = ", ".join(f"{key}={value!r}" for key, value in arch["kwargs"].items())
    classes = "" if holds["classes"] is None else f", {holds['classes']} classes"
    cut = holds["cut_tensors"]
    return [
        ("stage", holds["stage"]),
        ("architecture", arch["spec"] + (f" ({arguments})" if arguments else "")),
        ("input", " and ".join(map(_by, holds["input_shapes"])) + classes),
        ("data", holds["data"] or ""),
        ("normalisation", _normalization(holds["normalization"])),
        ("parameters", f"{holds['parameters']:,} in {holds['tensors']} tensors, {size(holds['weights_size'])}"),
        ("cut", f"{cut} tensors are smaller than the architecture makes them" if cut else ""),
        ("plan", _planned(holds["plan"], holds["stage"])),
        ("masks", _masked(holds["masks"], holds["stage"])),
    ]


def _planned(plan: Result | None, stage: str) -> str:
    if plan is None:
        return ""
    word = "keeps" if stage != "regularized" else "will keep"
    decided = "" if plan["decided"] or plan["of"] == "weights" else "; which ones is not decided yet"
    where = "tensors" if plan["of"] == "weights" else "groups"
    return f"{word} {plan['kept']:,} of {plan['all']:,} {plan['of']} in {plan['groups']} {where}{decided}"


def _masked(masks: Result | None, stage: str) -> str:
    if masks is None:
        return ""
    word = "will be" if stage == "regularized" else "are"
    return f"{masks['zero']:,} of {masks['weights']:,} weights {word} zero, in {masks['tensors']} tensors"


def _normalization(said: Result | None) -> str:
    if said is None:
        return ""
    mean, std = (", ".join(f"{value:.4g}" for value in said[key]) for key in ("mean", "std"))
    return f"pixels times {said['scale']:.4g}, mean {mean}, deviation {std}"


def _weights(holds: Result) -> list[tuple[str, str]]:
    return [
        ("parameters", f"{holds['parameters']:,} in {holds['tensors']} tensors, {size(holds['weights_size'])}"),
        ("under", holds["under"] or ""),
        ("first tensor", holds["first"]),
    ]


def _onnx(holds: Result) -> list[tuple[str, str]]:
    zeros = "" if not holds["zeros"] else f", {holds['zeros']:,} of them zero"
    return [
        ("made by", f"{holds['by']}, opset {holds['opset']}"),
        ("input", _ports(holds["inputs"])),
        ("output", _ports(holds["outputs"])),
        ("weights", f"{holds['weights']:,} in {holds['precision']}{zeros}; {holds['nodes']} nodes"),
        *_told(holds),
    ]


def _program(holds: Result) -> list[tuple[str, str]]:
    return [
        ("made by", holds["by"] or ""),
        ("input", " and ".join(map(_by, holds["input_shapes"]))),
        *_told(holds),
    ]


def _told(holds: Result) -> list[tuple[str, str]]:
    """What every exported file says of the network."""
    cut = holds["groups_cut"]
    return [
        ("classes", str(holds["classes"] or "")),
        ("normalisation", _normalization(holds["normalization"])),
        ("takes pixels as they are", "yes" if holds["preprocessing"] == "normalize" else ""),
        ("cut", f"{cut} groups keep {sum(holds['kept'].values()):,} channels" if cut else ""),
        ("history", f"SHA-256 {holds['history_sha256']}" if holds["history_sha256"] else ""),
    ]


def _ports(ports: list[Result]) -> str:
    return "; ".join(f"{port['name']}: {port['type']} {_by(port['shape'])}" for port in ports)


def _by(shape: list[Any]) -> str:
    return "x".join("?" if side is None else str(side) for side in shape)


def _plan(holds: Result) -> list[tuple[str, str]]:
    decided = "decided" if holds["decided"] else "left to L1 norm"
    return [
        ("groups", f"{holds['groups_that_lose']} of {holds['groups']} lose channels"),
        ("channels", f"{holds['kept']:,} of {holds['channels']:,} stay; which is {decided}"),
        *((group["name"], f"{group['kept']}/{group['channels']}") for group in holds["each"]),
    ]


def _recipe(holds: Result) -> list[tuple[str, str]]:
    return [
        ("about", holds["about"]),
        *((f"value {name}", value) for name, value in holds["values"].items()),
        *((f"each {name}", ", ".join(values)) for name, values in holds["each"].items()),
        ("seeds", ", ".join(map(str, holds["seeds"]))),
        *((f"step {step['step']}", _step(step)) for step in holds["commands"]),
        ("in all", f"{holds['cells']} cells, {holds['tasks']} commands"),
        ("it shows", ", ".join(holds["results"])),
    ]


def _step(step: Result) -> str:
    words = []
    for key, value in step["options"].items():
        for item in value if isinstance(value, list) else [value]:
            words += [str(item)] if key == "model" else [f"--{key}", *([] if item is True else [str(item)])]
    return f"greg {step['command']} {shlex.join(words)}"


def _results(holds: Result) -> list[tuple[str, str]]:
    return [
        ("recipe", holds["recipe"]),
        ("about", holds["about"]),
        ("seeds", ", ".join(map(str, holds["seeds"]))),
        ("finished", f"{holds['finished']} of {holds['steps']} steps, {holds['cells']} cells"),
        *((_named(line), _measured(line)) for line in holds["results"]),
    ]


def _named(line: Result) -> str:
    each = ", ".join(f"{key}={value}" for key, value in line["each"].items())
    return f"{line['name']} ({each})" if each else line["name"]


def _measured(line: Result) -> str:
    if line["mean"] is None:
        return "-"
    spread = "" if line["std"] is None else f" ±{line['std']:.4g} over {line['n']} seeds"
    paper = "" if not line["paper"] else f"; the paper prints {line['paper']}"
    return f"{line['mean']:.6g}{spread}{paper}"


def _record(holds: Result) -> list[tuple[str, str]]:
    return [
        ("step", holds["step"]),
        ("cell", ", ".join(f"{key}={value}" for key, value in holds["cell"].items())),
        ("made", holds["made"] or ""),
        *((key, f"{value:.6g}" if isinstance(value, float) else str(value)) for key, value in holds["figures"].items()),
    ]
