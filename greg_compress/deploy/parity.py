"""Whether a file computes what the network does that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from greg_compress.deploy.preprocessing import Preprocessed
from greg_compress.errors import GregError, input_fault
from greg_compress.wiring.skeleton import Shapes, output_tensors

CHECKED_BATCHES = (1, 2, 5)
CHECKED_SEEDS = (0, 1, 2)
Runtime = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
"""Runs a file: the network's inputs, batch first -> all its outputs."""


@dataclass(frozen=True)
class Difference:
    """A file, run in one way, against PyTorch, over several inputs and batch sizes."""

    max_abs_error: float
    max_rel_error: float
    """Relative to the largest output of the batch."""
    top1_agreement: float
    """Fraction of samples for which both name the same class."""
    passed: bool


@dataclass(frozen=True)
class Parity(Difference):
    """The worst of all ways to run a file (onnxruntime's levels of optimisation), and each of them."""

    levels: dict[str, Difference] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(model: nn.Module, runtimes: Mapping[str, Runtime], input_shapes: Shapes, tolerance: float) -> Parity:
    """Run a network and its file on the same random inputs, and compare every output; top-1 is of the first.

    Args:
        model: in eval mode; a :class:`Preprocessed` one is given pixels.
        runtimes: all ways to run the file, by name.
        tolerance: largest error, relative to the largest output of a batch.

    Raises:
        GregError: an output is not finite.
    """
    reference = model.reference if isinstance(model, Preprocessed) else model
    found: dict[str, list[_Batch]] = {level: [] for level in runtimes}
    for seed in CHECKED_SEEDS:
        for batch in CHECKED_BATCHES:
            inputs = _random_inputs(model, input_shapes, batch, seed)
            with torch.no_grad(), input_fault("the network fails on random inputs"):
                wanted = output_tensors(reference(*inputs))
            for level, runtime in runtimes.items():
                found[level].append(_compared(wanted, runtime(inputs)))
    levels = {level: _summed(batches, tolerance) for level, batches in found.items()}
    each = levels.values()
    return Parity(
        max(one.max_abs_error for one in each),
        max(one.max_rel_error for one in each),
        min(one.top1_agreement for one in each),
        all(one.passed for one in each),
        levels,
    )


def _random_inputs(model: nn.Module, input_shapes: Shapes, batch: int, seed: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    if isinstance(model, Preprocessed):
        return [model.random_pixels((batch, *shape), random) for shape in input_shapes]
    return [torch.randn((batch, *shape), generator=random) for shape in input_shapes]


@dataclass(frozen=True)
class _Batch:
    """Largest errors of one batch, and how many of its samples both put into the same class."""

    absolute: float
    relative: float
    agreed: int
    samples: int


def _compared(wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> _Batch:
    """The network's outputs against the file's, for one batch."""
    samples = len(wanted[0])
    if [tensor.shape for tensor in wanted] != [tensor.shape for tensor in got]:
        return _Batch(float("inf"), float("inf"), 0, samples)
    absolute = relative = 0.0
    for ours, theirs in zip(wanted, got, strict=True):
        if not bool(ours.isfinite().all() and theirs.isfinite().all()):
            raise GregError("the network's outputs are not finite (NaN or infinity); nothing was exported")
        error = (ours - theirs).abs().max().item()
        absolute = max(absolute, error)
        relative = max(relative, error / (ours.abs().max().item() or 1.0))
    agreed = int((wanted[0].flatten(1).argmax(1) == got[0].flatten(1).argmax(1)).sum())
    return _Batch(absolute, relative, agreed, samples)


def _summed(batches: Sequence[_Batch], tolerance: float) -> Difference:
    relative = max(batch.relative for batch in batches)
    agreement = sum(batch.agreed for batch in batches) / sum(batch.samples for batch in batches)
    return Difference(max(batch.absolute for batch in batches), relative, agreement, relative <= tolerance)
