"""The words that select what is pruned, in analyze, regularize and prune alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from greg_compress.cli.arguments import Force, named_file
from greg_compress.errors import RequestError
from greg_compress.options.criterion import L1, parse_criterion
from greg_compress.options.limits import MANY
from greg_compress.options.network import Output
from greg_compress.options.selecting import DEFAULT_CAP, WAYS, Scope, Selection, require_one
from greg_compress.selection.amounts import parse_cap, parse_factor, parse_target, parse_time
from greg_compress.selection.plan_file import read_plan
from greg_compress.selection.ratios import parse_ratios
from greg_compress.whole_files import require_free

AUTO = "auto"
RatiosText = Annotated[
    str | None,
    Option(
        "--ratios",
        metavar="RATIOS",
        help="Share of units to remove: 0.5; per stage [0, 0.5]; by index [1-15:0.7]; layer1=0.3; @FILE.json.",
    ),
]
TargetMacs = Annotated[
    str | None, Option("--target-macs", metavar="50%", help="Find the ratio that leaves this much of the MACs.")
]
TargetParams = Annotated[str | None, Option("--target-params", metavar="50%", help="The same for the parameters.")]
PlanPath = Annotated[str | None, Option("--plan", metavar="FILE", help="Prune what a file of analyze --plan-out says.")]
Skip = Annotated[list[str] | None, Option("--skip", metavar="NAME", help="Spare a module and all below it; repeats.")]
Coupled = Annotated[bool, Option("--coupled", help="Prune what additions tie together (residual stages) too.")]
TargetLatency = Annotated[
    str | None,
    Option("--target-latency", metavar="12ms", help="Find the widths that take this long, measured in onnxruntime."),
]
TargetSpeedup = Annotated[
    str | None, Option("--target-speedup", metavar="2x", help="The same, as a ratio of measured times.")
]
Threads = Annotated[int | None, Option("--threads", help="Of onnxruntime, where time is measured.", show_default="1")]
Batch = Annotated[int | None, Option("--batch", metavar="N", help="Samples of a timed run.", show_default="1")]
Align = Annotated[
    str | None,
    Option("--align", metavar="N", help="Round kept channels to multiples of N, at least N; auto measures which N."),
]
ScopeName = Annotated[
    Scope | None, Option("--scope", help="A ratio of every group, or one threshold over all.", show_default="local")
]
MaxRatio = Annotated[
    str | None,
    Option(
        "--max-ratio",
        metavar="R",
        help="Largest share that a group may lose.",
        show_default=f"{DEFAULT_CAP} with --scope global",
    ),
]
CriterionText = Annotated[
    str | None,
    Option(
        "--criterion",
        metavar="NAME",
        help="What scores units: l1, max (its reverse), random[:SEED]; on the loss of training images: obd, taylor.",
        show_default="l1",
    ),
]

Unstructured = Annotated[
    bool, Option("--unstructured", help="Remove single weights, not channels: no shape changes. With --ratios.")
]


def selection(
    ratios: RatiosText = None,
    target_macs: TargetMacs = None,
    target_params: TargetParams = None,
    target_latency: TargetLatency = None,
    target_speedup: TargetSpeedup = None,
    plan: PlanPath = None,
    skip: Skip = None,
    coupled: Coupled = False,
    align: Align = None,
    scope: ScopeName = None,
    max_ratio: MaxRatio = None,
    criterion: CriterionText = None,
    unstructured: Unstructured = False,
    threads: Threads = None,
    batch: Batch = None,
) -> Selection | None:
    ways = {
        "--ratios": ratios,
        "--plan": plan,
        "--target-macs": target_macs,
        "--target-params": target_params,
        "--target-latency": target_latency,
        "--target-speedup": target_speedup,
    }
    given = [option for option, value in ways.items() if value is not None]
    times = target_latency is not None or target_speedup is not None
    beside = {"--skip": skip, "--coupled": coupled, "--align": align, "--scope": scope, "--max-ratio": max_ratio}
    clock = {"--threads": threads, "--batch": batch}
    if criterion is not None and not given:
        raise RequestError(f"--criterion would have no effect without one of {WAYS}")
    if unstructured:
        _require_for_weights(ratios, {**{key: ways[key] for key in ways if key != "--ratios"}, **beside, **clock})
    _require_timed(clock, times or align == AUTO)
    _require_effect([option for option, value in beside.items() if value], given)
    if not given:
        return None
    require_one(given)
    if times and align == AUTO:
        raise RequestError(f"--align auto would have no effect: {given[0]} measures every width")
    return Selection(
        None if ratios is None else parse_ratios(ratios),
        tuple(skip or ()),
        coupled,
        None if align in (None, AUTO) else _multiple(align),
        scope or Scope.LOCAL,
        None if max_ratio is None else parse_cap("--max-ratio", max_ratio),
        None if target_macs is None else parse_target("--target-macs", target_macs),
        None if target_params is None else parse_target("--target-params", target_params),
        None if plan is None else read_plan(plan),
        L1 if criterion is None else parse_criterion(criterion),
        unstructured,
        align == AUTO,
        None if target_latency is None else parse_time("--target-latency", target_latency),
        None if target_speedup is None else parse_factor("--target-speedup", target_speedup),
        1 if threads is None else threads,
        1 if batch is None else batch,
    )


def _multiple(text: str | None) -> int:
    assert text is not None
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:10]) < MANY:
        raise RequestError(f"--align {text[:40]}: it must be above 0 and below {MANY:g}; or write auto")
    return int(text)


def _require_effect(beside: list[str], given: list[str]) -> None:
    """Raise RequestError for an option beside one that selects, where there is none or a plan says it all."""
    if beside and not given:
        raise RequestError(f"{beside[0]} would have no effect without one of {WAYS}")
    if beside and "--plan" in given:
        raise RequestError(f"{beside[0]} would have no effect: --plan says how many units every group keeps")


def _require_timed(clock: dict[str, int | None], timed: bool) -> None:
    for option, value in clock.items():
        if value is not None and not timed:
            raise RequestError(
                f"{option} would have no effect without --target-latency, --target-speedup or --align auto"
            )


def _require_for_weights(ratios: str | None, others: dict[str, Any]) -> None:
    """Raise RequestError for an option that means nothing where no shape changes."""
    for option, value in others.items():
        if value not in (None, False) and option != "--skip":
            raise RequestError(f"{option} would have no effect: --unstructured removes single weights, by --ratios")
    if ratios is None:
        raise RequestError("--unstructured would have no effect without --ratios")


def plan_output(
    plan_out: Annotated[
        Path | None, Option("--plan-out", metavar="FILE", help="Write the plan there, for --plan.")
    ] = None,
    force: Force = False,
) -> Output | None:
    if plan_out is None:
        if force:
            raise RequestError("--force would have no effect without --plan-out")
        return None
    found = Output(named_file(plan_out, "--plan-out"), force)
    require_free(found, resumable=False)
    return found
