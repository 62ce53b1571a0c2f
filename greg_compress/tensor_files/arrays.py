"""Arrays of bytes: in a pickle, as the CIFAR files hold them, of which nothing is run, and in an IDX file."""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from greg_compress.errors import InputError
from greg_compress.tensor_files.faults import reading
from greg_compress.tensor_files.plain_pickle import Named, PlainUnpickler

MOST_BYTES, MOST_ENCODED, IDX_BYTES = 2**30, 8, 8


@dataclass
class _Array:
    """An array of uint8 that waits for its state."""

    value: Tensor | None = None


class _ArrayUnpickler(PlainUnpickler):
    """Knows the three names by which numpy pickles an array, from Python 2 as well (latin1 for bytes)."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        self._encoded = 0

    def find_class(self, module: str, name: str) -> Any:
        kind = f"{module}.{name}"
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return Named(kind, lambda *_: _Array())
        if kind == "numpy.dtype":
            return Named(kind, lambda code, *_: code if isinstance(code, str) else "")
        if kind == "_codecs.encode":
            return Named(kind, self._bytes)
        return super().find_class(module, name)

    def _bytes(self, text: str, encoding: str) -> bytes:
        self._encoded += 1
        if self._encoded > MOST_ENCODED or encoding != "latin1":
            raise ValueError("more byte strings than an array has")
        return text.encode("latin1")

    def set_state(self, value: Any, state: Any) -> None:
        if not isinstance(value, _Array):
            return
        _, shape, dtype, _, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        if dtype != "u1" or not isinstance(content, bytes) or math.prod(shape) != len(content):
            raise ValueError(f"an array of shape {shape} and type {dtype} with other content")
        value.value = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(shape)


def read_arrays(path: Path) -> dict[str, Any]:
    """A pickled dictionary with its arrays as uint8 tensors.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    with reading(path):
        data = _ArrayUnpickler(io.BytesIO(_content(path))).load()
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__} instead of a dictionary")
    found = {key.decode() if isinstance(key, bytes) else key: value for key, value in data.items()}
    return {key: value.value if isinstance(value, _Array) else value for key, value in found.items()}


def _content(path: Path) -> bytes:
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"it is larger than {MOST_BYTES >> 20} MiB")
    return path.read_bytes()


def read_idx(path: Path) -> Tensor:
    """A file in the format of MNIST (LeCun et al., 1998): two zeros, 8 for bytes, how many dimensions, their sizes as
    32 bits each, the highest first, and the bytes. torchvision would look for a pickle of its own first.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    with reading(path):
        content = _content(path)
        zeros, kind, dimensions = struct.unpack_from(">HBB", content)
        sizes = struct.unpack_from(f">{dimensions}I", content, 4)
        start = 4 + 4 * dimensions
        if zeros or kind != IDX_BYTES or math.prod(sizes) != len(content) - start:
            raise ValueError("no IDX file of bytes, or one of other bytes than it says")
        return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(sizes)
