"""The words that select what is pruned, in analyze, regularize and prune alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from greg_compress.cli.arguments import Force, named_file
from greg_compress.errors import RequestError
from greg_compress.options.criterion import L1, parse_criterion
from greg_compress.options.network import Output
from greg_compress.options.selecting import DEFAULT_CAP, WAYS, Scope, Selection, require_one
from greg_compress.selection.amounts import parse_cap, parse_target
from greg_compress.selection.plan_file import read_plan
from greg_compress.selection.ratios import parse_ratios
from greg_compress.whole_files import require_free

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
Align = Annotated[int | None, Option("--align", metavar="N", help="Round kept channels to multiples of N, at least N.")]
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
    plan: PlanPath = None,
    skip: Skip = None,
    coupled: Coupled = False,
    align: Align = None,
    scope: ScopeName = None,
    max_ratio: MaxRatio = None,
    criterion: CriterionText = None,
    unstructured: Unstructured = False,
) -> Selection | None:
    chosen = L1 if criterion is None else parse_criterion(criterion)
    beside = {
        "--skip": skip,
        "--coupled": coupled,
        "--align": align is not None,
        "--scope": scope,
        "--max-ratio": max_ratio,
    }
    if criterion is not None and (ratios, target_macs, target_params, plan) == (None, None, None, None):
        raise RequestError(f"--criterion would have no effect without one of {WAYS}")
    if unstructured:
        _require_for_weights(
            ratios, {"--target-macs": target_macs, "--target-params": target_params, "--plan": plan, **beside}
        )
    idle = next((option for option, value in beside.items() if value), None)
    if (ratios, target_macs, target_params, plan) == (None, None, None, None):
        if idle:
            raise RequestError(f"{idle} would have no effect without --ratios, --target-macs or --target-params")
        return None
    given = {"--ratios": ratios, "--plan": plan, "--target-macs": target_macs, "--target-params": target_params}
    require_one([option for option, value in given.items() if value is not None])
    if plan is not None and idle:
        raise RequestError(f"{idle} would have no effect: --plan says how many units every group keeps")
    return Selection(
        None if ratios is None else parse_ratios(ratios),
        tuple(skip or ()),
        coupled,
        align,
        scope or Scope.LOCAL,
        None if max_ratio is None else parse_cap("--max-ratio", max_ratio),
        None if target_macs is None else parse_target("--target-macs", target_macs),
        None if target_params is None else parse_target("--target-params", target_params),
        None if plan is None else read_plan(plan),
        chosen,
        unstructured,
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
