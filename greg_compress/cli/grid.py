"""How a recipe is shown: its results beside the paper's, or what it would do."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from greg_compress.cli.terminal import make_table

Result = dict[str, Any]
MANY = 10_000
"""From here on a figure is a count, and nobody reads its decimals."""


def grid(out: Console, result: Result) -> None:
    """A line for each result and cell: mean and deviation over the seeds, and what the paper prints."""
    each = list(result["each"])
    rows = [
        (line["name"], *(line["each"].get(name, "") for name in each), _measured(line), line["n"], line["paper"] or "")
        for line in result["results"]
    ]
    out.print(make_table(("", *each, "ours", "seeds", "paper"), rows, words=range(len(each) + 1)))
    steps = result["steps"]
    if steps["finished"] < steps["all"]:
        out.print(f"{steps['finished']} of {steps['all']} steps are finished")


def _measured(line: Result) -> str:
    if line["mean"] is None:
        return "-"
    if abs(line["mean"]) >= MANY:
        return f"{line['mean']:,.0f}"
    return f"{line['mean']:.2f}" + ("" if line["std"] is None else f" ±{line['std']:.2f}")


def planned_grid(out: Console, result: Result) -> None:
    """Every command, with what it would leave as a comment behind it."""
    for step in result["steps"]:
        effect = ""
        if step["macs_speedup"] is not None:
            effect = f"  # {step['macs_speedup']:.2f}x fewer MACs, sparsity {step['sparsity']:.2f}%"
        out.print(step["command"] + effect, soft_wrap=True)
