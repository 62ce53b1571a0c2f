"""Where this process of a run stands, and on which device it works."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from greg_compress.errors import GregError, RequestError, first_line
from greg_compress.processes import ending
from greg_compress.processes.place import Place
from greg_compress.training.numerics import resolve_device
from greg_compress.training.world import ALONE, World


def meet(place: Place, device_name: str) -> tuple[World, torch.device]:
    """Join the other processes, if there are any; each takes a CUDA device of its own.

    Raises:
        RequestError: a device that is not here, or one that all processes would share.
        GregError: the other processes cannot be reached.
    """
    if place.alone:
        return ALONE, resolve_device(device_name)
    try:
        store = ending.join(place).store
    except (RuntimeError, ValueError) as error:
        raise GregError(f"the other processes cannot be reached ({first_line(error)})") from error
    if device_name.startswith("cuda:"):
        raise RequestError(f"--device {device_name}: each of several processes takes its own; write cuda")
    device = resolve_device(device_name)
    if device.type == "cuda":
        device = resolve_device(f"cuda:{place.local}")
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _print_on_stderr():
        dist.init_process_group(backend, store=PrefixStore("training", store), rank=place.rank, world_size=place.size)
    return World(place.rank, place.size), device


@contextlib.contextmanager
def _print_on_stderr() -> Iterator[None]:
    """Stdout belongs to the result, and some versions of gloo print on it from C++."""
    try:
        stdout = os.dup(1)
    except OSError:  # closed
        yield
        return
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
