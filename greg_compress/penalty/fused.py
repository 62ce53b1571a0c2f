"""All layers at once: what the penalty does on the device in every iteration, and at every update.

Nothing here waits for the device or loops over filters, and the number of calls does not grow with the layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from greg_compress.penalty.targets import Gauge, Target, WeightGauge

SMALLEST = 1e-12
"""The picked filters' mean magnitude is clamped to this, so that a ratio stays a number."""

BLOCK = 2**20
"""Weights to be measured together: what a processor's cache holds, and enough to keep a GPU busy."""


class Pull:
    """grad += lambda * w for the picked rows of every target, and grad += recover * w for the kept ones.

    Args:
        recover: of the targets that have none of their own.
    """

    def __init__(self, targets: Sequence[Target], recover: float) -> None:
        self._parameters = [target.parameter for target in targets]
        self._picked = [target.picked for target in targets]
        self._kept = []
        recovers = [recover if target.recover is None else target.recover for target in targets]
        if any(each and target.kept is not None for each, target in zip(recovers, targets, strict=True)):
            kept = [torch.zeros_like(t.picked) if t.kept is None else t.kept for t in targets]
            self._kept = list(torch._foreach_mul(kept, recovers))
        self._rows: tuple[float, list[Tensor]] = (0.0, self._kept)
        """lambda, and with it the factor of every row."""

    @torch.no_grad()
    def add(self, strength: float) -> None:
        value, masks = strength, self._picked
        if self._kept:  # in one pass over the weights all the same
            if self._rows[0] != strength:
                self._rows = (strength, list(torch._foreach_add(self._kept, self._picked, alpha=strength)))
            value, masks = 1.0, self._rows[1]
        found = [(p.grad, p, mask) for p, mask in zip(self._parameters, masks, strict=True) if p.grad is not None]
        if found:
            gradients, parameters, masks = map(list, zip(*found, strict=True))
            torch._foreach_addcmul_(gradients, parameters, masks, value=value)


class Separation:
    """How much larger the kept filters of every gauge are than the picked ones.

    The weights are copied, a block at a time, to memory that stays: to ask for new memory would cost more than the
    arithmetic. There they are added up by chunks, of which every filter has a whole number.
    """

    def __init__(self, gauges: Sequence[Gauge]) -> None:
        like = gauges[0].weight.detach()
        blocks = list(_blocks(gauges))
        memory = like.new_empty(max(sum(gauge.weight.numel() for gauge in block) for block in blocks))
        self._blocks: list[tuple[Tensor, list[Tensor], list[Tensor]]] = []
        parts, counts, first = [], [], 0
        for block in blocks:
            numels = [gauge.weight.numel() for gauge in block]
            sizes = [many // gauge.weight.shape[gauge.makes] for many, gauge in zip(numels, block, strict=True)]
            width = math.gcd(*sizes)
            own = memory[: sum(numels)]
            places = [_place(part, gauge) for part, gauge in zip(own.split(numels), block, strict=True)]
            self._blocks.append((own.view(-1, width), places, [gauge.weight for gauge in block]))
            for gauge, many, size in zip(block, numels, sizes, strict=True):
                chunks = torch.arange(first, first + many // width, device=like.device).view(-1, size // width)
                for filters in (gauge.kept, gauge.picked):
                    parts.append(chunks[filters].flatten())
                    counts.append(len(filters) * size)
                first += chunks.numel()
        self._order = torch.cat(parts)
        self._lengths = torch.tensor([len(part) for part in parts], device=like.device)
        self._counts = torch.tensor(counts, device=like.device, dtype=torch.float64)

    @torch.no_grad()
    def ratios(self) -> Tensor:
        """Mean |w| of the kept filters over that of the picked ones, shape (gauges,)."""
        sums = []
        for chunks, places, weights in self._blocks:
            torch._foreach_copy_(places, weights)
            sums.append(chunks.abs_().sum(1))
        # A running sum over so many chunks needs double precision. Checking the lengths would wait for the device.
        chosen = torch.cat(sums).double()[self._order]
        totals = torch.segment_reduce(chosen, "sum", lengths=self._lengths, unsafe=True)
        kept, picked = (totals / self._counts).view(-1, 2).unbind(1)
        return (kept / picked.clamp(min=SMALLEST)).to(sums[0].dtype)


class WeightSeparation:
    """How much larger the kept weights of every gauge are than the picked ones."""

    def __init__(self, gauges: Sequence[WeightGauge]) -> None:
        self._weights = [gauge.weight.detach() for gauge in gauges]
        self._picked = [gauge.picked for gauge in gauges]
        counts = torch.tensor([(gauge.kept_count, gauge.picked_count) for gauge in gauges], dtype=torch.float64)
        self._kept_counts, self._picked_counts = counts.to(self._weights[0].device).unbind(1)

    @torch.no_grad()
    def ratios(self) -> Tensor:
        """Mean |w| of the kept weights over that of the picked ones, shape (gauges,)."""
        whole, picked = (
            torch.stack(torch._foreach_norm(weights, 1, dtype=torch.float64))
            for weights in (self._weights, torch._foreach_mul(self._weights, self._picked))
        )
        kept = (whole - picked) / self._kept_counts
        ratios = kept.clamp(min=SMALLEST) / (picked / self._picked_counts).clamp(min=SMALLEST)
        return ratios.to(self._weights[0].dtype)


def separation(gauges: Sequence[Gauge] | Sequence[WeightGauge]) -> Separation | WeightSeparation | None:
    """What measures gauges of either kind."""
    filters = [gauge for gauge in gauges if isinstance(gauge, Gauge)]
    weights = [gauge for gauge in gauges if isinstance(gauge, WeightGauge)]
    if weights:
        return WeightSeparation(weights)
    return Separation(filters) if filters else None


def _blocks(gauges: Sequence[Gauge]) -> Iterator[list[Gauge]]:
    block: list[Gauge] = []
    for gauge in gauges:
        if block and sum(known.weight.numel() for known in (*block, gauge)) > BLOCK:
            yield block
            block = []
        block.append(gauge)
    yield block


def _place(memory: Tensor, gauge: Gauge) -> Tensor:
    """Where a weight goes: a view of its shape, filter by filter, each in the weight's own order in memory."""
    filters = gauge.weight.detach().movedim(gauge.makes, 0)
    order = [0, *sorted(range(1, filters.dim()), key=filters.stride, reverse=True)]
    place = memory.view([filters.shape[dim] for dim in order]).movedim(list(range(filters.dim())), order)
    return place.movedim(0, gauge.makes)


class Answer:
    """A yes or no on its way from the device to the host. Read an update later it has long arrived."""

    def __init__(self, answer: Tensor) -> None:
        self._host = answer.to("cpu", non_blocking=answer.is_cuda)
        self._arrival = torch.cuda.current_stream(answer.device).record_event() if answer.is_cuda else None

    def __bool__(self) -> bool:
        if self._arrival is not None:
            self._arrival.synchronize()
        return bool(self._host.tolist())
