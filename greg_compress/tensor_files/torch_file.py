"""What torch.save writes: a zip archive, or the older row of pickles with storages behind them."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import Tensor

from greg_compress.errors import InputError
from greg_compress.tensor_files.plain_pickle import Claim, PlainUnpickler, Storage

ZIP = b"PK\x03\x04"
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MOST_PICKLED = 16 * 2**20
"""Bytes of pickles in one file; no honest one comes near."""

Bring = Callable[[Storage], bytearray]


def read_zip(file: BinaryIO, length: int) -> Any:
    """Read an archive of `length` bytes: checksums first, then the pickle, then the storages that it needs.

    Raises:
        InputError: compressed or overlapping entries (bombs), wrong checksums, TorchScript, or too large a pickle.
        Exception: damaged in any other way.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError("it has compressed entries, which torch never writes")
        if sum(entry.file_size for entry in entries) > length:
            raise InputError("its entries claim more bytes than the file has")
        if (changed := archive.testzip()) is not None:
            raise InputError(f"its checksums do not agree ({changed})")
        (pickled,) = (entry for entry in entries if entry.filename.endswith("/data.pkl"))
        folder = pickled.filename.removesuffix("data.pkl")
        if f"{folder}constants.pkl" in archive.namelist():
            raise InputError("it is a TorchScript program; save the network's state_dict() instead")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise InputError("it was written on a big-endian machine")
        if pickled.file_size > MOST_PICKLED:
            raise InputError(f"its pickle is larger than {MOST_PICKLED >> 20} MiB")
        data = PlainUnpickler(io.BytesIO(archive.read(pickled))).load()
        return _with_tensors(data, lambda storage: bytearray(_record(archive, f"{folder}data/", storage)))


def _record(archive: zipfile.ZipFile, folder: str, storage: Storage) -> bytes:
    entry = archive.getinfo(folder + storage.key)
    if entry.file_size != storage.nbytes:
        raise ValueError(f"storage {storage.key} has {entry.file_size} bytes instead of {storage.nbytes}")
    return archive.read(entry)


def read_legacy(file: BinaryIO, length: int) -> Any:
    """Read the format of torch before 1.6: five pickles, then each storage behind its count of elements.

    Raises:
        InputError: another pickle, or too large a one.
        Exception: damaged in any other way.
    """
    head = io.BytesIO(file.read(MOST_PICKLED))
    if PlainUnpickler(head).load() != LEGACY_MAGIC:
        raise InputError("it is a pickle that torch did not write")
    protocol, system = (PlainUnpickler(head).load() for _ in range(2))
    if protocol != LEGACY_PROTOCOL or system.get("little_endian") is not True:
        raise InputError("it was written by another torch, or on a big-endian machine")
    unpickler = PlainUnpickler(head)
    data, keys = unpickler.load(), PlainUnpickler(head).load()
    places: dict[str, int] = {}
    place = head.tell()
    for key in keys:
        storage = unpickler.storages[key]
        file.seek(place)
        if struct.unpack("<q", file.read(8)) != (storage.count,):
            raise ValueError(f"storage {key} does not have {storage.count} elements")
        places[key] = place + 8
        place += 8 + storage.nbytes
        if place > length:
            raise ValueError(f"storage {key} ends beyond the file")

    def bring(storage: Storage) -> bytearray:
        file.seek(places[storage.key])
        return bytearray(file.read(storage.nbytes))

    return _with_tensors(data, bring)


def _with_tensors(data: Any, bring: Bring) -> Any:
    """Put tensors in the place of claims, in dictionaries and lists at any depth.

    All claims have been checked by now; each storage that one of them needs is brought once.
    """
    storages: dict[str, Tensor] = {}
    seen: set[int] = set()
    left = [data]
    while left:
        container = left.pop()
        if not isinstance(container, (dict, list)) or id(container) in seen:
            continue
        seen.add(id(container))
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in list(items):
            if isinstance(value, Claim):
                container[key] = _tensor(value, storages, bring)
            else:
                left.append(value)
    return data


def _tensor(claim: Claim, storages: dict[str, Tensor], bring: Bring) -> Tensor:
    key = claim.storage.key
    if key not in storages:
        content = bring(claim.storage)
        storages[key] = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    whole = storages[key]
    typed = whole[: whole.numel() // claim.dtype.itemsize * claim.dtype.itemsize].view(claim.dtype)
    return typed.as_strided(claim.size, claim.stride, claim.offset)
