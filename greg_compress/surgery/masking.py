"""Second proof of a cut: masked equals sliced, in numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from greg_compress.errors import CheckFailed, GregError, first_line
from greg_compress.wiring.groups import Wiring
from greg_compress.wiring.skeleton import BATCH, output_tensors

aten = torch.ops.aten

TOLERANCE = 1e-9
"""Largest difference between masked and sliced outputs in float64, relative to the largest output."""


@dataclass(frozen=True)
class SelfCheck:
    """Masked against sliced."""

    max_rel_error: float
    passed: bool
    unchecked: tuple[str, ...] = ()

    def require(self, report: dict[str, Any] | None = None) -> None:
        """Raise CheckFailed, with the report that `--json` still prints, unless it passed."""
        if self.passed:
            return
        error = self.max_rel_error
        how = f"differ by {error:.1e} of the largest output; nothing was written, please report this network"
        if not math.isfinite(error):
            how = "are not finite (NaN or infinity); nothing was written, see its weights"
        raise CheckFailed(
            f"the self-check failed: masked and sliced outputs {how}",
            None if report is None else {**report, "passed": False},
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "max_rel_error": self.max_rel_error,
            "passed": self.passed,
            "unchecked": list(self.unchecked),
        }


def masked_equals_sliced(dense: nn.Module, sliced: nn.Module, wiring: Wiring, removed: Tensor) -> SelfCheck:
    """Zero the removed units where they are read, in a copy of the dense network, and compare outputs.

    The mask lies on the consumers' input slices, not on the filters: a BatchNorm shift follows those.
    Runs in float64 on a random input of batch 2, in eval mode. Both networks are left as they are.
    """
    return _compared(_outputs(dense, wiring, removed), _outputs(sliced, wiring, None))


def same_outputs(one: nn.Module, other: nn.Module, wiring: Wiring) -> SelfCheck:
    """Compare two networks of the same shapes as :func:`masked_equals_sliced` does, with nothing masked."""
    return _compared(_outputs(one, wiring, None), _outputs(other, wiring, None))


def _compared(wanted: list[Tensor], got: list[Tensor]) -> SelfCheck:
    largest = max(_error(a, b) for a, b in zip(wanted, got, strict=True))
    return SelfCheck(largest, largest <= TOLERANCE)


def output_changes(dense: nn.Module, others: Sequence[nn.Module], wiring: Wiring) -> list[float]:
    """How far each network's output on a random batch is from the first one's: the norm of the difference over its."""
    wanted, *found = (
        torch.cat([output.flatten().double() for output in _outputs(model, wiring, None)]) for model in (dense, *others)
    )
    size = float(wanted.norm()) or 1.0
    return [float((wanted - got).norm()) / size for got in found]


def mask(model: nn.Module, wiring: Wiring, removed: Tensor) -> None:
    """Zero the slices that read the removed units, in every layer of a dense network."""
    with torch.no_grad():
        for name, dim in wiring.trace.consumers:
            gone = torch.isin(wiring.classes[name][dim], removed).nonzero().flatten()
            weight = model.get_parameter(name)
            weight.index_fill_(dim, gone.to(weight.device), 0)


def in_double(model: nn.Module) -> nn.Module:
    """A copy in float64 on the CPU, in eval mode. A network's own `train` or `to` may return nothing."""
    double = copy.deepcopy(model)
    double.to("cpu", torch.float64)
    double.eval()
    return double


class InDouble(TorchDispatchMode):
    """Keeps a network in float64 that casts or makes constants in less itself."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in (torch.float32, torch.float16, torch.bfloat16):
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


class Unseen(TorchDispatchMode):
    """Keeps removed channels out of means and variances over channels: what is zeroed still would be in those.

    Args:
        gone: for every vector (by id) that may be such a normalisation's weight and loses some, which channels.
    """

    def __init__(self, gone: dict[int, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gone = gone

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.native_layer_norm.default and id(args[2]) in self._gone:
            tensor, _, *vectors, eps = args
            kept = ~self._gone[id(args[2])]
            some = [None if vector is None else vector[kept] for vector in vectors]
            out, *statistics = func(tensor[..., kept], [int(kept.sum())], *some, eps)
            return torch.zeros_like(tensor).index_copy_(-1, kept.nonzero().flatten(), out), *statistics
        if func is aten.native_group_norm.default and id(args[1]) in self._gone and args[6] == 1:
            tensor, *vectors, batch, _, positions, groups, eps = args
            kept = ~self._gone[id(args[1])]
            some = [None if vector is None else vector[kept] for vector in vectors]
            sizes = (batch, int(kept.sum()), positions, groups, eps)
            out, *statistics = func(tensor[:, kept].contiguous(), *some, *sizes)
            return torch.zeros_like(tensor).index_copy_(1, kept.nonzero().flatten(), out), *statistics
        return func(*args, **(kwargs or {}))


def unseen(model: nn.Module, wiring: Wiring, removed: Tensor) -> AbstractContextManager[Any]:
    """The mode under which a masked dense network normalises over channels as the sliced one does."""
    gone = {  # whichever of them a normalisation multiplies with, in torch's modules or in a network's own
        id(parameter): torch.isin(wiring.classes[name][0], removed).to(parameter.device)
        for name, parameter in model.named_parameters()
        if parameter.dim() == 1
    }
    losing = {key: channels for key, channels in gone.items() if channels.any()}
    return Unseen(losing) if losing else nullcontext()


def examples(wiring: Wiring) -> list[Tensor]:
    """A random input, always the same one, in float64."""
    random = torch.Generator().manual_seed(0)
    return [torch.rand((BATCH, *shape), generator=random).double() for shape in wiring.input_shapes]


def _outputs(model: nn.Module, wiring: Wiring, removed: Tensor | None) -> list[Tensor]:
    """What a copy in float64 returns; one copy at a time, since a large network takes much memory."""
    double = in_double(model)
    seen: AbstractContextManager[Any] = nullcontext()
    if removed is not None:
        mask(double, wiring, removed)
        seen = unseen(double, wiring, removed)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), seen, InDouble():  # type: ignore[no-untyped-call]
            return output_tensors(double(*examples(wiring)))
    except GregError:
        raise
    except (Exception, SystemExit) as error:
        # The user's own network may do anything to numbers that it did not do to labels.
        raise CheckFailed(f"the self-check could not run in float64 ({first_line(error)})") from error


def _error(wanted: Tensor, got: Tensor) -> float:
    """The largest difference, relative to the largest value (absolute where that is 0)."""
    if wanted.shape != got.shape:
        return float("inf")
    if not wanted.is_floating_point() or not wanted.numel():
        return 0.0 if torch.equal(wanted, got) else float("inf")
    largest = wanted.abs().max().item() or 1.0
    return ((wanted - got).abs().max() / largest).nan_to_num(nan=float("inf")).item()
