"""Read any file of tensors; the one door."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import safetensors.torch

from greg_compress.errors import InputError, first_line, is_out_of_memory
from greg_compress.tensor_files.torch_file import MOST_PICKLED, ZIP, read_legacy, read_zip

PICKLE = b"\x80"


def read(path: Path) -> tuple[Any, str]:
    """Plain values and tensors of a file, and the SHA-256 of its bytes. Nothing in it is run.

    Objects of unknown classes come as :class:`~.plain_pickle.Inert`.

    Raises:
        InputError: it cannot be read, or is damaged; the message says how.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError("it is no ordinary file")
        with path.open("rb") as file:
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
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except InputError as error:
        raise InputError(f"{path} is damaged or no file of tensors: {error}; nothing in it was run") from error
    except Exception as error:
        # What damaged bytes can do to a reader has no common type.
        if is_out_of_memory(error):
            raise
        raise InputError(f"{path} is damaged or truncated ({first_line(error)}); nothing in it was run") from error
    raise InputError(f"{path} is no file of tensors, or a truncated one")
