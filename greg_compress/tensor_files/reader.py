"""Read any file of tensors; the one door."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import safetensors.torch

from greg_compress.errors import InputError
from greg_compress.tensor_files.faults import reading
from greg_compress.tensor_files.torch_file import MOST_PICKLED, ZIP, read_legacy, read_zip

PICKLE = b"\x80"
PROGRAM = ".pt2"
ITS_STATE = "name the state that it was made of"
"""What helps where an exported file is given."""


def read(path: Path) -> tuple[Any, str]:
    """Plain values and tensors of a file, and the SHA-256 of its bytes. Nothing in it is run.

    Objects of unknown classes come as :class:`~.plain_pickle.Inert`.

    Raises:
        InputError: it cannot be read, or is damaged; the message says how.
    """
    if path.suffix.lower() == PROGRAM and path.is_file():
        raise InputError(f"{path} is an exported program; {ITS_STATE}")
    with reading(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        length = file.tell()
        file.seek(0)
        start = file.read(8)
        file.seek(0)
        if path.suffix == ".safetensors":
            if int.from_bytes(start, "little") > MOST_PICKLED:
                raise InputError(f"its header is larger than {MOST_PICKLED >> 20} MiB")
            return safetensors.torch.load(file.read()), digest
        if start.startswith(ZIP):
            return read_zip(file, length), digest
        if start.startswith(PICKLE):
            return read_legacy(file, length), digest
    if path.suffix.lower() == ".onnx":
        raise InputError(f"{path} is an ONNX file, by its name; {ITS_STATE}")
    raise InputError(f"{path} is no file of tensors, or a truncated one")
