"""torchvision's networks, by name, and their official weights where the machine has them."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from greg_compress.errors import InputError, RequestError, first_line, input_fault
from greg_compress.sources.specs import Architecture
from greg_compress.tensor_files.reader import read

Factory = Callable[..., Any]


def factory(architecture: Architecture) -> Factory:
    """The function that makes the network, with whatever belongs to its official weights but without them.

    Raises:
        RequestError: torchvision knows no such network or weights.
    """
    builder, weights = _found(architecture)
    if weights is None:
        # Segmentation and detection constructors fetch a backbone's weights unless told not to.
        without = {"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys()
        return _quiet(functools.partial(builder, **dict.fromkeys(without)))
    return _quiet(functools.partial(_in_form, builder, weights))


def official(architecture: Architecture, download: bool) -> Factory | None:
    """The function that makes the network with its official weights; None if the spec names none.

    Raises (when called):
        InputError: the file is not there, and may not be downloaded, or is not what torchvision published.
    """
    builder, weights = _found(architecture)
    return None if weights is None else _quiet(functools.partial(_filled, builder, weights, download))


@dataclass(frozen=True)
class Preprocessing:
    """What official weights were trained with, as far as torchvision says; its detectors do it inside."""

    mean: list[float] | None
    std: list[float] | None
    side: int | None
    """Of the square that images are cropped to."""
    classes: int | None


def preprocessing(architecture: Architecture) -> Preprocessing | None:
    """What the official weights that a spec names were trained with; None without weights."""
    _, weights = _found(architecture)
    if weights is None:
        return None
    transforms = weights.transforms()
    mean, std, crop = (getattr(transforms, name, None) for name in ("mean", "std", "crop_size"))
    categories = weights.meta.get("categories")
    return Preprocessing(mean, std, crop[0] if crop else None, len(categories) if categories else None)


def _found(architecture: Architecture) -> tuple[Factory, Any]:
    import torchvision  # takes a second, which networks of other sources need not wait for

    name, at, version = architecture.name.partition("@")
    try:
        builder = torchvision.models.get_model_builder(name)
    except ValueError as error:
        raise _unknown(f"torchvision has no model {name!r}", name, torchvision.models.list_models()) from error
    if not at:
        return builder, None
    offered = torchvision.models.get_model_weights(builder)
    if version not in offered.__members__:
        raise _unknown(f"torchvision has no weights {version!r} for {name}", version, list(offered.__members__))
    return builder, offered[version]


def _unknown(what: str, name: str, known: list[str]) -> RequestError:
    near = get_close_matches(name, known, 3, 0.5) or known[:3]
    return RequestError(f"{what}; nearest: {', '.join(near) or 'none'}")


def _in_form(builder: Factory, weights: Any, **arguments: Any) -> Any:
    """The form that the official weights need (auxiliary heads, input transform), with initial values."""
    with _fetching({}), mock.patch.object(nn.Module, "load_state_dict", return_value=None):
        return builder(weights=weights, progress=False, **arguments)


def _filled(builder: Factory, weights: Any, download: bool, **arguments: Any) -> Any:
    """torchvision reads weights with a full unpickler, which runs whatever the file says; ours does not."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if not path.exists() and download:
        _fetch(weights.url, path)
    if not path.exists():
        raise InputError(
            f"the weights {weights} are not on this machine: {path.name} is expected in {path.parent};"
            " put it there, or add --download"
        )
    content, _ = read(path)
    usual = (torch.float32, torch.int64)
    if not (isinstance(content, dict) and all(isinstance(t, Tensor) and t.dtype in usual for t in content.values())):
        raise InputError(f"{path} does not hold the weights {weights}; nothing in it was run")
    # torchvision renames and drops tensors, by names that need not be there
    with _fetching(content), input_fault(f"{path} does not hold the weights {weights}"):
        return builder(weights=weights, progress=False, **arguments)


def _fetching(content: dict[str, Any]) -> AbstractContextManager[object]:
    """Whatever torchvision would fetch is this."""
    from torchvision.models import _api

    return mock.patch.object(_api, "load_state_dict_from_url", return_value=content)


def _fetch(url: str, path: Path) -> None:
    """Fetch what torchvision publishes; its name holds the beginning of its SHA-256, which is checked."""
    prefix = torch.hub.HASH_REGEX.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), prefix.group(1) if prefix else None, progress=False)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path.name} could not be downloaded ({first_line(error)}); put it into {path.parent}"
        ) from error


def _quiet(make: Factory) -> Factory:
    def made(**arguments: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # googlenet and inception_v3 announce other initial weights
            return make(**arguments)

    return made
