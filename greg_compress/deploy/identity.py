"""What a latency belongs to: which file, which programs, which processor, which settings."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from greg_compress import __version__
from greg_compress.deploy import latency
from greg_compress.deploy.intervals import METHOD
from greg_compress.deploy.onnx_file import ALL, session, written_opset
from greg_compress.wiring.skeleton import Shapes

CPUINFO = Path("/proc/cpuinfo")


def identity(path: Path, baseline: Path | None, input_shapes: Shapes, threads: int, batch: int) -> dict[str, Any]:
    """Everything that another measurement must share before it is compared with this one."""
    runtime = session(path, threads)
    options = runtime.get_session_options()
    return {
        "sha256": digest(path),
        "baseline_sha256": None if baseline is None else digest(baseline),
        "opset": written_opset(path),
        "exporter": "torch.onnx, dynamo",
        "versions": {
            "greg": __version__,
            "torch": str(torch.__version__),
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
        "provider": runtime.get_providers()[0],
        "optimization": ALL,
        "intra_threads": options.intra_op_num_threads,
        "inter_threads": options.inter_op_num_threads,
        "spinning": "stops after each run",
        "denormals_as_zero": False,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "batch": batch,
        "input_shapes": [[batch, *shape] for shape in input_shapes],
        "dtypes": [re.sub(r"tensor\((\w+)\)", r"\1", entry.type) for entry in runtime.get_inputs()],
        "seed": latency.SEED,
    }


def protocol(timing: latency.Timing) -> dict[str, Any]:
    """How it was measured."""
    return {
        "turns": "interleaved",
        "clock": "perf_counter around session.run",
        "warm_runs": latency.WARM_RUNS,
        "warm_seconds": latency.WARM_SECONDS,
        "measurements": timing.measurements,
        "noisy_above": latency.NOISY,
        "intervals": METHOD,
        "seconds": timing.seconds,
    }


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def processor() -> str:
    """The processor's name as the system tells it, else its architecture."""
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return said.get("model name") or said.get("Model") or platform.processor() or platform.machine() or "unknown"
