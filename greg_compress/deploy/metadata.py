"""What an ONNX file says of itself beside its graph: `greg.*` in its metadata."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from greg_compress import __version__
from greg_compress.errors import InputError
from greg_compress.sources.normalization import Normalization
from greg_compress.wiring.skeleton import Shapes

OURS = "greg."
"""What our entries begin with."""
MEAN, STD, SCALE, PREPROCESSING, SHAPES = (
    OURS + name for name in ("mean", "std", "scale", "preprocessing", "input_shapes")
)
HISTORY = OURS + "history"
ENTRY = "greg.json"
"""Of a program's archive, below `extra/`: all of these, as a JSON object."""
NORMALIZES, NONE = "normalize", "none"
"""What `greg.preprocessing` says: the file takes pixels as they are, or as they come out of a normalisation."""


def entries(
    history: list[Any],
    kept: Mapping[str, int] | None,
    classes: int | None,
    input_shapes: Shapes,
    normalization: Mapping[str, Any] | None,
) -> dict[str, str]:
    """What a network's state says of it; what it does not know is left out.

    Args:
        kept: units of each group that were kept.
    """
    said: dict[str, Any] = {"ratios": kept or {}, "input_shapes": input_shapes, **(normalization or {})}
    if classes is not None:
        said["classes"] = classes
    texts = {OURS + name: json.dumps(value) for name, value in said.items()}
    return {OURS + "version": __version__, HISTORY: history_digest(history), PREPROCESSING: NONE, **texts}


def history_digest(history: list[Any]) -> str:
    """What tells the states and files of one history from all others."""
    return hashlib.sha256(json.dumps(history, sort_keys=True).encode()).hexdigest()


def stamp(path: Path, said: Mapping[str, str]) -> None:
    """Make this all that a file says beside its graph, in place.

    What the exporter notes at every node goes: paths of this machine, and a third of a small file.
    """
    model = onnx.load(str(path))
    for noted in (model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    onnx.helper.set_model_props(model, dict(said))
    onnx.save(model, str(path))


def carry(source: Path, target: Path) -> None:
    """Give one file's metadata to another."""
    said = onnx.load(str(source), load_external_data=False).metadata_props
    stamp(target, {held.key: held.value for held in said})


def normalizes_itself(entries: Mapping[str, str], path: Path) -> bool:
    """Whether a file takes pixels as they are in the data set.

    Raises:
        InputError: it says something that this greg does not know.
    """
    said = entries.get(PREPROCESSING, NONE)
    if said not in (NORMALIZES, NONE):
        raise InputError(
            f"{path} prepares images in a way that this greg does not know ({said[:40]!r}); install a newer one"
        )
    return said == NORMALIZES


def normalization_in(entries: Mapping[str, str], path: Path, channels: int, scale: float) -> Normalization | None:
    """How images are to be normalised for a file; None where it does not say.

    Args:
        scale: what a pixel of the data set is multiplied with, where the file has no word of its own.

    Raises:
        InputError: what it says is no mean and deviation for each channel.
    """
    if MEAN not in entries and STD not in entries:
        return None
    try:
        mean, std = (_numbers(json.loads(entries[key])) for key in (MEAN, STD))
        (scale,) = _numbers([json.loads(entries.get(SCALE, repr(scale)))])
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: its {MEAN}, {STD} or {SCALE} cannot be read") from error
    if not len(mean) == len(std) == channels or not all(value > 0 for value in (scale, *std)):
        raise InputError(f"{path} is damaged: {MEAN} and {STD} do not give one positive deviation for each channel")
    return Normalization(scale, mean, std)


def input_shapes_in(entries: Mapping[str, str]) -> list[tuple[int, ...]]:
    """The shapes of one sample of each input that a file was exported with; empty where it does not say."""
    try:
        return [tuple(map(int, _numbers(shape))) for shape in json.loads(entries.get(SHAPES, "[]"))]
    except (ValueError, TypeError, RecursionError):
        return []


def _numbers(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(
        type(value) in (int, float) and math.isfinite(value) for value in values
    ):
        raise ValueError("not all of them are numbers")
    return tuple(map(float, values))
