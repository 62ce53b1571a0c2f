"""How fast `greg regularize` trains, against the loop that everyone writes; and what each of its means gives.

    python tests/benchmarks/loop.py            # iterations per second, about 3 minutes
    python tests/benchmarks/loop.py --curves   # and the loss curves of bfloat16 and float32, 4 minutes more

resnet56 on 32x32x3 images at batch 128. Everyone's loop: a DataLoader of PIL images with two workers, random crop and
flip by torchvision, float32, contiguous memory. Rounds of all variants take turns, so that what else the machine does
hits all alike; figures are medians. On all cores: leave OMP_NUM_THREADS alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parents[2]))

from greg_compress.options.penalty import Penalize, PenaltyOptions
from greg_compress.options.training import Precision
from greg_compress.penalty.growing import GrowingPenalty
from greg_compress.penalty.schedule import resolve_schedule
from greg_compress.penalty.targets import Units
from greg_compress.selection.choose import by_l1
from greg_compress.selection.plan import Plan, Share
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Part
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.training.batches import Batches
from greg_compress.training.loop import Loop, Settings
from greg_compress.training.numerics import flush_denormals, keep_freed_memory
from greg_compress.training.schedule import Schedule
from sample_models.resnet_cifar import resnet56

BATCH, IMAGES = 128, 12_800
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CPU = torch.device("cpu")


def images() -> Part:
    """Classes that can be told apart: each has a pattern of its own under noise."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (IMAGES,), generator=random)
    patterns = torch.randint(0, 256, (10, 3, 8, 8), generator=random).float()
    clean = F.interpolate(patterns, 32, mode="bilinear")[labels]
    noisy = clean + 60 * torch.randn(clean.shape, generator=random)
    return Part(noisy.clamp(0, 255).to(torch.uint8), labels, padding=4, flips=True)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """What torchvision.datasets.CIFAR10 does: arrays in memory, made PIL images one by one."""

    def __init__(self, part: Part) -> None:
        from PIL import Image

        self._image = Image.fromarray
        self._pixels = part.images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = part.labels.tolist()
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(self._image(self._pixels[index])), self._labels[index]


def everyones(part: Part) -> Iterator[None]:
    """The loop of tutorials."""
    torch.manual_seed(0)
    model = resnet56()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(Pictures(part), BATCH, shuffle=True, num_workers=2, drop_last=True)
    criterion = nn.CrossEntropyLoss()
    model.train()
    while True:
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            loss.item()
            yield


def gregs(
    part: Part, precision: Precision, memory_format: torch.memory_format = torch.channels_last,
    fused: bool = True, compiled: bool = False, seed: int = 0, losses: list[float] | None = None,
) -> Iterator[None]:  # fmt: skip
    """The loop of `greg regularize`, penalty included; some of its means may be left out."""
    torch.manual_seed(seed)
    model = resnet56()
    wiring = prunable_wiring(model, ((3, 32, 32),))
    free = [group for group in wiring.groups if group.name.endswith("conv1") and "layer" in group.name]
    plan = by_l1(model, wiring, Plan({g.name: Share(g.channels, g.channels // 2) for g in free}))
    model.to(memory_format=memory_format)
    units = Units(model, wiring, Penalize.UNIT)
    growth = resolve_schedule(PenaltyOptions(), IMAGES // BATCH, 5e-4)
    penalty = GrowingPenalty(growth, units.picked_by(plan, recover=False))
    batches = Batches(part, Normalization(1 / 255, MEAN, STD), BATCH, seed)
    settings = Settings(0.9, 5e-4, precision, CPU, seed, compiled=compiled)
    loop = Loop(model, batches, Schedule(0.01, 10**6), settings, penalty)
    if not fused:
        loop.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for _ in loop:
        if losses is not None:
            losses.append(loop.recent().loss)
        yield


VARIANTS: dict[str, dict[str, Any]] = {
    "everyone's loop": {},
    "greg, bf16": {"precision": Precision.BF16},
    "greg, fp32": {"precision": Precision.FP32},
    "bf16, freed memory given back": {"precision": Precision.BF16, "keep": False},
    "bf16, contiguous": {"precision": Precision.BF16, "memory_format": torch.contiguous_format},
    "bf16, plain SGD": {"precision": Precision.BF16, "fused": False},
    "fp32, contiguous": {"precision": Precision.FP32, "memory_format": torch.contiguous_format},
}
COMPILED: dict[str, dict[str, Any]] = {
    "bf16, --compile": {"precision": Precision.BF16, "compiled": True},
    "fp32, --compile": {"precision": Precision.FP32, "compiled": True},
}


def work(connection: Connection, options: dict[str, Any]) -> None:
    """One variant in a process of its own: on every message so many steps, answered by the seconds of one."""
    if options:
        flush_denormals()
        if options.pop("keep", True):
            keep_freed_memory()
    loop = gregs(images(), **options) if options else everyones(images())
    for steps in iter(connection.recv, None):
        begun = time.perf_counter()
        for _ in range(steps):
            next(loop)
        connection.send((time.perf_counter() - begun) / steps)


def timed(variants: dict[str, dict[str, Any]], rounds: int, steps: int) -> dict[str, float]:
    """Median seconds of a step of each, in turns."""
    context = multiprocessing.get_context("spawn")
    ends = {}
    for name, options in variants.items():
        ends[name], other = context.Pipe()
        context.Process(target=work, args=(other, dict(options))).start()
    found: dict[str, list[float]] = {name: [] for name in ends}
    for number in range(rounds + 1):
        for name, end in ends.items():
            end.send(steps)
            seconds = end.recv()
            if number:  # the first round warms up
                found[name].append(seconds)
    for end in ends.values():
        end.send(None)
    return {name: statistics.median(times) for name, times in found.items()}


def curves(part: Part, steps: int, seeds: int) -> None:
    """Mean loss of every 50 iterations in bfloat16 and float32, the same seeds; noise is what another seed changes."""
    found: dict[str, list[list[float]]] = {}
    for precision in (Precision.BF16, Precision.FP32):
        for seed in range(seeds):
            losses: list[float] = []
            for number, _ in enumerate(gregs(part, precision, seed=seed, losses=losses), start=1):
                if number == steps:
                    break
            found.setdefault(precision, []).append([statistics.mean(losses[i : i + 50]) for i in range(0, steps, 50)])
    print("\niterations   bf16 (each seed)        fp32 (each seed)")
    apart, between = [], []
    for number, row in enumerate(zip(*found[Precision.BF16], *found[Precision.FP32], strict=True)):
        bf16, fp32 = row[:seeds], row[seeds:]
        apart.append(abs(statistics.mean(bf16) - statistics.mean(fp32)))
        between.append(max(fp32) - min(fp32))
        print(f"{50 * number + 50:10}   " + "   ".join(f"{loss:.4f}" for loss in row))
    mean, noise = statistics.mean(apart), statistics.mean(between)
    print(f"mean distance of the two precisions {mean:.4f}, of two seeds in float32 {noise:.4f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", action="store_true")
    parser.add_argument("--compile", action="store_true", help="with the compiled variants (needs a C++ compiler)")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    found = timed(VARIANTS | (COMPILED if arguments.compile else {}), arguments.rounds, 16)
    whole = found["everyone's loop"]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, seconds in found.items():
        print(f"{name:30} {1 / seconds:6.2f} it/s   {whole / seconds:5.2f}x")
    if arguments.curves:
        flush_denormals()
        curves(images(), 200, 2)
    fast = whole / found["greg, bf16"] >= 3 and whole / found["greg, fp32"] >= 1.3
    return 0 if fast else 1


if __name__ == "__main__":
    sys.exit(main())
