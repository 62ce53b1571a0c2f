"""Whether data fit a network: shape of the images, number of classes, normalisation."""

from __future__ import annotations

import math

from greg_compress.errors import RequestError, TraceError, input_fault
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.normalization import Normalization
from greg_compress.state.format import State
from greg_compress.state.models import Opened
from greg_compress.wiring.skeleton import Shapes, output_shapes, skeleton


def fitting(opened: Opened, data: Dataset) -> Dataset:
    """The data as the network takes them: photographs are cropped to its input, all others fit or do not.

    What the state does not know yet, it learns from the data: normalisation and number of classes.

    Raises:
        RequestError: images of another shape, or another number of classes.
    """
    state = opened.state
    data = data.at(state.input_shapes[0])
    _require_fit(opened, data)
    if state.normalization is None:
        state.normalization = data.normalization.to_json()
        state.classes = data.classes
    return data


def _require_fit(opened: Opened, data: Dataset) -> None:
    state = opened.state
    assert data.input_shape is not None
    made = state.normalization is not None
    if (data.input_shape,) != state.input_shapes:
        raise RequestError(
            f"{data.name} has images of {_by(data.input_shape)}, but the network takes"
            f" {' and '.join(map(_by, state.input_shapes))}; "
            + (f"it was made for {state.data or 'others'}" if made else "see --arch-arg and --input-shape")
        )
    try:
        shapes = output_shapes(skeleton(opened.model), state.input_shapes)
    except TraceError as error:
        if opened.digest is not None:
            raise
        # A network fresh from its factory was given the data's shape, and that is what it cannot take.
        channels = data.input_shape[0]
        raise RequestError(
            f"{data.name} does not fit the network: {error}, or --arch-arg (in_channels={channels}?)"
        ) from error
    for shape in shapes:
        if len(shape) == 2 and data.classes is not None and shape[1] != data.classes:
            raise RequestError(
                f"{data.name} has {data.classes} classes, but the network has {shape[1]} outputs;"
                + (f" it was made for {state.data or 'others'}" if made else " see --arch-arg")
            )


def takes(opened: Opened, shapes: Shapes) -> bool:
    """Whether a network runs on inputs of these shapes; one from a specification was built with any that was asked."""
    try:
        output_shapes(skeleton(opened.model), shapes)
    except TraceError:
        return False
    return opened.state.input_shapes == shapes


def normalization_of(state: State) -> Normalization:
    """How this network's inputs are normalised."""
    assert state.normalization is not None
    recorded = state.normalization
    with input_fault("the state's normalisation is damaged"):
        mean, std, scale = tuple(recorded["mean"]), tuple(recorded["std"]), recorded["scale"]
        if not len(mean) == len(std) == state.input_shapes[0][0]:
            raise ValueError("one mean and one deviation for each channel are wanted")
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in (*mean, *std, scale)):
            raise ValueError("not all of them are numbers")
        if not scale > 0 or not all(value > 0 for value in std):
            raise ValueError("scale and deviations must be positive")
        return Normalization(float(scale), tuple(map(float, mean)), tuple(map(float, std)))


def own_normalization(opened: Opened, name: str) -> Normalization:
    """How a file is to normalise its images by itself.

    Raises:
        RequestError: the network takes no single image, the state does not say, or there is nothing to do.
    """
    state, option = opened.state, "--with-preprocessing"
    if len(state.input_shapes) != 1:
        raise RequestError(f"{option}: {name} takes {len(state.input_shapes)} inputs, not one image")
    if state.normalization is None:
        raise RequestError(
            f"{option}: {name} does not say how its images are normalised; what greg train and finetune write does"
        )
    normalization = normalization_of(state)
    if normalization.idle:
        raise RequestError(f"{option} would have no effect: {state.data or name} has images that come normalised")
    return normalization


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
