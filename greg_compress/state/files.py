"""Read and write state files, without running anything in them."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from greg_compress.errors import InputError, input_fault
from greg_compress.state.format import State, from_dict
from greg_compress.whole_files import require_file, written_whole

ZIP = b"PK\x03\x04"
"""What torch.save writes; older pickles without an archive are not even opened."""


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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if not content.startswith(ZIP):
        raise InputError(f"{path} is no state file (or a truncated one, or an old pickle); nothing in it was run")
    _refuse_changed_bytes(content, path)
    try:
        data = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} holds pickled objects; nothing in it was run") from error
    except Exception as error:
        # torch has no common error type for what damaged bytes can do to its reader.
        raise InputError(f"{path} is damaged or truncated") from error
    with input_fault(f"{path} is damaged"):
        _refuse_lying_tensors(data, path)
        return from_dict(data, str(path)), hashlib.sha256(content).hexdigest()


def _refuse_changed_bytes(content: bytes, path: Path) -> None:
    """torch.load does not look at the checksums that torch.save writes."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            changed = archive.testzip() if stored else "a compressed entry"
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path} is damaged or truncated") from error
    if changed is not None:
        raise InputError(f"{path} is damaged: its checksums do not agree ({changed})")


def _refuse_lying_tensors(data: Any, path: Path) -> None:
    """A file of 1.6 KB can claim 10^12 elements: storage must hold what shapes say, before any copy."""
    if isinstance(data, Tensor):
        honest = data.layout == torch.strided and data.device.type == "cpu" and not data.is_nested
        if not honest or data.untyped_storage().nbytes() < data.numel() * data.element_size():
            raise InputError(f"{path} is damaged: a tensor of shape {tuple(data.shape)} has too little storage")
    elif isinstance(data, dict):
        for value in data.values():
            _refuse_lying_tensors(value, path)
    elif isinstance(data, (list, tuple)):
        for value in data:
            _refuse_lying_tensors(value, path)
