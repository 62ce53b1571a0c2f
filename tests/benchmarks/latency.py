"""What fewer MACs are worth in measured time, as cut and with --align auto; and whether a target in time is met.

Usage: python tests/benchmarks/latency.py [ratios | targets]. One thread, batch 1; prints JSON lines. Everything is
typed as a user would; export times the pruned and the dense network in turn. Minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DIGITS = str(Path(__file__).parents[2] / "sample_models" / "digits_resnet20.pt")
RATIOS = {
    "torchvision:resnet50": "[0, 0.6, 0.6, 0.6, 0.21]",
    "torchvision:mobilenet_v2": "0.5",
    "torchvision:vgg16_bn": "0.5",
    "torchvision:efficientnet_b0": "0.5",
}
TARGETS = ("torchvision:resnet50", "torchvision:mobilenet_v3_large", DIGITS)


def greg(*words: str) -> Any:
    command = [sys.executable, "-m", "greg_compress", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout)


def exported(model: str, folder: str, *selection: str) -> dict[str, Any]:
    """Prune by a selection, export, and what the file takes beside the dense one."""
    pruned = greg("prune", model, *selection, "-o", f"{folder}/p.pt", "--force")
    if "error" in pruned:
        return pruned
    found = greg("export", f"{folder}/p.pt", "--baseline", model, "-o", f"{folder}/p.onnx", "--force", "--runs", "50")
    if "error" in found:
        return found
    target = pruned["target"] or {}
    return {
        "dense_ms": round(found["baseline"]["p50_ms"], 3),
        "pruned_ms": round(found["latency"]["p50_ms"], 3),
        "speedup": round(found["speedup"], 3),
        "macs_speedup": round(found["macs_speedup"], 3),
        **{key: target[key] for key in ("measurements", "noisy") if key in target},
    }


def ratios(folder: str) -> None:
    for model, text in RATIOS.items():
        for more in ((), ("--align", "auto")):
            row = exported(model, folder, "--ratios", text, *more)
            print(json.dumps({"model": model, "ratios": text, "align": "auto" if more else None, **row}), flush=True)


def targets(folder: str) -> None:
    for model in TARGETS:
        row = exported(model, folder, "--target-speedup", "2x")
        print(json.dumps({"model": Path(model).name, "target": "2x", **row}), flush=True)


with tempfile.TemporaryDirectory() as folder:
    for part in (ratios, targets):
        if part.__name__ in (sys.argv[1:] or ["ratios", "targets"]):
            part(folder)
