"""Resolve ratios against a network's wiring: how many units each group keeps."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from decimal import Decimal

from torch import nn

from greg_compress.errors import RequestError
from greg_compress.selection.plan import Plan, Share
from greg_compress.selection.ratios import Ratios, units_to_remove
from greg_compress.wiring.groups import Group, Wiring
from greg_compress.wiring.record import Layer


def resolve(ratios: Ratios, skip: Sequence[str], wiring: Wiring, model: nn.Module) -> Plan:
    """Return the plan (counts only) that `ratios` mean for this network.

    Args:
        skip: names of modules, `*` crossing dots, each standing for all below it; they win over ratios.

    Raises:
        RequestError: a stage list of the wrong length, a stage that cannot lose anything, a skip that
            matches nothing.
    """
    stages = conv_stages(wiring, model)
    if ratios.uniform is not None:
        wanted = _uniform(ratios.uniform, wiring, model)
    else:
        wanted = _per_stage(ratios, stages, wiring)
    skipped = _skipped(skip, wiring)
    shares = {}
    for group in wiring.groups:
        ratio = wanted.get(group.name, Decimal(0))
        if group.reason or group.name in skipped:
            continue
        if (count := units_to_remove(ratio, group.channels)) > 0:
            shares[group.name] = Share(group.channels, group.channels - count)
    return Plan(shares)


def is_convolution(layer: Layer, model: nn.Module) -> bool:
    """Whether a layer is a convolution (its weight has spatial dimensions) rather than linear."""
    return model.get_parameter(layer.weight).dim() > 2


def stage_of(layer: Layer) -> str:
    """The top-level child that holds the layer."""
    return layer.module.partition(".")[0]


def conv_stages(wiring: Wiring, model: nn.Module) -> list[str]:
    """The top-level children that hold convolutions, in order of execution."""
    return list(dict.fromkeys(stage_of(layer) for layer in wiring.layers if is_convolution(layer, model)))


def _uniform(ratio: Decimal, wiring: Wiring, model: nn.Module) -> dict[str, Decimal]:
    """One ratio for every group, except that of the first convolution (the paper, section 4.1)."""
    first = next((layer for layer in wiring.layers if is_convolution(layer, model)), None)
    return {group.name: ratio for group in wiring.groups if first is None or first.weight not in group.sources}


def _per_stage(ratios: Ratios, stages: list[str], wiring: Wiring) -> dict[str, Decimal]:
    if len(ratios.stages) != len(stages):
        raise RequestError(
            f"--ratios {ratios.text} has {len(ratios.stages)} numbers, but the network has {len(stages)} stages"
            f" with convolutions: {', '.join(stages)}"
        )
    wanted: dict[str, Decimal] = {}
    for stage, ratio in zip(stages, ratios.stages, strict=True):
        groups = [group for group in wiring.groups if group.name.partition(".")[0].partition("#")[0] == stage]
        if ratio and all(group.reason for group in groups):
            reason = groups[0].reason if groups else "it makes no units"
            raise RequestError(f"--ratios {ratios.text}: nothing in stage {stage} can be pruned ({reason})")
        wanted.update({group.name: ratio for group in groups})
    return wanted


def _skipped(skip: Sequence[str], wiring: Wiring) -> set[str]:
    """Names of the groups that a pattern spares: any of whose sources lies at or below a match."""
    names = {layer.weight: layer.module for layer in wiring.layers}
    spared: set[str] = set()
    for pattern in skip:
        matches = re.compile(re.escape(pattern).replace(r"\*", ".*") + r"(\..*)?").fullmatch
        hit = {weight for weight, module in names.items() if matches(module)}
        if not hit:
            known = sorted(set(names.values()) | {stage_of(layer) for layer in wiring.layers})
            near = difflib.get_close_matches(pattern, known, n=2, cutoff=0.4)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise RequestError(f"--skip {pattern} matches no layer{hint}")
        spared |= {group.name for group in wiring.groups if _touches(group, hit)}
    return spared


def _touches(group: Group, weights: set[str]) -> bool:
    return any(source in weights for source in group.sources)
