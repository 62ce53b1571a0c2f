"""What a state file holds (design section 6), and the checks that a dictionary is one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from greg_compress.errors import InputError
from greg_compress.sources.specs import Architecture

FORMAT = "greg-state"
VERSION = 3
MOST_INPUT, MOST_DEPTH = 2**24, 50
"""Elements of one sample (64 MiB in float32), and containers in one another."""
STAGES = ("dense", "regularized", "pruned", "finetuned")


@dataclass
class State:
    """One network between two commands."""

    stage: str
    architecture: Architecture
    input_shapes: tuple[tuple[int, ...], ...]
    """Of one sample of each input: ((C, H, W),) for a network that takes one image."""
    weights: dict[str, Tensor]
    shapes: dict[str, list[int]] = field(default_factory=dict)
    """The shape of every tensor that was cut; the rest is as the factory makes it."""
    groups: dict[str, int] = field(default_factory=dict)
    """The groups of every convolution that lost whole ones, by its module's name."""
    masks: dict[str, Tensor] = field(default_factory=dict)
    """By parameter, True where single weights go (regularized) or have gone: there they are exactly zero."""
    memory_format: str = "contiguous_format"
    """Name of a torch.memory_format; set before the weights load, so that outputs repeat bit for bit."""
    normalization: dict[str, Any] | None = None
    classes: int | None = None
    data: str | None = None
    plan: dict[str, Any] | None = None
    """The picks of a regularized network, or what was removed from a pruned one."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Every command that made it: options, versions, metrics, digest of its input, clock."""
    run: dict[str, Any] | None = None
    """Unfinished work (only in OUT.partial): everything that it needs to go on as if never stopped."""

    def to_dict(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["architecture"] = asdict(self.architecture)
        fields["input_shapes"] = [list(shape) for shape in self.input_shapes]
        return {"format": FORMAT, "version": VERSION, **fields}


_TYPES: dict[str, type | tuple[type, ...]] = {
    "stage": str,
    "architecture": dict,
    "input_shapes": list,
    "weights": dict,
    "shapes": dict,
    "groups": dict,
    "masks": dict,
    "memory_format": str,
    "normalization": (dict, type(None)),
    "classes": (int, type(None)),
    "data": (str, type(None)),
    "plan": (dict, type(None)),
    "history": list,
    "run": (dict, type(None)),
}


def is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.bool


def _is_json(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (dict, list)) and depth < MOST_DEPTH:
        keys = all(isinstance(key, str) for key in value) if isinstance(value, dict) else True
        return keys and all(
            _is_json(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value)
        )
    return isinstance(value, (str, int, float, bool, type(None)))


def from_dict(data: dict[Any, Any], path: str) -> State:
    """Check a dictionary that says it is a state (see `files.is_state`) and make it one.

    Raises:
        InputError: of a newer version, or with a field missing or of the wrong type.
    """
    if type(data.get("version")) is int and data["version"] == 1:
        # Of a time when networks had one input, and no cut took whole groups.
        data = {**data, "version": 2, "groups": {}, "input_shapes": [data.get("input_shape")]}
    if type(data.get("version")) is int and data["version"] == 2:
        data = {**data, "version": VERSION, "masks": {}}  # of a time when only channels went
    if type(data.get("version")) is not int or data["version"] != VERSION:
        raise InputError(
            f"{path} has format version {data.get('version')}, this greg reads {VERSION}; install a newer greg"
        )
    for name, kind in _TYPES.items():
        if not isinstance(data.get(name, ...), kind):
            raise InputError(f"{path} is damaged: its field {name!r} is missing or of the wrong type")
    if data["stage"] not in STAGES:
        raise InputError(f"{path} is damaged: unknown stage {data['stage']!r}")
    if not all(type(name) is str and isinstance(tensor, Tensor) for name, tensor in data["weights"].items()):
        raise InputError(f"{path} is damaged: its weights are not all tensors")
    if not all(type(name) is str and is_mask(mask) for name, mask in data["masks"].items()):
        raise InputError(f"{path} is damaged: its masks are not all tensors of yes and no")
    if not all(isinstance(entry, dict) for entry in data["history"]):
        raise InputError(f"{path} is damaged: its history is not a list of commands")
    if not all(_is_json(data[name]) for name in _TYPES if name not in ("weights", "masks", "run")):
        raise InputError(f"{path} is damaged: it holds tensors or depths where plain values belong")
    fields = {name: data[name] for name in _TYPES}
    try:
        fields["architecture"] = Architecture(**data["architecture"])
        fields["architecture"].check()
        fields["input_shapes"] = tuple(tuple(shape) for shape in data["input_shapes"])
        for sizes in fields["input_shapes"] or ((),):
            if not sizes or not all(type(size) is int and 0 < size < 2**20 for size in sizes):
                raise ValueError("impossible input shape")
            if math.prod(sizes[:8]) > MOST_INPUT:
                raise ValueError("impossible input shape")
        if data["classes"] is not None and not 0 < data["classes"] < 2**31:
            raise ValueError("impossible number of classes")
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return State(**fields)
