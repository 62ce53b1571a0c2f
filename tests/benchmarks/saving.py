"""How long a save of OUT.partial holds the training loop: in a thread beside it, and the plain way, at once.

Usage: python tests/benchmarks/saving.py [torchvision name] [batch size] [cpu or cuda]. The state is a real one:
weights, momentum and a log. Also how much a step slows down while the file is being written.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torchvision

from greg_compress.long_run.saver import Saver, is_finite
from greg_compress.sources.specs import Architecture
from greg_compress.state import files
from greg_compress.state.format import State
from greg_compress.state.models import weights_of

ROUNDS, STEPS = 5, 8
name = sys.argv[1] if sys.argv[1:] else "resnet50"
size = int(sys.argv[2]) if sys.argv[2:] else 8
device = torch.device(sys.argv[3] if sys.argv[3:] else "cpu")
model = torchvision.models.get_model(name).to(device, memory_format=torch.channels_last)
images = torch.randn(size, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
labels = torch.randint(0, 1000, (size,), device=device)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
dense = State("dense", Architecture(f"torchvision:{name}"), ((3, 224, 224),), {})


def step() -> None:
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()


def state(weights: dict[str, torch.Tensor]) -> State:
    run = {"loop": {"optimizer": optimizer.state_dict(), "log": [{"loss": 1.0}] * 90}}
    return replace(dense, weights=weights, run=run)


def plain(path: Path) -> None:
    """As greg saved until now."""
    weights = weights_of(model)
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    files.save(state(weights), path, replace=True)


def beside(saver: Saver) -> None:
    weights = weights_of(model, copies=True)
    assert all(map(is_finite, weights.values()))
    saver.save(state(weights))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, Saver(Path(folder, "o.pt")) as saver:
    step()
    beside(saver)
    saver.wait()
    alone = statistics.median(seconds(step) for _ in range(STEPS))
    held, before, slowed, writing = [], [], [], []
    for _ in range(ROUNDS):
        before.append(seconds(lambda: plain(Path(folder, "plain.pt"))))
        held.append(seconds(lambda: beside(saver)))
        start = time.perf_counter()
        assert saver._writing is not None
        while saver._writing.is_alive():
            taken = seconds(step)
            if saver._writing.is_alive() or not slowed:  # a step within the write, or the first of all
                slowed.append(taken)
        writing.append(time.perf_counter() - start)
    megabytes = Path(folder, "o.pt").stat().st_size / 1e6
    old, new, busy = (statistics.median(times) for times in (before, held, slowed))
    print(f"{name}, {device}, batch {size}: OUT.partial has {megabytes:.0f} MB, a step takes {1e3 * alone:.0f} ms")
    print(f"at once: held for {1e3 * old:.0f} ms, {old / alone:.0%} of a step")
    print(f"beside the loop: held for {1e3 * new:.0f} ms, {new / alone:.0%} of a step")
    print(f"while it writes ({1e3 * statistics.median(writing):.0f} ms): a step takes {busy / alone:.2f} times as long")
