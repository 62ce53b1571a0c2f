"""Stage `prune`: remove the picked units for good, and prove that what is left is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from greg_compress.cost import zeros, zeros_and_share
from greg_compress.criteria.images import scoring_images
from greg_compress.criteria.loss import Batches
from greg_compress.criteria.weights import weight_scores
from greg_compress.errors import RequestError
from greg_compress.fit import fitting, normalization_of
from greg_compress.options.criterion import L1
from greg_compress.options.measuring import ImageOptions
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.selecting import WAYS, Selection
from greg_compress.preview import show_plan
from greg_compress.recording import recorded
from greg_compress.reporting import Reporter
from greg_compress.selection.choose import by_l1, choose, counts
from greg_compress.selection.plan import Plan, picks_from_json
from greg_compress.sources.data import load_data
from greg_compress.sources.dataset import Dataset
from greg_compress.state import files, history
from greg_compress.state.format import State
from greg_compress.state.models import Opened, open_model, require_rebuilt, weights_of
from greg_compress.surgery.effect import cost_of, reduction
from greg_compress.surgery.folding import Folding
from greg_compress.surgery.masking import same_outputs
from greg_compress.surgery.pruned import Pruned, pruned
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.training.recalibration import recalibrate, training_batches
from greg_compress.unstructured.layers import choose as choose_weights
from greg_compress.unstructured.layers import counts as weight_counts
from greg_compress.unstructured.layers import require_kind, show_counts, to_json
from greg_compress.unstructured.masks import counts_of, differing, least, zero
from greg_compress.wiring.groups import Group, Wiring, find_groups

MUCH = 0.5
"""Of the output's norm: what a cut that the penalty has prepared should not change."""


@dataclass(frozen=True)
class Asked:
    """What is asked of one network."""

    model: ModelOptions
    selection: Selection | None
    images: ImageOptions | None
    data: Dataset | None

    def scored_on(self, state: State) -> Callable[[], Batches] | None:
        return scoring_images(self.data.train, normalization_of(state)) if self.data else None

    def recalibration(self, state: State) -> Callable[[nn.Module], None] | None:
        """What measures a network's statistics anew, if that is asked."""
        if not (self.data and self.images and self.images.recalibrate):
            return None
        batches = training_batches(self.data.train, normalization_of(state))
        return partial(recalibrate, batches=batches, number=self.images.recalibrate)


def run(
    model: ModelOptions, selection: Selection | None, images: ImageOptions | None, output: Output, ui: Reporter
) -> dict[str, Any]:
    """Cut a network by a regularized state's picks, or one-shot by a criterion; or zero single weights.

    Returns:
        `params`, `macs`, `size` (each before and after), `macs_speedup`, `sparsity`, `self_check`, `groups`, `fold`:
        what became of the constants that a regularized state's picked filters still made (see :class:`Folding`),
        `l1_differs`: how many of a regularized state's picks a final L1 sort (Algorithm 1, line 15) would have
        chosen otherwise, `target`: the ratio that was found for one, and what it reaches, and `zeros`: parameters that
        are exactly zero. Of single weights `sparsity` is the percentage of these, no size changes, and `layers` says
        how many weights each keeps; it is None for channels.

    Raises:
        RequestError: no selection where one is needed, or one that contradicts the picks.
        CheckFailed: the self-check failed, or nothing can be pruned; nothing is written.
    """
    data = load_data(images.data, images.download, images.workers) if images else None
    opened = open_model(model, ui, data.input_shape if data else None)
    data = fitting(opened, data) if data else None
    require_kind(opened.state.masks, opened.state.stage, selection, model.model)
    picked = opened.state.stage == "regularized" and bool(opened.state.masks)
    asked = Asked(model, selection, images, data)
    if images and images.recalibrate:
        ui.note(f"BatchNorm's statistics are measured anew after the cut, on {images.recalibrate} batches")
    remove = _weights if (picked if selection is None else selection.unstructured) else _channels
    report = remove(opened, asked, ui)
    opened.state.history = [*opened.state.history, _entry(asked, opened, report)]
    files.save(opened.state, output.path, replace=output.force)
    return report


def _channels(opened: Opened, asked: Asked, ui: Reporter) -> dict[str, Any]:
    """Cut units out, of the state too."""
    wiring = prunable_wiring(opened.model, opened.state.input_shapes)
    plan, differs = _plan(opened, wiring, asked, ui)
    removed = plan.removed_units(wiring)
    show_plan(opened.model, wiring, plan, ui)
    found = pruned(
        opened.model,
        wiring,
        removed,
        fold=opened.state.stage == "regularized",
        recalibrate=asked.recalibration(opened.state),
    )
    if found.folding is not None:
        _tell(found.folding, ui)
    before, after, small = found.before, found.after, found.model
    report = {
        **{
            name: {"before": getattr(before, name), "after": getattr(after, name)}
            for name in ("params", "macs", "size")
        },
        **reduction(before, after),
        "self_check": found.check.to_json(),
        "groups": [
            {"name": group.name, "channels": group.channels, "kept": plan.kept_in(group)} for group in wiring.groups
        ],
        "fold": found.folding.to_json() if found.folding else None,
        "layers": None,
        "zeros": {"before": zeros(opened.model.parameters()), "after": zeros(small.parameters())},
        "l1_differs": differs,
        "target": None if plan.solution is None else plan.solution.to_json(),
    }
    found.check.require(report)
    require_rebuilt(small, _cut_state(opened, found, plan), asked.model, "the pruned state")
    return report


def _weights(opened: Opened, asked: Asked, ui: Reporter) -> dict[str, Any]:
    """Set single weights to zero for good, in the state too."""
    dense, state = opened.model, opened.state
    wiring = find_groups(dense, state.input_shapes)
    before, cost = zeros(dense.parameters()), cost_of(dense, wiring)
    state.masks, differs = _masks(opened, wiring, asked)
    show_counts(dense, counts_of(state.masks), ui)
    zero(dense, state.masks)
    if (settle := asked.recalibration(state)) is not None:
        settle(dense)
    plan = to_json(dense, counts_of(state.masks))
    state.stage, state.plan, state.weights = "pruned", plan, weights_of(dense)
    rebuilt = require_rebuilt(dense, state, asked.model, "the pruned state")
    check = same_outputs(dense, rebuilt, wiring)
    report = {
        **{name: dict.fromkeys(("before", "after"), getattr(cost, name)) for name in ("params", "macs", "size")},
        **reduction(cost, cost),
        **zeros_and_share(dense),
        "self_check": check.to_json(),
        "groups": [{"name": group.name, "channels": group.channels, "kept": group.channels} for group in wiring.groups],
        "fold": None,
        "layers": [{"name": name.removesuffix(".weight"), **entry} for name, entry in plan.items()],
        "l1_differs": differs,
        "target": None,
    }
    report["zeros"] = {"before": before, "after": report["zeros"]}
    check.require(report)
    return report


def _masks(opened: Opened, wiring: Wiring, asked: Asked) -> tuple[dict[str, Tensor], int | None]:
    """Those of a regularized state, or by a fresh selection; and how many magnitude would now pick otherwise."""
    masks, selection, path = opened.state.masks, asked.selection, asked.model.model
    if opened.state.stage != "regularized":
        assert selection is not None
        return choose_weights(opened.model, wiring, selection, masks, asked.scored_on(opened.state)), None
    _require_no_criterion(selection, path)
    picked = counts_of(masks)
    if selection is not None and (wanted := weight_counts(opened.model, wiring, selection, {})) != picked:
        name = next(name for name in {**picked, **wanted} if picked.get(name) != wanted.get(name))
        raise RequestError(
            f"{selection.text} removes {wanted.get(name, 0)} weights of {name.removesuffix('.weight')}, but {path} was"
            f" regularized to lose {picked.get(name, 0)}; leave --unstructured and --ratios out"
        )
    return masks, differing(masks, least(picked, {}, weight_scores(opened.model, picked)))


def _plan(opened: Opened, wiring: Wiring, asked: Asked, ui: Reporter) -> tuple[Plan, int | None]:
    """The picks of a regularized state, or a fresh selection; and how many picks L1 would now change."""
    selection, path = asked.selection, asked.model.model
    if opened.state.stage != "regularized":
        if selection is None:
            raise RequestError(
                f"{path} is {opened.state.stage} and carries no picks; say what to prune with one of {WAYS}"
            )
        return choose(opened.model, wiring, selection, asked.scored_on(opened.state), ui), None
    _require_no_criterion(selection, path)
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


def _require_no_criterion(selection: Selection | None, path: str) -> None:
    if selection is not None and selection.criterion != L1:
        raise RequestError(f"--criterion would have no effect: {path} carries its picks")


def _tell(folding: Folding, ui: Reporter) -> None:
    if folding.left:
        names = ", ".join(folding.left)
        ui.note(
            f"what picked filters still make stays out of {names}: it varies there from place to place, and no bias"
            " holds that"
        )
    if folding.in_vain or folding.change[1] > MUCH:
        ui.warn(
            f"the picked filters are far from zero: on a random batch the cut changes the output by"
            f" {folding.change[1]:.0%} of its norm; a longer phase (--scale) leaves less of them, --recalibrate and"
            " finetune mend some of it"
        )


def _counts(plan: Plan, groups: Sequence[Group]) -> str:
    return ", ".join(f"{group.name} {plan.kept_in(group)}" for group in groups[:3]) + " ..." * (len(groups) > 3)


def _cut_state(opened: Opened, found: Pruned, plan: Plan) -> State:
    state = opened.state
    state.stage = "pruned"
    state.weights = weights_of(found.model)
    state.shapes = state.shapes | found.form.shapes
    state.groups = state.groups | found.form.groups
    state.plan = plan.to_json()
    return state


def _entry(asked: Asked, opened: Opened, report: dict[str, Any]) -> dict[str, Any]:
    model = asked.model
    options = recorded(*(group for group in (model, asked.selection, asked.images) if group is not None))
    return history.entry("prune", options, report, model=model.model, digest=opened.digest, untrained=opened.untrained)
