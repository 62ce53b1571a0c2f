"""torchvision's networks, by name, and their official weights where the machine has them."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from greg_compress.errors import InputError, RequestError, first_line, input_fault, unknown
from greg_compress.sources.normalization import Preprocessing
from greg_compress.sources.specs import Architecture
from greg_compress.tensor_files.reader import read

Factory = Callable[..., Any]
Shapes = tuple[tuple[int, ...], ...]
DETECTION_SIDE, DETECTION_SIDES = 320, {"ssd300_vgg16": 300}
"""Backbones of detectors take any size, usually 800 and more; what can be pruned does not depend on it."""
FRAMES = 16
"""Of a clip; torchvision's video networks were trained on 16 frames or more."""
FLOW_SIDE = 128
"""The smallest that RAFT takes."""


def factory(architecture: Architecture) -> Factory:
    """The function that makes the network, with whatever belongs to its official weights but without them.

    Raises:
        RequestError: torchvision knows no such network or weights.
    """
    builder, weights = _followable(architecture)
    if weights is None and _kind(builder) == "detection":
        # As the constructor makes it if told nothing: it starts from a trained backbone, and freezes its batch
        # normalisation. Published detectors differ from that (eps 0, ssdlite's reduced tail); @WEIGHTS says so.
        return _quiet(functools.partial(_in_form, builder, None))
    if weights is None:
        # Segmentation constructors fetch a backbone's weights unless told not to.
        without = {"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys()
        return _quiet(functools.partial(builder, **dict.fromkeys(without)))
    return _quiet(functools.partial(_in_form, builder, weights))


def official(architecture: Architecture, download: bool) -> Factory | None:
    """The function that makes the network with its official weights; None if the spec names none.

    Raises (when called):
        InputError: the file is not there, and may not be downloaded, or is not what torchvision published.
    """
    builder, weights = _followable(architecture)
    return None if weights is None else _quiet(functools.partial(_filled, builder, weights, download))


def preprocessing(architecture: Architecture) -> Preprocessing | None:
    """What the official weights that a spec names were trained with; None without weights."""
    _, weights = _found(architecture)
    return None if weights is None else _preprocessing(weights)


def _preprocessing(weights: Any) -> Preprocessing:
    transforms = weights.transforms()
    mean, std, crop, resized = (getattr(transforms, name, None) for name in ("mean", "std", "crop_size", "resize_size"))
    side = next((size[0] for size in (crop, resized) if size), None)  # for segmentation nothing is cropped
    categories = weights.meta.get("categories")
    return Preprocessing(mean, std, side, len(categories) if categories else None)


def default_input_shapes(architecture: Architecture) -> Shapes:
    """The shapes of what torchvision prepares for a network; for detectors, which take images of any size, what is
    quick."""
    builder, weights = _found(architecture)
    name, kind = builder.__name__, _kind(builder)
    if kind == "detection":
        return ((3, *(DETECTION_SIDES.get(name, DETECTION_SIDE),) * 2),)
    if kind == "optical_flow":
        return ((3, FLOW_SIDE, FLOW_SIDE),) * 2
    if weights is None and kind in ("segmentation", "video"):
        import torchvision

        weights = torchvision.models.get_model_weights(builder).DEFAULT
    side = (_preprocessing(weights).side if weights else None) or (299 if name == "inception_v3" else 224)
    return ((3, *([FRAMES] if kind == "video" else []), side, side),)


def _kind(builder: Factory) -> str:
    """The package that a network belongs to: detection, segmentation, video...; empty for image classification."""
    inside = builder.__module__.removeprefix("torchvision.models.").split(".")
    return inside[0] if len(inside) > 1 else ""


def _followable(architecture: Architecture) -> tuple[Factory, Any]:
    """Refuse what cannot be run on a batch of images, or has no weights in floating point."""
    builder, weights = _found(architecture)
    if _kind(builder) == "detection" and not architecture.part:
        raise RequestError(
            f"{architecture.spec} is a detector, which takes lists of images; prune its backbone, and put it back:"
            f" {architecture.spec}/backbone"
        )
    if architecture.kwargs.get("quantize"):
        raise RequestError("--arch-arg quantize: weights of 8 bits cannot be pruned; leave it out, quantize afterwards")
    return builder, weights


def _found(architecture: Architecture) -> tuple[Factory, Any]:
    import torchvision  # takes a second, which networks of other sources need not wait for

    name, at, version = architecture.name.partition("@")
    try:
        builder = torchvision.models.get_model_builder(name)
    except ValueError as error:
        raise unknown(f"torchvision has no model {name!r}", name, torchvision.models.list_models()) from error
    if not at:
        return builder, None
    offered = torchvision.models.get_model_weights(builder)
    if version not in offered.__members__:
        raise unknown(f"torchvision has no weights {version!r} for {name}", version, list(offered.__members__))
    return builder, offered[version]


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
