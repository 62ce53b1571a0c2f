"""Find a network's weights in what training scripts wrap around them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import count
from typing import Any

from torch import Tensor

from greg_compress.errors import InputError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module", "ema",
            "model_ema", "state_dict_ema")  # fmt: skip
"""Keys under which checkpoints hold weights, in order of preference: an average beside the weights comes last."""
MOST_WRAPPERS = 5
"""A hostile file holds itself."""


def unwrapped(data: Any, wanted: Collection[str], part: str = "") -> tuple[dict[str, Tensor], list[str]]:
    """The weights, under the names that the network uses, and what was taken off to find them, in words.

    A prefix (`module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` of Lightning) goes where all names
    share it and the network's do not.

    Args:
        wanted: the names of the network's state dict.
        part: the submodule of a larger network that the network is; weights of the larger one will do.

    Raises:
        InputError: there are no weights in it.
    """
    said: list[str] = []
    for depth in count():
        if _is_state_dict(data):
            break
        key = next((key for key in WRAPPERS if isinstance(data, Mapping) and isinstance(data.get(key), Mapping)), None)
        if key is None or depth == MOST_WRAPPERS:
            held = ", ".join(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
            raise InputError(f"no weights are in it (it holds {held[:200] or 'nothing'})")
        said.append(f"the weights under {key!r}")
        data = data[key]
    weights: dict[str, Tensor] = dict(data)
    for _ in range(MOST_WRAPPERS):
        prefix = _shared_prefix(weights)
        if not prefix or _shared(wanted, prefix):
            break
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
        said.append(f"names without {prefix!r}")
    return _below(weights, wanted, part, said), said


def _below(weights: dict[str, Tensor], wanted: Collection[str], part: str, said: list[str]) -> dict[str, Tensor]:
    """The weights of a part where those of the whole network are given; else as they are. Says what it took and left.

    Counters of batches that the network has no place for are left as well: torchvision's frozen batch normalisation
    does the same.
    """
    prefix = f"{part}."
    if not part or wanted & weights.keys() or not any(name.startswith(prefix) for name in weights):
        return weights
    below = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    taken = {name: t for name, t in below.items() if name in wanted or not name.endswith(".num_batches_tracked")}
    beside = sorted({name.partition(".")[0] for name in weights if not name.startswith(prefix)})
    counters = ["num_batches_tracked"] if len(taken) < len(below) else []
    left = ", ".join([*beside, *counters])
    said.append(f"{len(taken)} tensors below {prefix!r}" + (f" and left {left}" if left else ""))
    return taken


def _is_state_dict(data: Any) -> bool:
    return (
        isinstance(data, Mapping)
        and bool(data)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in data.items())
    )


def _shared_prefix(names: Collection[str]) -> str:
    """The first component of all names with its dot, or nothing."""
    first = next(iter(names)).partition(".")
    return first[0] + "." if first[2] and _shared(names, first[0] + ".") else ""


def _shared(names: Collection[str], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)
