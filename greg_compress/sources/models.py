"""Build a network from its architecture, and decide which FILE.py may run.

A callable runs only if the command names its file (`--arch`), or if a file of the recorded digest lies
below the current directory or in the installed `sample_models`; and only if it is defined in that very
file, not imported there (`os.py:system` is a callable too). A pickled module is unpickled only with
`--allow-pickle`. See design section 6.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from greg_compress.errors import InputError, RequestError, input_fault, nearest
from greg_compress.sources import libraries, user_files
from greg_compress.sources.specs import LIBRARIES, PICKLE, Architecture
from greg_compress.tensor_files.state_dicts import WRAPPERS

MOST_FOLDERS = 10_000
"""How many folders below the current one are searched for a file; a build may run in /."""
MOST_BYTES, MOST_GROWTH = 2 * 2**30, 1000
"""A network may take 2 GiB before its weights are loaded, or so many times the weights (it may have been cut)."""


def build(
    architecture: Architecture, download: bool = False, own_weights: bool = False
) -> tuple[nn.Module, Architecture]:
    """Run the factory that this command names, and return the network and its record with the digest.

    Args:
        own_weights: whether a file of weights follows, so that official ones only say what form the network has.

    Raises:
        RequestError: an unknown name, or arguments that the factory refuses.
        InputError: FILE.py is missing, broken, or does not define the callable; official weights are missing.
    """
    if architecture.source in LIBRARIES:
        official = None if own_weights else libraries.official(architecture, download)
        make = official or libraries.factory(architecture)
        return _call(make, architecture), architecture
    make, digest = user_files.named(Path(architecture.source), architecture.name)
    named = replace(architecture, sha256=digest)
    return _call(make, named), named


def rebuild(
    architecture: Architecture, named: Architecture | None = None, allow_pickle: bool = False, nbytes: int = 0
) -> nn.Module:
    """Run the factory that a state file records.

    Args:
        named: what this command names itself with `--arch`; it wins.
        nbytes: size of the weights that the network is for.

    Raises:
        InputError: no file of the recorded digest may run, or what it makes is no network, or an absurdly large one.
    """
    try:
        make = _factory(architecture, named, allow_pickle)
        if architecture.source != PICKLE:
            _refuse_giants(make, architecture, max(MOST_BYTES, MOST_GROWTH * nbytes))
        return _call(make, architecture)
    except RequestError as error:
        raise InputError(str(error)) from error  # what a state records is no request of this command


def _factory(architecture: Architecture, named: Architecture | None, allow_pickle: bool) -> Any:
    if architecture.source in LIBRARIES:
        return libraries.factory(architecture)
    if named is not None:
        return user_files.named(Path(named.source), named.name)[0]
    is_pickle = architecture.source == PICKLE
    if is_pickle and not allow_pickle:
        raise InputError(
            f"the network was made by unpickling {architecture.name}, which runs code; add --allow-pickle if you"
            " trust it"
        )
    if (there := recorded_file(architecture)) is not None:
        path, content = there
        if is_pickle:
            return functools.partial(unpickled, content, str(path))
        try:
            return user_files.defined(path, content, architecture.name)
        except InputError as error:
            if isinstance(error.__cause__, ImportError):  # what lies beside it was not looked for
                raise InputError(f"{error}; name it with --arch {path}:{architecture.name}") from error
            raise
    recorded = _recorded_path(architecture)
    raise InputError(
        f"the network was made by {architecture.spec}, and {_missing(recorded)} below {Path.cwd()} or in sample_models;"
        + (" put it there" if is_pickle else f" name it with --arch FILE.py:{architecture.name}")
    )


def recorded_file(architecture: Architecture) -> tuple[Path, bytes] | None:
    """The file of the recorded digest that may run without being named, with its content; nothing is run."""
    for path in _candidates(_recorded_path(architecture)):
        content = user_files.contents(path)
        if user_files.sha256(content) == architecture.sha256:
            return path, content
    return None


def _recorded_path(architecture: Architecture) -> Path:
    return Path(architecture.name if architecture.source == PICKLE else architecture.source)


def _missing(recorded: Path) -> str:
    """What was not found; a file that has changed is no missing one."""
    changed = next(_candidates(recorded), None)
    other = "" if changed is None else f" ({changed} is another)"
    return f"no file {recorded.name} with the recorded digest lies{other}"


def _candidates(recorded: Path) -> Iterator[Path]:
    """Files of the recorded name: at the recorded place, then below the current directory, then ours."""
    here = Path.cwd().resolve()
    direct = recorded.resolve()
    if direct.is_file() and direct.is_relative_to(here):
        yield direct
    for folder, folders, names in islice(os.walk(here), MOST_FOLDERS):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "site-packages")
        path = Path(folder, recorded.name)
        if recorded.name in names and path.is_file() and path.resolve().is_relative_to(here):
            yield path
    spec = importlib.util.find_spec("sample_models")
    for folder in spec.submodule_search_locations or [] if spec else []:
        if (path := Path(folder, recorded.name)).is_file():
            yield path


def unpickled(content: bytes, path: str) -> nn.Module:
    """Unpickle a whole network, alone or under one of the usual keys. This runs whatever the bytes say.

    Its classes are imported from the current directory as well.

    Raises:
        InputError: it breaks, or holds no network.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    with input_fault(
        f"{path} cannot be unpickled; its classes must be importable from here, else save its state_dict() and name the"
        " network with --arch"
    ):
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    if isinstance(found, dict):
        found = next((found[key] for key in WRAPPERS if isinstance(found.get(key), nn.Module)), found)
    if isinstance(found, nn.DataParallel):
        found = found.module
    if not isinstance(found, nn.Module):
        raise InputError(f"{path} holds a {type(found).__name__}, not a torch.nn.Module")
    return found


class OnMeta(TorchFunctionMode):
    """Parameters and buffers take no memory. Unlike in torch.device("meta"), a factory may calculate with tensors."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        filled = func in (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
        return func(*args, **(kwargs or {}) | ({"device": "meta"} if filled else {}))


def _refuse_giants(make: Any, architecture: Architecture, most: int) -> None:
    """Build on the meta device first: a state of a few bytes may ask for a network of any width."""
    try:
        with OnMeta():
            tensors = [*(model := make(**architecture.kwargs)).parameters(), *model.buffers()]
    except (
        Exception,
        SystemExit,
    ):  # a user's factory that looks at values; the real call says what is wrong with it, if anything
        return
    if (size := sum(tensor.nbytes for tensor in tensors)) > most:
        raise InputError(
            f"{architecture.spec} with the recorded arguments takes {size:,} bytes, far more than its weights"
        )


def _call(factory: Any, architecture: Architecture) -> nn.Module:
    with input_fault(f"{architecture.spec} cannot be built"):
        try:
            model = factory(**architecture.kwargs)
        except TypeError as error:
            near = _nearest_argument(factory, architecture)
            raise RequestError(f"{architecture.spec} refuses its arguments ({error}); see --arch-arg{near}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{architecture.spec} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _nearest_argument(factory: Any, architecture: Architecture) -> str:
    """What may have been meant by an argument that nobody takes; libraries pass theirs on and name few."""
    with contextlib.suppress(TypeError, ValueError):  # no signature: a factory that is no Python
        known = {*inspect.signature(factory).parameters, "num_classes"} - {"kwargs", "args"}
        return next((nearest(name, known) for name in architecture.kwargs if name not in known), "")
    return ""


def default_input_shapes(architecture: Architecture, model: nn.Module) -> tuple[tuple[int, ...], ...] | None:
    """The shapes that a network is known to take: its own `input_shape` (a tuple of them for several inputs), or
    its library's default."""
    own = getattr(model, "input_shape", None)
    if own is not None:
        with input_fault(f"{architecture.spec} has an input_shape that is no shape"):
            shapes = own if own and all(isinstance(shape, (tuple, list)) for shape in own) else (own,)
            return tuple(tuple(int(size) for size in shape) for shape in shapes)
    return libraries.default_input_shapes(architecture, model) if architecture.source in LIBRARIES else None
