"""From a MODEL argument or a state to a network, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from greg_compress.errors import InputError, RequestError, input_fault
from greg_compress.sources import models
from greg_compress.sources.specs import Architecture, is_architecture, parse_architecture
from greg_compress.state import files
from greg_compress.state.format import State
from greg_compress.surgery.cut import Form, reshape


@dataclass
class Opened:
    """A network with the state that it came from."""

    model: nn.Module
    state: State
    digest: str | None
    """SHA-256 of the state file; None for a network fresh from its factory."""

    @property
    def untrained(self) -> bool:
        return not self.state.history


def open_model(
    text: str, named: Architecture | None = None, input_shapes: tuple[tuple[int, ...], ...] | None = None
) -> Opened:
    """Open a MODEL: a state file, or an architecture spec (freshly initialised).

    Args:
        named: `--arch` of this command, which may run its FILE.py.
        input_shapes: every `--input-shape` of this command.

    Raises:
        InputError: the file cannot be used.
        RequestError: the input shape is not known, or contradicts the state's.
    """
    if is_architecture(text):
        kwargs = {} if named is None else named.kwargs
        return fresh(Architecture(parse_architecture(text).spec, kwargs), input_shapes)
    state, digest = files.load(Path(text))
    if state.run is not None:
        raise InputError(f"{text} is unfinished work; repeat the command that began it with --resume")
    if input_shapes not in (None, state.input_shapes):
        made_for = " and ".join(map(_shape, state.input_shapes))
        raise RequestError(f"--input-shape contradicts {text}, which was made for {made_for}")
    with input_fault(f"{text} is damaged"):
        return Opened(network(state, named, text), state, digest)


def fresh(architecture: Architecture, input_shapes: tuple[tuple[int, ...], ...] | None) -> Opened:
    """A freshly initialised network and its (dense) state."""
    model, recorded = models.build(architecture)
    shapes = input_shapes or models.default_input_shapes(recorded, model)
    if shapes is None:
        raise RequestError(f"{architecture.spec} does not say what input it takes; add --input-shape C,H,W")
    with input_fault(f"{architecture.spec} makes a network that cannot be saved"):
        return Opened(model.eval(), State("dense", recorded, shapes, weights_of(model)), None)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The network's state dict on the CPU: contiguous, and each tensor with no more storage than it needs."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in weights.items()
    }


def network(state: State, named: Architecture | None, path: str) -> nn.Module:
    """Rebuild a state's network, in eval mode: factory, recorded shapes, memory format, weights.

    Raises:
        InputError: a tensor is missing, surplus or misshapen, or a recorded shape fits nothing.
    """
    model = models.rebuild(state.architecture, named)
    try:
        reshape(model, Form(state.shapes, state.groups))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} does not fit {state.architecture.spec}: {error}") from error
    memory_format = getattr(torch, state.memory_format, None)
    if not isinstance(memory_format, torch.memory_format):
        raise InputError(f"{path} is damaged: unknown memory format {state.memory_format!r}")
    model.to(memory_format=memory_format)  # type: ignore[call-overload]
    expected = model.state_dict()
    for problem, names in (
        ("lacks", expected.keys() - state.weights.keys()),
        ("has a surplus", state.weights.keys() - expected.keys()),
    ):
        if names:
            raise InputError(f"{path} {problem} {sorted(names)[0]}: it does not fit {state.architecture.spec}")
    for name, tensor in state.weights.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise InputError(
                f"{path}: {name} is {_shape(tensor.shape)} {tensor.dtype}, but the network wants"
                f" {_shape(expected[name].shape)} {expected[name].dtype}"
            )
    model.load_state_dict(state.weights)
    return model.eval()


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
