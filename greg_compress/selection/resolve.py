"""Resolve ratios against a network's wiring: what share each group is asked to lose.

Every notation comes down to entries: some layers, and a ratio for the groups that these layers make. The last
entry that matches a group wins; `--skip` wins over all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd

from greg_compress.errors import RequestError, unknown
from greg_compress.selection.ratios import IndexRange, Ratios
from greg_compress.wiring.groups import Group, Wiring
from greg_compress.wiring.record import Layer, Unfollowed

FOLLOWS = "it follows the channels that it reads"
"""Why a depthwise convolution has no ratio of its own."""
UNFOLLOWED = "frozen: its weight or its input cannot be followed"
COMPUTED = "its weight is no parameter of a layer of torch's own"


@dataclass(frozen=True)
class Entry:
    """What one part of RATIOS asks for."""

    text: str
    layers: list[Layer | Unfollowed]
    ratio: Decimal


def asked_ratios(ratios: Ratios, skip: Sequence[str], wiring: Wiring, *, coupled: bool = False) -> dict[str, Decimal]:
    """Return the ratio of each group that `ratios` ask to lose something, in order of execution.

    Args:
        skip: names of modules, `*` crossing dots, each standing for all below it; they win over ratios.
        coupled: whether groups that additions tie together may be asked too, by the name of any layer of theirs.

    Raises:
        RequestError: a stage list of the wrong length; an entry or a skip that matches nothing; an entry of which
            every match is frozen or coupled.
    """
    if ratios.uniform is not None:
        wanted = _uniform(ratios.uniform, wiring)
    else:
        wanted = _by_entries(list(_entries(ratios, wiring)), wiring, coupled)
    spared = {name for pattern in skip for name in _spared(pattern, wiring)}
    free = [group for group in wiring.groups if not group.left_alone(coupled) and group.name not in spared]
    return {group.name: wanted[group.name] for group in free if wanted.get(group.name)}


def asked_weights(ratios: Ratios, skip: Sequence[str], wiring: Wiring, model: nn.Module) -> dict[str, Decimal]:
    """Return the ratio of each weight tensor whose single weights `ratios` ask to go, by its name.

    One number is that of every layer but the first convolution; reasons why channels stay play no part.

    Raises:
        RequestError: as :func:`asked_ratios`; an entry of layers alone whose weights are computed.
    """
    layers = {layer.name: _parameter(layer, model) for layer in wiring.ran}
    if ratios.uniform is not None:
        first = next((layer.name for layer in wiring.ran if layer.convolves), None)
        wanted = {weight: ratios.uniform for name, weight in layers.items() if name != first}
    else:
        wanted = {}
        for entry in _entries(ratios, wiring):
            weights = [layers[layer.name] for layer in entry.layers]
            if entry.ratio and not any(weights):
                raise RequestError(f"--ratios: nothing in {entry.text} can be pruned ({COMPUTED})")
            wanted.update(dict.fromkeys(weights, entry.ratio))
    for pattern in skip:
        wanted.update({layers[layer.name]: Decimal(0) for layer in _named(pattern, f"--skip {pattern}", wiring)})
    return {weight: ratio for weight in layers.values() if weight and (ratio := wanted.get(weight))}


def _parameter(layer: Layer | Unfollowed, model: nn.Module) -> str:
    """The name of a layer's weight; empty where it is computed, or may be."""
    if layer.weight:
        return layer.weight
    module = dict(model.named_modules()).get(layer.name)
    # What it reads is unknown, but a layer of torch's own applies its weight as it stands.
    known = module is not None and type(module).__module__.startswith("torch.nn.modules.")
    held = known and isinstance(module, (_ConvNd, nn.Linear)) and module._parameters.get("weight") is not None
    return f"{layer.name}.weight" if held else ""


def stage_of(layer: Layer | Unfollowed) -> str:
    """The top-level child that holds the layer."""
    return layer.name.partition(".")[0]


def conv_stages(wiring: Wiring) -> list[str]:
    """The top-level children that hold convolutions, in order of execution."""
    return list(dict.fromkeys(stage_of(layer) for layer in wiring.ran if layer.convolves))


def indexed_layers(wiring: Wiring) -> list[Layer | Unfollowed]:
    """The layers that RATIOS can name by index: all in order of execution but shortcuts and linear output layers."""
    return [layer for layer in wiring.ran if not layer.shortcut and (layer.convolves or not wiring.leaves(layer))]


def _uniform(ratio: Decimal, wiring: Wiring) -> dict[str, Decimal]:
    """One ratio for every group, except that of the first convolution (the paper, section 4.1).

    Coupled groups are asked for whole: in many a ResNet the first convolution begins the only stream there is.
    """
    first = next((layer.weight for layer in wiring.ran if layer.convolves), None)
    return {group.name: ratio for group in wiring.groups if group.coupled or first not in group.sources}


def _entries(ratios: Ratios, wiring: Wiring) -> Iterator[Entry]:
    """What a stage list, index ranges or names ask for, in order."""
    if ratios.stages:
        stages = conv_stages(wiring)
        if len(ratios.stages) != len(stages):
            raise RequestError(
                f"--ratios {ratios.text} has {len(ratios.stages)} numbers, but the network has {len(stages)}"
                f" stage{'s' * (len(stages) != 1)} with convolutions: {', '.join(stages)}"
            )
        for stage, ratio in zip(stages, ratios.stages, strict=True):
            yield Entry(f"stage {stage}", [layer for layer in wiring.ran if stage_of(layer) == stage], ratio)
    for where, ratio in ratios.entries:
        asked = f"--ratios: {where}"
        layers = _ranged(where, asked, wiring) if isinstance(where, IndexRange) else _named(where, asked, wiring)
        yield Entry(f"{'index ' * isinstance(where, IndexRange)}{where}", layers, ratio)


def _by_entries(entries: Sequence[Entry], wiring: Wiring, coupled: bool) -> dict[str, Decimal]:
    wanted = {}
    for entry in entries:
        weights = {layer.weight for layer in entry.layers}
        groups = [group for group in wiring.groups if not weights.isdisjoint(group.sources)]
        if entry.ratio and all(group.left_alone(coupled) for group in groups):
            raise RequestError(f"--ratios: nothing in {entry.text} can be pruned ({_why_not(entry, groups, wiring)})")
        wanted.update({group.name: entry.ratio for group in groups})
    return wanted


def _why_not(entry: Entry, groups: Sequence[Group], wiring: Wiring) -> str:
    if groups:
        return f"{groups[0].name} is {groups[0].reason}"
    if any(isinstance(layer, Unfollowed) for layer in entry.layers):
        return UNFOLLOWED
    leader = next((group.name for layer in entry.layers if (group := _leader(layer, wiring))), None)
    return FOLLOWS + (f"; name {leader} instead" if leader else "")


def _leader(layer: Layer | Unfollowed, wiring: Wiring) -> Group | None:
    """The group whose units a depthwise convolution follows."""
    if isinstance(layer, Unfollowed):
        return None
    unit = wiring.roots[layer.channels[0]]
    return next((group for group in wiring.groups if bool((group.units == unit).any())), None)


def _spared(pattern: str, wiring: Wiring) -> set[str]:
    """Names of the groups that a skipped layer makes or follows."""
    layers = _named(pattern, f"--skip {pattern}", wiring)
    weights = {layer.weight for layer in layers}
    made = {group.name for group in wiring.groups if not weights.isdisjoint(group.sources)}
    return made | {group.name for layer in layers if layer.follows and (group := _leader(layer, wiring))}


def _ranged(where: IndexRange, asked: str, wiring: Wiring) -> list[Layer | Unfollowed]:
    layers = indexed_layers(wiring)
    if where.last >= len(layers):
        raise RequestError(f"{asked} goes beyond the last layer, which has index {len(layers) - 1}; see greg analyze")
    return layers[where.first : where.last + 1]


def _named(pattern: str, asked: str, wiring: Wiring) -> list[Layer | Unfollowed]:
    """The layers at or below the modules that a pattern matches."""
    pattern = pattern.replace("[", "[[]").replace("?", "[?]")  # of a shell's signs only * is one here
    paths = {layer.name: _path(layer.name) for layer in wiring.ran}
    found = [layer for layer in wiring.ran if any(fnmatchcase(name, pattern) for name in paths[layer.name])]
    if not found:
        known = dict.fromkeys(name for path in paths.values() for name in path)
        idle = any(fnmatchcase(name, pattern) for tensor in wiring.classes for name in _path(tensor))
        what = "matches no convolution or linear layer that runs" if idle else "matches no layer"
        raise unknown(f"{asked} {what}", pattern, known)
    return found


def _path(name: str) -> list[str]:
    """A layer's name and those of all modules around it, from the inside."""
    return [name.rsplit(".", cut)[0] for cut in range(name.count(".") + 1)]
