"""How `greg analyze` is printed: one table by layer, the reasons below it, and the totals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from greg_compress.cli.terminal import make_table
from greg_compress.cli.words import percent, short, size

Result = dict[str, Any]
WORDS = {"layer", "stage", "type", "shape", "group", "prunable"}
PARAMS_LEFT, MACS_LEFT = "params\nleft", "MACs\nleft"
ZEROS, ZEROS_LEFT = "zeros", "zeros\nafter"
SPARED = ("type", "stage", "share", "shape", "group", "params", PARAMS_LEFT)
"""Columns that go first where the terminal is too narrow for all, in this order."""


def analysis(out: Console, result: Result) -> None:
    """Print the layers, and with a selection what it would leave of each."""
    reasons: dict[str, int] = {}
    rows = [_row(layer, result, reasons) for layer in result["layers"]]
    for above, below in zip(reversed(rows[:-1]), reversed(rows[1:]), strict=True):
        below["stage"] = "" if below["stage"] == above["stage"] else below["stage"]  # it stands at its first layer
    table, missing = _fitting([*rows, *_sums(result)], out)
    out.print(table)
    for reason, number in reasons.items():
        out.print(f"[{number}] {reason}")
    if missing:
        out.print(f"a wider terminal shows {', '.join(missing)} too; --json has it all")
    out.print(f"{result['params']:,} parameters, {result['macs']:,} MACs, {size(result['size'])}")
    if result["uncalled"]:
        out.print(f"never run, left alone: {', '.join(result['uncalled'])}")
    if result["zeros"]:
        out.print(f"{result['zeros']:,} parameters are zero ({percent(result['sparsity'])})")
    if (plan := result["plan"]) is not None and plan["zeros"] is not None:
        out.print(f"the selection leaves the shapes, and {plan['zeros']:,} zeros (sparsity {plan['sparsity']:.2f}%)")
    elif plan is not None:
        out.print(
            f"the selection leaves {plan['params']:,} parameters (sparsity {plan['sparsity']:.2f}%) and"
            f" {plan['macs']:,} MACs ({plan['macs_speedup']:.2f}x fewer)"
        )
        if (target := plan["target"]) is not None and "speedup" in target:
            out.print(
                f"{target['option']}: {target['p50_ms']:.3g} ms instead of {target['dense_ms']:.3g}, as measured"
                f" ({target['milliseconds']:.3g} asked), {target['speedup']:.2f}x faster"
            )
        elif target is not None:
            ahead = (
                f", and a step more of {target['ahead']} group{'s' * (target['ahead'] > 1)}," if target["ahead"] else ""
            )
            out.print(f"{target['option']}: ratio {target['ratio']:g}{ahead} leaves {target['reached']:.2f}%")
    if result["sensitivity"] is not None:
        _sensitivity(out, result["sensitivity"])


def _fitting(rows: Sequence[Result], out: Console) -> tuple[Table, list[str]]:
    """The table with as many columns as fit, and the columns that did not."""
    columns = list(rows[0])
    for number in range(len(SPARED) + 1):
        shown = [column for column in columns if column not in SPARED[:number]]
        words = [at for at, column in enumerate(shown) if column in WORDS]
        table = make_table(shown, [[row.get(column) for column in shown] for row in rows], words=words)
        if Measurement.get(out, out.options.update(max_width=10_000), table).maximum <= out.width:
            break
    return table, [column for column in columns if column not in shown]


def _row(layer: Result, result: Result, reasons: dict[str, int]) -> Result:
    share = f"{100 * layer['macs'] / result['macs']:.1f}%" if result["macs"] else ""
    shape = None if layer["shape"] is None else "x".join(map(str, layer["shape"]))
    row = {"layer": layer["name"], **{name: layer[name] for name in ("stage", "index", "type")}, "shape": shape}
    row |= {"params": short(layer["params"]), "MACs": short(layer["macs"]), "share": share}
    if result["zeros"]:
        row[ZEROS] = _share(layer)
    if result["plan"] is not None and result["plan"]["zeros"] is not None:
        row[ZEROS_LEFT] = _share(layer["left"])
        return row  # what channels hang together on stops no single weight
    if result["plan"] is not None:
        left = layer["left"] or layer
        if any(other["asked"] is not None for other in result["layers"]):
            row["asked"] = layer["asked"]
        row["kept"] = None if layer["kept"] is None else f"{layer['kept']}/{layer['out_channels']}"
        row |= {PARAMS_LEFT: short(left["params"]), MACS_LEFT: short(left["macs"])}
    return {
        **row,
        "group": layer["group"],
        "prunable": _verdict(layer, reasons),
    }


def _share(layer: Result) -> str:
    """How much of a layer is zero."""
    return f"{100 * layer['zeros'] / layer['params']:.1f}%" if layer["params"] else ""


def _verdict(layer: Result, reasons: dict[str, int]) -> str:
    """`yes`, or `frozen [2]`: the whole reason stands once, below the table."""
    if (reason := layer["reason"]) is None:
        return "yes"
    number = reasons.setdefault(reason, len(reasons) + 1)
    word = "partly" if layer["prunable"] else reason.partition(":")[0]
    return f"{word if len(word) < 8 else 'no'} [{number}]"


def _sums(result: Result) -> list[Result]:
    """Parameters that no layer of the table holds (norms, scales), and the totals."""
    other = {"layer": "other", "params": short(result["params"] - sum(layer["params"] for layer in result["layers"]))}
    total = {"layer": "total", "params": short(result["params"]), "MACs": short(result["macs"]), "share": "100.0%"}
    if result["zeros"]:
        total[ZEROS] = f"{result['sparsity']:.1f}%"
    if (plan := result["plan"]) is not None and plan["zeros"] is not None:
        total[ZEROS_LEFT] = f"{plan['sparsity']:.1f}%"
    elif plan is not None:
        held = sum((layer["left"] or layer)["params"] for layer in result["layers"])
        other[PARAMS_LEFT] = short(plan["params"] - held)
        total |= {PARAMS_LEFT: short(plan["params"]), MACS_LEFT: short(plan["macs"])}
    return [other, total]


def _sensitivity(out: Console, found: Result) -> None:
    """A row for each group with its drops, those that cost most first."""
    ranked = sorted(found["groups"], key=lambda group: -sum(point["top1_drop"] for point in group["points"]))
    rows = [
        (group["name"], group["channels"], f"{group['macs_share']:.1f}%", *map(_drop, group["points"]))
        for group in ranked
    ]
    out.print("\ntop-1 points lost at each ratio, most sensitive first:")
    out.print(make_table(("group", "units", "of MACs", *map(str, found["ratios"])), rows))
    out.print(
        f"each group alone, from {percent(found['top1'])} on {found['samples']:,} test images; one-shot by L1 norm,"
        " without fine-tuning: an order, not a forecast"
    )


def _drop(point: Result) -> str:
    return f"{round(point['top1_drop'], 2) + 0.0:.2f}"  # + 0.0: never -0.00
