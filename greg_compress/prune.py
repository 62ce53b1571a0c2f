"""Stage `prune`: remove the picked units for good, and prove that what is left is right."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from greg_compress.cost import zeros, zeros_and_share
from greg_compress.errors import CheckFailed, RequestError
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.selecting import WAYS, Selection
from greg_compress.preview import show_plan
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.selection.choose import by_l1, choose, counts
from greg_compress.selection.plan import Plan, picks_from_json
from greg_compress.state import files, history
from greg_compress.state.format import State
from greg_compress.state.models import Opened, network, open_model, weights_of
from greg_compress.surgery.cut import Form, cut
from greg_compress.surgery.effect import cost_of, reduction
from greg_compress.surgery.masking import SelfCheck, masked_equals_sliced, same_outputs
from greg_compress.surgery.replay import Difference, first_difference
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.unstructured.layers import counts as weight_counts
from greg_compress.unstructured.layers import require_effect, require_kind, show_counts, to_json
from greg_compress.unstructured.masks import counts_of, differing, least, zero
from greg_compress.wiring.groups import Group, Wiring, find_groups
from greg_compress.wiring.skeleton import named_tensors


def run(model: ModelOptions, selection: Selection | None, output: Output, ui: Reporter) -> dict[str, Any]:
    """Cut a network by a regularized state's picks, or one-shot by L1 with a selection; or zero single weights so.

    Returns:
        `params`, `macs`, `size` (each before and after), `macs_speedup`, `sparsity`, `self_check`, `groups`,
        `l1_differs`: how many of a regularized state's picks a final L1 sort (Algorithm 1, line 15) would have
        chosen otherwise, `target`: the ratio that was found for one, and what it reaches, and `zeros`: parameters that
        are exactly zero. Of single weights `sparsity` is the percentage of these, no size changes, and `layers` says
        how many weights each keeps; it is None for channels.

    Raises:
        RequestError: no selection where one is needed, or one that contradicts the picks.
        CheckFailed: the self-check failed, or nothing can be pruned; nothing is written.
    """
    opened = open_model(model, ui)
    require_kind(opened.state.masks, opened.state.stage, selection, model.model)
    picked = opened.state.stage == "regularized" and bool(opened.state.masks)
    if picked if selection is None else selection.unstructured:
        return _of_weights(opened, model, selection, output, ui)
    wiring = prunable_wiring(opened.model, opened.state.input_shapes)
    plan, differs = _plan(opened, wiring, selection, model.model, ui)
    removed = plan.removed_units(wiring)
    show_plan(opened.model, wiring, plan, ui)
    if (difference := first_difference(opened.model, wiring, removed)) is not None:
        raise CheckFailed(f"this plan cannot be cut: {difference.reason}; {_way_out(wiring, plan, difference)}")
    small = copy.deepcopy(opened.model)
    form = cut(small, wiring, removed)
    check = masked_equals_sliced(opened.model, small, wiring, removed)
    before, after = (cost_of(network, wiring) for network in (opened.model, small))
    report = {
        **{
            name: {"before": getattr(before, name), "after": getattr(after, name)}
            for name in ("params", "macs", "size")
        },
        **reduction(before, after),
        "self_check": check.to_json(),
        "groups": [
            {"name": group.name, "channels": group.channels, "kept": plan.kept_in(group)} for group in wiring.groups
        ],
        "layers": None,
        "zeros": {"before": zeros(opened.model.parameters()), "after": zeros(small.parameters())},
        "l1_differs": differs,
        "target": None if plan.solution is None else plan.solution.to_json(),
    }
    _require(check, report)
    state = _pruned(opened, small, form, plan)
    state.history = [*state.history, _entry(model, selection, opened, report)]
    _require_rebuilt(small, state, model)
    files.save(state, output.path, replace=output.force)
    return report


def _of_weights(
    opened: Opened, model: ModelOptions, selection: Selection | None, output: Output, ui: Reporter
) -> dict[str, Any]:
    """Set single weights to zero for good."""
    dense, state = opened.model, opened.state
    wiring = find_groups(dense, state.input_shapes)
    before, cost = zeros(dense.parameters()), cost_of(dense, wiring)
    state.masks, differs = _masks(opened, wiring, selection, model.model)
    show_counts(dense, counts_of(state.masks), ui)
    zero(dense, state.masks)
    plan = to_json(dense, counts_of(state.masks))
    state.stage, state.plan, state.weights = "pruned", plan, weights_of(dense)
    rebuilt = _require_rebuilt(dense, state, model)
    check = same_outputs(dense, rebuilt, wiring)
    report = {
        **{name: dict.fromkeys(("before", "after"), getattr(cost, name)) for name in ("params", "macs", "size")},
        **reduction(cost, cost),
        **zeros_and_share(dense),
        "self_check": check.to_json(),
        "groups": [{"name": group.name, "channels": group.channels, "kept": group.channels} for group in wiring.groups],
        "layers": [{"name": name.removesuffix(".weight"), **entry} for name, entry in plan.items()],
        "l1_differs": differs,
        "target": None,
    }
    report["zeros"] = {"before": before, "after": report["zeros"]}
    _require(check, report)
    state.history = [*state.history, _entry(model, selection, opened, report)]
    files.save(state, output.path, replace=output.force)
    return report


def _masks(
    opened: Opened, wiring: Wiring, selection: Selection | None, path: str
) -> tuple[dict[str, Tensor], int | None]:
    """Those of a regularized state, or by a fresh selection; and how many magnitude would now pick otherwise."""
    masks = opened.state.masks
    if opened.state.stage != "regularized":
        assert selection is not None
        wanted = weight_counts(opened.model, wiring, selection, masks)
        require_effect(wanted, masks, selection)
        return least(opened.model, wanted, masks), None
    picked = counts_of(masks)
    if selection is not None and (wanted := weight_counts(opened.model, wiring, selection, {})) != picked:
        name = next(name for name in {**picked, **wanted} if picked.get(name) != wanted.get(name))
        raise RequestError(
            f"{selection.text} removes {wanted.get(name, 0)} weights of {name.removesuffix('.weight')}, but {path} was"
            f" regularized to lose {picked.get(name, 0)}; leave --unstructured and --ratios out"
        )
    return masks, differing(masks, least(opened.model, picked, {}))


def _plan(
    opened: Opened, wiring: Wiring, selection: Selection | None, path: str, ui: Reporter
) -> tuple[Plan, int | None]:
    """The picks of a regularized state, or a fresh selection; and how many picks L1 would now change."""
    if opened.state.stage != "regularized":
        if selection is None:
            raise RequestError(
                f"{path} is {opened.state.stage} and carries no picks; say what to prune with one of {WAYS}"
            )
        return choose(opened.model, wiring, selection), None
    plan = picks_from_json(opened.state.plan, wiring)
    if selection is not None:
        wanted = counts(opened.model, wiring, selection)
        if wanted.counts != plan.counts:
            differing = [group for group in wiring.groups if wanted.kept_in(group) != plan.kept_in(group)]
            raise RequestError(
                f"{selection.text} keeps {_counts(wanted, differing)}, but {path} was regularized to keep"
                f" {_counts(plan, differing)}; leave {selection.option} out"
            )
        if any(share.removed not in (None, plan.shares[name].removed) for name, share in wanted.shares.items()):
            ui.note(f"the picks of {path} count, not those of {selection.text}")
    return plan, plan.differs_from(by_l1(opened.model, wiring, plan))


def _way_out(wiring: Wiring, plan: Plan, difference: Difference) -> str:
    """What to skip, when trial cuts held and this very plan does not."""
    groups = {group.name: group.units for group in wiring.groups}
    passing = [name for name in plan.shares if bool(torch.isin(groups[name], difference.units).any())]
    names = " and ".join(dict.fromkeys(name.partition("#")[0] for name in passing))
    return f"it would do without {names} (see --skip)" if names else "please report this network"


def _counts(plan: Plan, groups: Sequence[Group]) -> str:
    return ", ".join(f"{group.name} {plan.kept_in(group)}" for group in groups[:3]) + " ..." * (len(groups) > 3)


def _require(check: SelfCheck, report: dict[str, Any]) -> None:
    if not check.passed:
        raise CheckFailed(
            f"the self-check failed: masked and sliced outputs differ by {check.max_rel_error:.1e} of the largest"
            " output; nothing was written, please report this network",
            {**report, "passed": False},
        )


def _require_rebuilt(small: nn.Module, state: State, model: ModelOptions) -> nn.Module:
    """Rebuild the network as every later command will, before anything is written.

    Raises:
        CheckFailed: what comes out is another network.
    """
    found = network(state, model, "the pruned state")
    rebuilt = dict(named_tensors(found))
    for name, tensor in named_tensors(small):
        if not torch.equal(rebuilt[name], tensor):
            raise CheckFailed(f"the pruned network cannot be rebuilt: {name} is another; nothing was written")
    return found


def _pruned(opened: Opened, small: nn.Module, form: Form, plan: Plan) -> State:
    state = opened.state
    state.stage = "pruned"
    state.weights = weights_of(small)
    state.shapes = state.shapes | form.shapes
    state.groups = state.groups | form.groups
    state.plan = plan.to_json()
    return state


def _entry(model: ModelOptions, selection: Selection | None, opened: Opened, report: dict[str, Any]) -> dict[str, Any]:
    options = recorded(model, selection) if selection else recorded(model)
    return history.entry("prune", options, report, model=model.model, digest=opened.digest, untrained=opened.untrained)
