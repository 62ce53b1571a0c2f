"""Read and write state files, without running anything in them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from greg_compress.errors import InputError, input_fault
from greg_compress.state.format import FORMAT, State, from_dict
from greg_compress.tensor_files.reader import read
from greg_compress.whole_files import require_file, written_whole


def save(state: State, path: Path, *, replace: bool) -> None:
    """Write a state file, in the place of an older one only with `replace`.

    Raises:
        RequestError: a file has appeared there meanwhile.
        GregError: the disk is full or the target unwritable; what was there stays.
    """
    buffer = io.BytesIO()  # torch's own file writer aborts the process when a disk fills up
    torch.save(state.to_dict(), buffer)
    with written_whole(path, replace=replace) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load(path: Path) -> tuple[State, str]:
    """Read a state file; return it with the SHA-256 of its bytes.

    Raises:
        InputError: missing, a directory, truncated, not ours, a pickle, or with lying tensors.
    """
    require_file(path)
    data, digest = read(path)
    if not is_state(data):
        raise InputError(f"{path} is not a greg state file (a plain state dict?); nothing in it was run")
    return state_of(data, path), digest


def is_state(data: Any) -> bool:
    """Whether the content of a file says that it is a state of ours."""
    return isinstance(data, dict) and data.get("format") == FORMAT


def state_of(data: dict[Any, Any], path: Path) -> State:
    """Check what was read from a state file.

    Raises:
        InputError: it does not hold together.
    """
    with input_fault(f"{path} is damaged"):
        _refuse_strangers(data, path)
        return from_dict(data, str(path))


def _refuse_strangers(data: Any, path: Path) -> None:
    """Tensors and JSON values alone, each container once."""
    seen: set[int] = set()
    left = [data]
    while left:
        value = left.pop()
        if isinstance(value, (dict, list, tuple)):
            if id(value) not in seen:
                seen.add(id(value))
                left.extend(value.values() if isinstance(value, dict) else value)
        elif not isinstance(value, (Tensor, str, bytes, int, float, bool, type(None))):
            raise InputError(f"{path} holds pickled objects; nothing in it was run")
