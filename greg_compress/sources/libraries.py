"""The libraries of networks, and parts of their networks: `torchvision:NAME[@WEIGHTS][/PART]`, `timm:NAME[/PART]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from greg_compress.errors import unknown
from greg_compress.sources import timm_models, torchvision_models
from greg_compress.sources.normalization import Preprocessing
from greg_compress.sources.specs import TIMM, Architecture

Factory = Callable[..., Any]
Shapes = tuple[tuple[int, ...], ...]


def factory(architecture: Architecture) -> Factory:
    """The function that makes the network without weights.

    Raises:
        RequestError: the library is not installed, or knows no such network; when called, no such part.
    """
    make = (timm_models if architecture.source == TIMM else torchvision_models).factory(architecture)
    return _taking_part(make, architecture)


def official(architecture: Architecture, download: bool) -> Factory | None:
    """The function that makes the network with its official weights; None if the spec names none.

    Raises:
        RequestError: as :func:`factory`.
        InputError: when called, as :func:`torchvision_models.official`.
    """
    make = torchvision_models.official(architecture, download) if architecture.has_weights else None
    return None if make is None else _taking_part(make, architecture)


def _taking_part(make: Factory, architecture: Architecture) -> Factory:
    """A function that makes the whole network and returns the submodule that the spec names."""
    if not architecture.part:
        return make

    def made(**arguments: Any) -> nn.Module:
        whole, part = make(**arguments), architecture.part
        submodules = dict(whole.named_modules())
        if part not in submodules:
            what = f"{architecture.source}:{architecture.name} has no part {part!r}"
            raise unknown(what, part, [name for name in submodules if name])
        found: nn.Module = submodules[part]
        return found

    return made


def default_input_shapes(architecture: Architecture, model: nn.Module) -> Shapes | None:
    """The shapes that a library's network takes if nobody says otherwise; None for a part that may stand anywhere."""
    if architecture.source == TIMM:
        return None if architecture.part else timm_models.default_input_shapes(architecture, model)
    # A backbone is what sees the image.
    return None if architecture.part not in ("", "backbone") else torchvision_models.default_input_shapes(architecture)


def preprocessing(architecture: Architecture, model: nn.Module, own_weights: bool) -> Preprocessing | None:
    """What a network's weights were trained with; None if its library does not know, or it is a part, whose outputs
    are no classes.

    Args:
        own_weights: whether they come from a file of the user's.
    """
    if architecture.part:
        return None
    if architecture.source == TIMM:
        return timm_models.preprocessing(model) if own_weights else None
    return torchvision_models.preprocessing(architecture) if architecture.has_weights else None
