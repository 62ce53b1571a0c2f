"""Where this process of a run stands, and on which device it works."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from greg_compress import ending
from greg_compress.errors import RequestError
from greg_compress.processes import Place
from greg_compress.training.numerics import resolve_device
from greg_compress.training.world import ALONE, World


def meet(place: Place, device_name: str) -> tuple[World, torch.device]:
    """Join the other processes, if there are any; each takes a CUDA device of its own.

    Raises:
        RequestError: a device that is not here, or one that all processes would share.
    """
    if place.alone:
        return ALONE, resolve_device(device_name)
    store = ending.join(place).store
    if device_name.startswith("cuda:"):
        raise RequestError(f"--device {device_name}: each of several processes takes its own; write cuda")
    device = resolve_device(device_name)
    if device.type == "cuda":
        device = resolve_device(f"cuda:{place.local}")
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=PrefixStore("training", store), rank=place.rank, world_size=place.size)
    return World(place.rank, place.size), device
