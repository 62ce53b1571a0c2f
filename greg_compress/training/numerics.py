"""Device, precision, memory format and denormals."""

from __future__ import annotations

import contextlib
import ctypes
import os
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from greg_compress.errors import RequestError
from greg_compress.options.training import Precision

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def flush_denormals() -> None:
    """A growing penalty is a factory of denormal numbers, which processors handle a hundred times slower.

    Threads inherit the setting when they start, so this comes before the first parallel operation.
    """
    torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees, instead of giving it back and fetching it page by page in the next step.

    It is a tenth of a step of resnet56 on two cores. Elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that it takes
        set_option(M_TRIM_THRESHOLD, 2**31 - 1)


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


def configure_cuda(device: torch.device, *, tf32: bool, deterministic: bool) -> None:
    """How CUDA computes: quickly, by default, and in float32 as it says.

    Called before the first operation on the device, which reads the environment.

    Raises:
        RequestError: on the CPU, which repeats bit for bit as it is and has no TensorFloat-32.
    """
    if device.type != "cuda":
        for name, wanted in {"tf32": tf32, "deterministic": deterministic}.items():
            if wanted:
                raise RequestError(f"--{name} would have no effect on the CPU")
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


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
