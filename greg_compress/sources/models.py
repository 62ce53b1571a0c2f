"""Build a network from its architecture, and decide which FILE.py may run.

A callable runs only if the command names its file (`--arch`), or if a file of the recorded digest lies
below the current directory or in the installed `sample_models`; and only if it is defined in that very
file, not imported there (`os.py:system` is a callable too). See design section 6.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from greg_compress.errors import InputError, RequestError, input_fault
from greg_compress.sources.specs import Architecture


def build(architecture: Architecture) -> tuple[nn.Module, Architecture]:
    """Run the factory that this command names, and return the network and its record with the digest.

    Raises:
        RequestError: an unknown name, or arguments that the factory refuses.
        InputError: FILE.py is missing, broken, or does not define the callable.
    """
    if architecture.source == "torchvision":
        return _torchvision(architecture), architecture
    path = Path(architecture.source)
    named = replace(architecture, sha256=_digest(path))
    return _call(_callable(path, architecture.name), named), named


def rebuild(architecture: Architecture, named: Architecture | None = None) -> nn.Module:
    """Run the factory that a state file records.

    Args:
        named: what this command names itself with `--arch`; it wins.

    Raises:
        InputError: no file of the recorded digest may run, or what it makes is no network.
    """
    try:
        return _rebuild(architecture, named)
    except RequestError as error:
        raise InputError(str(error)) from error  # what a state records is no request of this command


def _rebuild(architecture: Architecture, named: Architecture | None) -> nn.Module:
    if architecture.source == "torchvision":
        return _torchvision(architecture)
    if named is not None:
        return _call(_callable(Path(named.source), named.name), architecture)
    recorded = Path(architecture.source)
    for path in _candidates(recorded):
        if _digest(path) == architecture.sha256:
            return _call(_callable(path, architecture.name), architecture)
    raise InputError(
        f"the network was made by {architecture.spec}, and no file {recorded.name} with the recorded digest lies"
        f" below {Path.cwd()} or in sample_models; name it with --arch FILE.py:{architecture.name}"
    )


def _candidates(recorded: Path) -> Iterator[Path]:
    """Files of the recorded name: at the recorded place, then below the current directory, then ours."""
    here = Path.cwd().resolve()
    direct = recorded.resolve()
    if direct.is_file() and direct.is_relative_to(here):
        yield direct
    for folder, folders, names in os.walk(here):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "site-packages")
        path = Path(folder, recorded.name)
        if recorded.name in names and path.is_file() and path.resolve().is_relative_to(here):
            yield path
    spec = importlib.util.find_spec("sample_models")
    for folder in spec.submodule_search_locations or [] if spec else []:
        if (path := Path(folder, recorded.name)).is_file():
            yield path


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def _callable(path: Path, name: str) -> Any:
    """Run FILE.py and return the callable that it defines."""
    module = _run_file(path)
    found = getattr(module, name, None)
    if not callable(found) or getattr(found, "__module__", None) != module.__name__:
        raise InputError(f"{path} does not define a callable {name!r} itself")
    return found


def _run_file(path: Path) -> ModuleType:
    name = f"greg_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with input_fault(f"{path} cannot be run"):
        spec.loader.exec_module(module)
    return module


def _call(factory: Any, architecture: Architecture) -> nn.Module:
    with input_fault(f"{architecture.spec} cannot be built"):
        try:
            model = factory(**architecture.kwargs)
        except TypeError as error:
            raise RequestError(f"{architecture.spec} refuses its arguments ({error}); see --arch-arg") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{architecture.spec} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _torchvision(architecture: Architecture) -> nn.Module:
    import torchvision

    try:
        builder = torchvision.models.get_model_builder(architecture.name)
    except ValueError as error:
        raise RequestError(f"torchvision has no model {architecture.name!r}; see its documentation") from error
    # Segmentation and detection constructors fetch a backbone's weights unless told not to.
    without = {"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # googlenet and inception_v3 announce other initial weights
        return _call(functools.partial(builder, **dict.fromkeys(without)), architecture)


def default_input_shapes(architecture: Architecture, model: nn.Module) -> tuple[tuple[int, ...], ...] | None:
    """The shapes that a network is known to take: its own `input_shape` (a tuple of them for several inputs), or
    torchvision's default."""
    own = getattr(model, "input_shape", None)
    if own is not None:
        with input_fault(f"{architecture.spec} has an input_shape that is no shape"):
            shapes = own if own and all(isinstance(shape, (tuple, list)) for shape in own) else (own,)
            return tuple(tuple(int(size) for size in shape) for shape in shapes)
    if architecture.source == "torchvision":
        return ((3, 299, 299),) if architecture.name == "inception_v3" else ((3, 224, 224),)
    return None
