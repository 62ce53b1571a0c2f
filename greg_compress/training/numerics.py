"""Device, precision, memory format and denormals."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import torch

from greg_compress.errors import RequestError
from greg_compress.options.training import Precision


def flush_denormals() -> None:
    """A growing penalty is a factory of denormal numbers, which processors handle a hundred times slower.

    Threads inherit the setting when they start, so this comes before the first parallel operation.
    """
    torch.set_flush_denormal(True)


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        RequestError: unknown, or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"--device {name} is not usable here ({str(error).splitlines()[0]})") from error
    return device


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """`auto` is bf16 where the processor has it in hardware."""
    if precision is not Precision.AUTO:
        return precision
    if device.type == "cuda":
        return Precision.BF16 if torch.cuda.is_bf16_supported() else Precision.FP32
    return Precision.BF16 if _cpu_has_bf16() else Precision.FP32


def _cpu_has_bf16() -> bool:
    """Linux names avx512_bf16 and amx_bf16 (x86) or bf16 (Arm) among the processor's flags."""
    try:
        return "bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


LOWER = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The context of a forward pass."""
    return torch.autocast(device.type, LOWER.get(precision, torch.bfloat16), enabled=precision in LOWER)
