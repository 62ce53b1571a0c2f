"""timm's networks (Wightman, 2019), by name, always without weights: timm would fetch them. They come from a file."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from greg_compress.errors import RequestError, unknown
from greg_compress.sources.normalization import Preprocessing
from greg_compress.sources.specs import Architecture

COLOURS = 3
Shapes = tuple[tuple[int, ...], ...]


def factory(architecture: Architecture) -> Any:
    """The function that makes the network.

    Raises:
        RequestError: timm is not installed, or knows no such network.
    """
    timm, name = _timm(), architecture.name
    # Not timm's own look-up: it takes hf-hub:, local-dir: and tags, and would read what they name.
    if name not in (known := timm.list_models()):
        raise unknown(f"timm has no model {name!r}", name, known)

    def made(**arguments: Any) -> Any:
        return timm.create_model(name, **arguments | {"pretrained": False})

    return made


def _timm() -> ModuleType:
    """timm, which takes a second to import, and which greg can do without."""
    try:
        import timm
    except ImportError as error:
        raise RequestError("timm is not installed; pip install 'greg-compress[timm]'") from error
    return timm


def default_input_shapes(architecture: Architecture, model: nn.Module) -> Shapes | None:
    """What timm's configuration of the network says, with the channels and the side that the arguments say."""
    size = getattr(model, "pretrained_cfg", {}).get("input_size")
    if size is None:
        return None
    channels, side = (architecture.kwargs.get(name) for name in ("in_chans", "img_size"))
    given = (channels, side, side)
    return (tuple(said if type(said) is int else usual for said, usual in zip(given, size, strict=True)),)


def preprocessing(model: nn.Module) -> Preprocessing | None:
    """What timm's own weights of the network were trained with; None if they would not fit it (other classes or
    channels), so that whatever weights it has are someone else's."""
    cfg = getattr(model, "pretrained_cfg", {})
    classes, mean, std = (cfg.get(key) for key in ("num_classes", "mean", "std"))
    made = getattr(model, "num_classes", None), getattr(model, "in_chans", COLOURS)
    if not (classes and mean and std) or made != (classes, COLOURS):
        return None
    return Preprocessing(list(mean), list(std), None, classes)
