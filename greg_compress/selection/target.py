"""From a target (a share of the dense network's MACs or parameters) to the ratio that reaches it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from greg_compress.errors import RequestError
from greg_compress.options.selecting import Scope, Selection
from greg_compress.selection.amounts import percent
from greg_compress.selection.plan import Plan, Solution

STEPS = 10**6
"""Ratios are searched in steps of 1 / STEPS: finer than the widest layer's units."""
TOLERANCE = 0.02
"""Of the target, either way."""


@dataclass(frozen=True)
class Candidate:
    """A plan with what it leaves, as a share of the dense network."""

    plan: Plan
    left: float
    ratio: Decimal
    ahead: int = 0


def reach(selection: Selection, at: Callable[[Decimal], Plan], left: Callable[[Plan], float], wider: str) -> Plan:
    """The plan of the ratio that comes nearest to the selection's target.

    Ratios make jumps where many layers are equally wide. If both sides of a jump miss the target, groups are moved
    across it one by one, in order of execution, passing over those that would go too far.

    Args:
        at: the plan of a ratio; a larger ratio removes the same units and more.
        left: the share of the dense network that a plan leaves.
        wider: what would reach further, in words; may be empty.

    Raises:
        RequestError: nothing comes within 2 % of the target; it says what does come nearest.
    """
    assert selection.target is not None
    option, target = selection.option, selection.target

    def candidate(steps: int) -> Candidate:
        ratio = Decimal(steps).scaleb(-6).normalize()
        plan = at(ratio)
        return Candidate(plan, left(plan), ratio)

    least = candidate(STEPS - 1)
    if not least.plan.shares:
        return least.plan
    larger, smaller = _around(float(target), candidate, least)
    tried = [larger, smaller]
    if not any(_meets(found, target) for found in tried):
        tried += _between(larger, smaller, left, target)
    best = min((found for found in tried if found.plan.shares), key=lambda found: abs(found.left - float(target)))
    if not _meets(best, target):
        raise RequestError(f"{option} {percent(target)}: {_nearest(tried, target)}{_given(selection)}{wider}")
    return replace(best.plan, solution=Solution(option, target, best.left, best.ratio, best.ahead))


def _around(target: float, candidate: Callable[[int], Candidate], least: Candidate) -> tuple[Candidate, Candidate]:
    """Neighbours on both sides of the target; twice the least that can be left, if that is more."""
    low, high = 0, STEPS - 1
    larger, smaller = candidate(low), least
    if smaller.left > target:
        return smaller, smaller
    while high - low > 1:
        middle = candidate((low + high) // 2)
        if middle.left >= target:
            low, larger = (low + high) // 2, middle
        else:
            high, smaller = (low + high) // 2, middle
    return larger, smaller


def _between(larger: Candidate, smaller: Candidate, left: Callable[[Plan], float], target: Decimal) -> list[Candidate]:
    """Plans that take some groups from the smaller plan: more and more, in order of execution.

    If none meets the target, those too that pass over a group whose step is too long.
    """
    moved = [name for name, share in smaller.plan.shares.items() if share != larger.plan.shares.get(name)]

    def candidate(ahead: Sequence[str]) -> Candidate:
        plan = _mixed(larger.plan, smaller.plan, ahead)
        return Candidate(plan, left(plan), larger.ratio, len(ahead))

    tried = [candidate(moved[:count]) for count in range(1, len(moved))]
    if any(_meets(found, target) for found in tried):
        return tried
    taken: list[str] = []
    for name in moved:
        tried.append(found := candidate([*taken, name]))
        if found.left >= target:
            taken.append(name)
    return tried


def _mixed(larger: Plan, smaller: Plan, ahead: Sequence[str]) -> Plan:
    """The larger plan, but for the groups `ahead`, which are those of the smaller one."""
    plans = {name: smaller if name in ahead else larger for name in smaller.shares}
    shares = {name: plan.shares[name] for name, plan in plans.items() if name in plan.shares}
    if larger.asked is None or smaller.asked is None:
        return Plan(shares)
    before = {name: smaller.asked if name in ahead else larger.asked for name in smaller.asked.shares}
    return Plan(shares, Plan({name: plan.shares[name] for name, plan in before.items() if name in plan.shares}))


def _meets(found: Candidate, target: Decimal) -> bool:
    return bool(found.plan.shares) and abs(found.left / float(target) - 1) <= TOLERANCE


def _nearest(tried: list[Candidate], target: Decimal) -> str:
    below = max((found.left for found in tried if found.left <= target), default=None)
    above = min((found.left for found in tried if found.left > target), default=1.0)
    if below is None:
        return f"the least that can be left is {percent(above)}"
    return f"the nearest found leave {percent(below)} and {percent(above)}"


def _given(selection: Selection) -> str:
    """The options that narrow what can be reached, and what to do."""
    given = {
        "--skip": selection.skip,
        "--align": selection.align,
        "--scope global": selection.scope is Scope.GLOBAL,
        "--max-ratio": selection.max_ratio,
    }
    named = [name for name, value in given.items() if value]
    return f" with {', '.join(named)}; ask for that, or leave some of these out" if named else "; ask for that"
