"""Stage `analyze`: parameters and MACs per layer, groups, what is frozen and why, what a selection leaves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from greg_compress.cost import Cost, layer_macs, owner, zeros, zeros_and_share
from greg_compress.criteria.images import scoring_images
from greg_compress.errors import RequestError
from greg_compress.fit import fitting, normalization_of
from greg_compress.options.measuring import ImageOptions, SensitivityOptions
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.selecting import Selection
from greg_compress.reporting import Reporter
from greg_compress.selection.choose import choose
from greg_compress.selection.plan import Plan
from greg_compress.selection.planned import written
from greg_compress.selection.resolve import FOLLOWS, UNFOLLOWED, indexed_layers, stage_of
from greg_compress.sensitivity import Evaluation, measure, spread
from greg_compress.sources.data import load_data
from greg_compress.sources.dataset import Dataset
from greg_compress.state.models import Opened, open_model
from greg_compress.surgery.effect import cost_of, reduction, without
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.training.numerics import resolve_device
from greg_compress.unstructured.layers import choose as choose_weights
from greg_compress.unstructured.layers import require_kind
from greg_compress.unstructured.masks import Masks
from greg_compress.whole_files import written_whole
from greg_compress.wiring.groups import Group, Wiring
from greg_compress.wiring.record import Layer, Unfollowed


def run(
    options: ModelOptions,
    selection: Selection | None,
    plan_output: Output | None,
    sensitivity: SensitivityOptions | None,
    images: ImageOptions | None,
    ui: Reporter,
) -> dict[str, Any]:
    """Return `params`, `macs`, `size`, `layers`, `uncalled`, and with a selection `plan` (design section 7).

    With `--unstructured` the plan's `sparsity` is the percentage of parameters that would be exactly zero, and `zeros`
    their number; a layer's `left` says how many of its own.

    The plan itself goes to `plan_output`, as a plan file. With data to measure on, `sensitivity` is what
    :func:`.sensitivity.measure` returns.
    """
    measured = sensitivity or images
    data = measured and load_data(measured.data, measured.download, measured.workers)
    opened = open_model(options, ui, data.input_shape if data else None)
    if sensitivity and opened.untrained:
        # What chance loses says nothing about a group, and a table of it would look like an answer.
        raise RequestError(
            f"--sensitivity of {options.model} would mean nothing, since it is untrained; greg train it first"
        )
    data = data and fitting(opened, data)
    wiring = prunable_wiring(opened.model, opened.state.input_shapes)
    require_kind(opened.state.masks, opened.state.stage, selection, options.model)
    scored = scoring_images(data.train, normalization_of(opened.state)) if images and data else None
    masks, singly = opened.state.masks, selection is not None and selection.unstructured
    weights = choose_weights(opened.model, wiring, selection, masks, scored) if selection and singly else None
    plan = choose(opened.model, wiring, selection, scored, ui) if selection and weights is None else None
    coupled = selection is not None and selection.coupled
    result = analysis(opened.model, wiring, plan, coupled)
    if data and sensitivity:
        result["sensitivity"] = _sensitivity(opened, wiring, data, sensitivity, coupled, ui)
    if weights is not None:
        _add_weights(result, opened.model, wiring, weights)
    if plan is not None and plan_output is not None:
        with written_whole(plan_output.path, replace=plan_output.force) as path:
            path.write_text(written(plan, wiring))
    return result


def analysis(model: nn.Module, wiring: Wiring, plan: Plan | None, coupled: bool = False) -> dict[str, Any]:
    """What :func:`run` returns, but for a sensitivity and single weights.

    Args:
        coupled: whether groups that additions tie together count as prunable.
    """
    left = None if plan is None else without(model, wiring, plan.removed_units(wiring))
    whole = cost_of(model, wiring)
    return {
        "params": whole.params,
        "macs": whole.macs,
        "size": whole.size,
        **zeros_and_share(model),
        "layers": _layers(model, wiring, left, plan, coupled),
        "uncalled": _uncalled(model, wiring),
        "plan": None if plan is None or left is None else _effect(whole, cost_of(left, wiring), plan),
        "sensitivity": None,
    }


def _add_weights(result: dict[str, Any], model: nn.Module, wiring: Wiring, masks: Masks) -> None:
    """Put into a result what single weights to remove would leave: the same shapes, and more zeros."""
    whole = cost_of(model, wiring)
    more = {name: int((mask & (model.get_parameter(name).detach().cpu() != 0)).sum()) for name, mask in masks.items()}
    held = {layer.name: layer.weight or f"{layer.name}.weight" for layer in wiring.ran}
    for row in result["layers"]:
        zeros_left = row["zeros"] + more.get(held[row["name"]], 0)
        row["left"] = {**{name: row[name] for name in ("macs", "shape", "params")}, "zeros": zeros_left}
    found = result["zeros"] + sum(more.values())
    share = 100 * found / whole.params
    result["plan"] = _effect(whole, whole, Plan({})) | {"sparsity": share, "zeros": found}


def _sensitivity(
    opened: Opened, wiring: Wiring, data: Dataset, options: SensitivityOptions, coupled: bool, ui: Reporter
) -> dict[str, Any]:
    place = resolve_device(options.device)
    groups = [group for group in wiring.groups if group.left_alone(coupled) is None]
    count = min(options.samples, len(data.test))
    ui.note(f"sensitivity of {len(groups)} groups on {count:,} of {len(data.test):,} test images")
    samples = spread(data.test, count)
    evaluation = Evaluation(opened.model.to(place), samples, normalization_of(opened.state), place)
    return measure(evaluation, wiring, groups, ui)


def _effect(whole: Cost, after: Cost, plan: Plan) -> dict[str, Any]:
    target = None if plan.solution is None else plan.solution.to_json()
    return {"params": after.params, "macs": after.macs, **reduction(whole, after), "target": target, "zeros": None}


def _layers(
    model: nn.Module, wiring: Wiring, left: nn.Module | None, plan: Plan | None, coupled: bool
) -> list[dict[str, Any]]:
    """A row for each layer that ran, in order of execution."""
    removed = None if plan is None else plan.removed_units(wiring)
    asked = None if plan is None or plan.asked is None else plan.asked.removed_units(wiring)

    def reason(group: Group) -> str | None:
        return group.left_alone(coupled or (plan is not None and group.name in plan.shares))

    macs = layer_macs(model, wiring.input_shapes, wiring.layers)
    macs_left = None if left is None else layer_macs(left, wiring.input_shapes, wiring.layers)
    index = {layer.name: number for number, layer in enumerate(indexed_layers(wiring))}
    rows = []
    for layer in wiring.ran:
        if isinstance(layer, Unfollowed):
            rows.append({**_unfollowed(model, layer), "index": index[layer.name]})
            continue
        groups = wiring.groups_of(layer.weight)
        module = owner(model, layer)
        rows.append(
            {
                "name": layer.name,
                "type": f"functional {layer.kind}" if module is None else type(module).__name__,
                "stage": stage_of(layer),
                "index": index.get(layer.name),
                "macs": macs[layer.weight] + _more(layer, wiring),
                "out_channels": layer.channels.numel(),
                "group": groups[0].name if groups else None,
                "prunable": any(reason(group) is None for group in groups),
                "reason": next(filter(None, map(reason, groups)), None) if groups else FOLLOWS,
                "asked": _staying(layer, wiring, asked),
                "kept": _staying(layer, wiring, removed),
                **_sizes(model, layer),
                "left": None if left is None or macs_left is None
                else {"macs": macs_left[layer.weight] + _more(layer, wiring), **_sizes(left, layer)},
            }
        )  # fmt: skip
    return rows


def _staying(layer: Layer, wiring: Wiring, removed: Tensor | None) -> int | None:
    """How many of a layer's channels stay when the units `removed` go."""
    return None if removed is None else int((~torch.isin(wiring.roots[layer.channels], removed)).sum())


def _more(layer: Layer, wiring: Wiring) -> int:
    """Multiply-adds of further calls of a layer, which could not be followed."""
    other = wiring.trace.unfollowed.get(layer.name)
    return other.macs if other else 0


def _sizes(model: nn.Module, layer: Layer) -> dict[str, Any]:
    weight = model.get_parameter(layer.weight)
    module = owner(model, layer)
    return {"shape": list(weight.shape), **_amounts([weight] if module is None else module.parameters(recurse=False))}


def _amounts(own: Iterable[Tensor]) -> dict[str, int | None]:
    """Parameters of a layer, and how many are exactly zero; None where there are no values."""
    own = list(own)
    known = not any(parameter.is_meta for parameter in own)
    return {"params": sum(parameter.numel() for parameter in own), "zeros": zeros(own) if known else None}


def _unfollowed(model: nn.Module, layer: Unfollowed) -> dict[str, Any]:
    module = model.get_submodule(layer.name)
    return {
        "name": layer.name,
        "type": type(module).__name__,
        "stage": stage_of(layer),
        **_amounts(module.parameters(recurse=False)),
        "macs": layer.macs,
        "prunable": False,
        "reason": UNFOLLOWED,
        **dict.fromkeys(("out_channels", "group", "asked", "kept", "shape", "left")),
    }


def _uncalled(model: nn.Module, wiring: Wiring) -> list[str]:
    """Modules with parameters of their own that never ran; they are left alone."""
    return [
        name
        for name, module in model.named_modules()
        if name not in wiring.trace.called and f"{name}.weight" not in wiring.trace.layers
        if next(module.parameters(recurse=False), None) is not None
    ]
