"""Stage `analyze`: parameters and MACs per layer, groups, what is frozen and why, what a selection leaves."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from greg_compress.cost import Cost, layer_macs
from greg_compress.options import ModelOptions, Selection
from greg_compress.reporting import Reporter
from greg_compress.selection.choose import choose
from greg_compress.selection.plan import Plan
from greg_compress.selection.resolve import stage_of
from greg_compress.state.models import open_model
from greg_compress.surgery.effect import cost_after, cost_of, reduction
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import Wiring


def run(options: ModelOptions, selection: Selection | None, ui: Reporter) -> dict[str, Any]:
    """Return `params`, `macs`, `size`, `layers`, `uncalled`, and with a selection `plan` (design section 7)."""
    opened = open_model(options.model, options.arch, options.input_shapes)
    if opened.untrained:
        ui.warn(f"{options.model} has no trained weights")
    wiring = prunable_wiring(opened.model, opened.state.input_shapes)
    macs = layer_macs(opened.model, wiring.input_shapes, wiring.layers)
    whole = cost_of(opened.model, wiring)
    plan = choose(opened.model, wiring, selection) if selection else None
    return {
        "params": whole.params,
        "macs": whole.macs,
        "size": whole.size,
        "layers": [*_layers(opened.model, wiring, macs, plan), *_unfollowed(opened.model, wiring)],
        "uncalled": _uncalled(opened.model, wiring),
        "plan": None if plan is None else _effect(opened.model, wiring, whole, plan),
    }


def _effect(model: nn.Module, wiring: Wiring, whole: Cost, plan: Plan) -> dict[str, Any]:
    after = cost_after(model, wiring, plan.removed_units(wiring))
    return {"params": after.params, "macs": after.macs, **reduction(whole, after)}


def _layers(model: nn.Module, wiring: Wiring, macs: dict[str, int], plan: Plan | None) -> list[dict[str, Any]]:
    rows = []
    index = 0
    removed = plan.removed_units(wiring) if plan else torch.empty(0)
    for layer in wiring.layers:
        module = model.get_submodule(layer.module)
        group = wiring.group_of(layer.weight)
        is_output = group is not None and not layer.convolves and bool(group.frozen)
        indexed = not (layer.shortcut or is_output)
        rows.append(
            {
                "name": layer.module,
                "type": type(module).__name__,
                "stage": stage_of(layer),
                "index": index if indexed else None,
                "params": sum(parameter.numel() for parameter in module.parameters(recurse=False)),
                "macs": macs[layer.weight],
                "out_channels": model.get_parameter(layer.weight).shape[0],
                "group": group.name if group else None,
                "prunable": group is not None and group.reason is None,
                "reason": group.reason if group else "it follows the channels that it reads",
                "kept": None if plan is None else int((~torch.isin(wiring.filters(layer.weight)[1], removed)).sum()),
            }
        )
        index += indexed
    return rows


def _unfollowed(model: nn.Module, wiring: Wiring) -> list[dict[str, Any]]:
    """Layers that ran, but whose channels could not be followed: they count, and stay as they are."""
    return [
        {
            "name": name,
            "type": type(model.get_submodule(name)).__name__,
            "stage": name.partition(".")[0],
            "params": sum(parameter.numel() for parameter in model.get_submodule(name).parameters()),
            "macs": macs,
            "prunable": False,
            "reason": "frozen: its weight or its input cannot be followed",
            **dict.fromkeys(("index", "out_channels", "group", "kept")),
        }
        for name, macs in wiring.trace.unfollowed.items()
    ]


def _uncalled(model: nn.Module, wiring: Wiring) -> list[str]:
    """Modules with parameters of their own that never ran; they are left alone."""
    return [
        name
        for name, module in model.named_modules()
        if name not in wiring.trace.called and next(module.parameters(recurse=False), None) is not None
    ]
