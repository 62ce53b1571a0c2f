"""From a MODEL argument or a state to a network, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from greg_compress.errors import CheckFailed, InputError, RequestError, input_fault
from greg_compress.options.network import ModelOptions
from greg_compress.reporting import Reporter
from greg_compress.sources import models, user_files
from greg_compress.sources.libraries import preprocessing
from greg_compress.sources.specs import LIBRARIES, PICKLE, Architecture, is_architecture, parse_architecture
from greg_compress.state import files, history
from greg_compress.state.format import State
from greg_compress.state.masks import require_masks
from greg_compress.surgery.cut import Form, reshape
from greg_compress.tensor_files.plain_pickle import Inert
from greg_compress.tensor_files.reader import read
from greg_compress.tensor_files.state_dicts import WRAPPERS, unwrapped
from greg_compress.whole_files import require_file
from greg_compress.wiring.skeleton import named_tensors

Shape = tuple[int, ...]


@dataclass
class Opened:
    """A network with the state that it came from."""

    model: nn.Module
    state: State
    digest: str | None
    """SHA-256 of the file; None for a network fresh from its factory."""

    @property
    def untrained(self) -> bool:
        return not self.state.history


def open_model(options: ModelOptions, ui: Reporter | None = None, likely: Shape | None = None) -> Opened:
    """Open a MODEL: a state file, a weights file with `--arch`, a pickled network, or an architecture spec.

    Args:
        likely: the input shape where nothing else says one: the data's.

    Raises:
        InputError: the file cannot be used.
        RequestError: the input shape is not known, or contradicts the state's.
    """
    ui = ui or Reporter()
    opened = _opened(options, ui, likely)
    if opened.untrained:
        ui.warn(f"{options.model} has no trained weights")
    return opened


def open_beside(text: str, model: ModelOptions, first: State | None = None) -> Opened:
    """Open a second network of a command (a baseline, a teacher), which may need what is known of MODEL.

    Args:
        model: what the command says of it.
        first: what it was opened as, where the second takes the same input: weights may be of the same network.
    """
    shapes = None if first is None else first.input_shapes
    if is_architecture(text):
        return open_model(ModelOptions(text, parse_architecture(text), shapes, download=model.download))
    try:
        return open_model(ModelOptions(text))
    except InputError:
        arch = model.arch if first is None else _without_weights(first.architecture, model.arch)
        if is_architecture(model.model) or not (arch or model.allow_pickle):
            raise
        if files.is_state(read(Path(text))[0]):  # which records all but where its FILE.py is
            arch, shapes = model.arch and replace(model.arch, kwargs={}), None
        return open_model(replace(model, model=text, arch=arch, input_shapes=shapes))


def _without_weights(own: Architecture, named: Architecture | None) -> Architecture | None:
    """What a state says of its network, as `--arch` of a weights file; a FILE.py must have been named."""
    if own.source not in LIBRARIES:
        return None if named is None else replace(named, kwargs={**own.kwargs, **named.kwargs})
    return Architecture(re.sub("@[^/]*", "", own.spec), own.kwargs)


def _opened(options: ModelOptions, ui: Reporter, likely: Shape | None) -> Opened:
    if is_architecture(options.model):
        assert options.arch is not None
        return fresh(options.arch, options, likely)
    path = Path(options.model)
    require_file(path)
    data, digest = read(path)
    if files.is_state(data):
        return _from_state(files.state_of(data, path), digest, options)
    if options.allow_pickle:
        return _from_pickle(path, data, digest, options, ui, likely)
    if (kind := pickled(data)) is not None:
        raise InputError(
            f"{path} holds a pickled {kind}; nothing in it was run. Opening it runs code: add --allow-pickle if you"
            " trust it, or save its state_dict() and name the network with --arch"
        )
    if options.arch is None:
        raise InputError(f"{path} is not a greg state file; if it holds weights, name their network with --arch SPEC")
    return _from_weights(data, digest, options, ui, likely)


def _from_state(state: State, digest: str, options: ModelOptions) -> Opened:
    text = options.model
    if state.run is not None:
        raise InputError(f"{text} is unfinished work; repeat the command that began it with --resume")
    own = state.architecture
    if options.arch is not None and {own.source, options.arch.source} & {*LIBRARIES, PICKLE}:
        raise RequestError(f"--arch would have no effect: {text} holds {own.spec}")
    if options.arch is not None and options.arch.kwargs:
        raise RequestError(f"--arch-arg would have no effect: {text} records its own")
    if options.allow_pickle and own.source != PICKLE:
        raise RequestError(f"--allow-pickle would have no effect: {text} needs none")
    if options.input_shapes not in (None, state.input_shapes):
        made_for = " and ".join(map(_shape, state.input_shapes))
        raise RequestError(f"--input-shape contradicts {text}, which was made for {made_for}")
    with input_fault(f"{text} is damaged"):
        return Opened(network(state, options, text), state, digest)


def _from_weights(data: Any, digest: str, options: ModelOptions, ui: Reporter, likely: Shape | None) -> Opened:
    """Put the weights of a file into the network that `--arch` names."""
    assert options.arch is not None
    opened = _dense(*models.build(options.arch, own_weights=True), options, likely)
    try:
        weights, said = unwrapped(data, opened.state.weights.keys(), options.arch.part)
    except InputError as error:
        raise InputError(f"{options.model}: {error}") from error
    if said:
        ui.note(f"{options.model}: took {', '.join(said)}")
    load_weights(opened.model, weights, options.model, options.arch.spec)
    opened.state.weights = weights_of(opened.model)
    if _learn_preprocessing(opened, own_weights=True):
        ui.note(f"{options.model}: images are normalised as for {options.arch.source}'s own weights of that network")
    opened.state.history = [history.entry("open", {"arch": options.arch.spec}, {}, model=options.model, digest=digest)]
    opened.digest = digest
    return opened


def pickled(data: Any) -> str | None:
    """The class of a whole network in a file, alone or under one of the usual keys; None beside plain weights."""
    if not isinstance(data, dict):
        return data.kind if isinstance(data, Inert) else None
    held = [data.get(key) for key in WRAPPERS]
    plain = any(isinstance(value, dict) for value in held) or any(isinstance(value, Tensor) for value in data.values())
    return None if plain else next((value.kind for value in held if isinstance(value, Inert)), None)


def _from_pickle(
    path: Path, data: Any, digest: str, options: ModelOptions, ui: Reporter, likely: Shape | None
) -> Opened:
    """Unpickle a whole network, as the user wishes."""
    if pickled(data) is None:
        raise RequestError(f"--allow-pickle would have no effect: {path} is read without running anything")
    if options.arch is not None:
        raise RequestError(f"--arch would have no effect: {path} is a whole network")
    ui.warn(f"{path} is a pickle: opening it runs whatever code it holds")
    model = models.unpickled(user_files.contents(path), str(path))
    opened = _dense(model, Architecture(f"{PICKLE}:{path}", sha256=digest), options, likely)
    opened.state.history = [history.entry("open", {}, {}, model=str(path), digest=digest)]
    opened.digest = digest
    return opened


def _require_real(model: nn.Module, spec: str) -> None:
    for name, tensor in named_tensors(model):
        small = tensor.is_floating_point() and tensor.itemsize == 1
        if small or tensor.is_complex() or tensor.is_quantized:
            raise InputError(f"{spec}: {name} is of {tensor.dtype}; prune the network of real numbers, then convert it")


def fresh(architecture: Architecture, options: ModelOptions, likely: Shape | None = None) -> Opened:
    """A network as its factory makes it, and its (dense) state."""
    model, recorded = models.build(architecture, options.download)
    opened = _dense(model, recorded, options, likely)
    if recorded.has_weights:
        _learn_preprocessing(opened, own_weights=False)
        opened.state.history = [history.entry("open", {"arch": recorded.spec}, {}, model=recorded.spec)]
    return opened


def _learn_preprocessing(opened: Opened, own_weights: bool) -> bool:
    """Put into the state what the network's library says of its weights; whether it says how images are normalised."""
    trained = preprocessing(opened.state.architecture, opened.model, own_weights)
    normalization = trained.normalization() if trained else None
    if trained is not None:
        opened.state.classes = trained.classes
    if normalization is not None:
        opened.state.normalization = normalization.to_json()
    return normalization is not None


def _dense(model: nn.Module, recorded: Architecture, options: ModelOptions, likely: Shape | None) -> Opened:
    known = models.default_input_shapes(recorded, model)
    shapes = options.input_shapes or known or (None if likely is None else (likely,))
    if shapes is None:
        raise RequestError(f"{options.model} does not say what input it takes; add --input-shape C,H,W")
    _require_real(model, recorded.spec)
    with input_fault(f"{recorded.spec} makes a network that cannot be saved"):
        model.eval()
        return Opened(model, State("dense", recorded, shapes, weights_of(model)), None)


def weights_of(model: nn.Module, copies: bool = False) -> dict[str, Tensor]:
    """The network's state dict on the CPU: contiguous, and each tensor with no more storage than it needs.

    Args:
        copies: whether no tensor may share the network's memory.
    """

    def plain(tensor: Tensor) -> Tensor:
        found = tensor.detach().cpu().contiguous()
        shared = copies and found.data_ptr() == tensor.data_ptr()
        return found.clone() if shared or found.untyped_storage().nbytes() != found.nbytes else found

    return {name: plain(tensor) for name, tensor in model.state_dict().items()}


def network(state: State, options: ModelOptions, path: str) -> nn.Module:
    """Rebuild a state's network, in eval mode: factory, recorded shapes, memory format, weights.

    Raises:
        InputError: a tensor is missing, surplus or misshapen, or a recorded shape fits nothing.
    """
    named = options.arch if not is_architecture(options.model) else None
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in state.weights.values()}
    nbytes = sum(storage.nbytes() for storage in storages.values())
    model = models.rebuild(state.architecture, named, options.allow_pickle, nbytes)
    try:
        reshape(model, Form(state.shapes, state.groups))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} does not fit {state.architecture.spec}: {error}") from error
    memory_format = getattr(torch, state.memory_format, None)
    if not isinstance(memory_format, torch.memory_format):
        raise InputError(f"{path} is damaged: unknown memory format {state.memory_format!r}")
    model.to(memory_format=memory_format)  # type: ignore[call-overload]
    load_weights(model, state.weights, path, state.architecture.spec)
    require_masks(state, model, path)
    model.eval()
    return model


def require_rebuilt(model: nn.Module, state: State, options: ModelOptions, path: str) -> nn.Module:
    """Rebuild a state's network as every later command will, before anything is written.

    Raises:
        CheckFailed: what comes out is another network than `model`.
    """
    found = network(state, options, path)
    rebuilt = dict(named_tensors(found))
    for name, tensor in named_tensors(model):
        if not torch.equal(rebuilt[name], tensor.detach().cpu()):
            raise CheckFailed(
                f"the network cannot be rebuilt from {path}: {name} is another; nothing was written, please report it"
            )
    return found


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: str, spec: str) -> None:
    """Load weights strictly.

    Raises:
        InputError: a tensor is missing, surplus, misshapen or of another type; it is named.
    """
    expected = model.state_dict()
    for problem, names in (
        ("lacks", expected.keys() - weights.keys()),
        ("has a surplus", weights.keys() - expected.keys()),
    ):
        if names:
            raise InputError(f"{path} {problem} {min(names)}: it does not fit {spec}")
    for name, wanted in expected.items():
        given = weights[name]
        if given.shape != wanted.shape or given.dtype != wanted.dtype:
            raise InputError(
                f"{path}: {name} is {_shape(given.shape)} {given.dtype}, but the network wants"
                f" {_shape(wanted.shape)} {wanted.dtype}"
            )
    model.load_state_dict(weights)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
