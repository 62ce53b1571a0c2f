"""The processes that train one network together, and what they tell each other.

Every method is called by all of them at the same point; alone, each returns what it was given.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from greg_compress.training.sync_norm import synchronize_norms


@dataclass(frozen=True)
class World:
    """This process is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def parallel(self, model: nn.Module, device: torch.device, sync_bn: bool) -> nn.Module:
        """The network whose gradients are the mean over all processes; its parameters are the model's own."""
        if self.size == 1:
            return model
        if sync_bn:
            model = synchronize_norms(model, device)
        # Unused: a network may have parts that a step leaves out. Buffers: the first process's are everyone's.
        return DistributedDataParallel(
            model,
            device_ids=None if device.type == "cpu" else [device],
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )

    def alone_until(self, last: bool, model: nn.Module) -> AbstractContextManager[None]:
        """Gradients are exchanged after the last piece of a step only."""
        if last or not isinstance(model, DistributedDataParallel):
            return nullcontext()
        return model.no_sync()  # type: ignore[no-any-return]

    def sum(self, tensor: Tensor) -> Tensor:
        """Of all processes' tensors."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def least(self, number: int) -> int:
        """Of all processes' numbers."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        dist.all_reduce(found, dist.ReduceOp.MIN)
        return int(found)

    def each(self, tensor: Tensor) -> Tensor:
        """Every process's tensor, (size, ...), on the CPU."""
        own = tensor.detach().cpu()
        if self.size == 1:
            return own[None]
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        return torch.stack(found)

    def of_first(self, value: Any) -> Any:
        """What the first process holds, plain data."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held)
        return held[0]

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give everyone the first process's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


class LateMaximum:
    """The largest of all processes' numbers as of the call before, so that nobody waits for the others."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._under_way: tuple[Tensor, Any] | None = None

    def of(self, number: int) -> int:
        if self._world.size == 1:
            return number
        before, own = self._under_way, torch.tensor(number)
        self._under_way = own, dist.all_reduce(own, dist.ReduceOp.MAX, async_op=True)
        if before is None:
            return 0
        before[1].wait()
        return int(before[0])


ALONE = World()
