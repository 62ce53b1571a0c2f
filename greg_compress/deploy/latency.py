"""Measured latency in onnxruntime: files in turn, warm, one sample at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy

from greg_compress.deploy.onnx_file import session
from greg_compress.wiring.skeleton import Shapes

WARM_RUNS = 10
WARM_SECONDS = 0.5
NOISY = 0.025
"""A coefficient of variation above this says that the machine was busy with other things."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one sample."""

    p50_ms: float
    p95_ms: float
    mean_ms: float
    cov: float
    """Coefficient of variation: standard deviation over mean."""
    runs: int
    threads: int
    noisy: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(paths: Sequence[Path], input_shapes: Shapes, threads: int, runs: int, batch: int = 1) -> list[Latency]:
    """Time each file `runs` times, taking turns, so that a machine that slows down slows all of them."""
    sessions = [session(path, threads) for path in paths]
    random = numpy.random.default_rng(0)
    samples = [random.standard_normal((batch, *shape), dtype=numpy.float32) for shape in input_shapes]
    names = [[entry.name for entry in runtime.get_inputs()] for runtime in sessions]
    feeds = [dict(zip(each, samples, strict=True)) for each in names]
    for runtime, feed in zip(sessions, feeds, strict=True):
        start, count = time.perf_counter(), 0
        while count < WARM_RUNS or time.perf_counter() - start < WARM_SECONDS:
            runtime.run(None, feed)
            count += 1
    times = numpy.empty((len(sessions), runs))
    for turn in range(runs):
        for index, (runtime, feed) in enumerate(zip(sessions, feeds, strict=True)):
            start = time.perf_counter()
            runtime.run(None, feed)
            times[index, turn] = 1000 * (time.perf_counter() - start)
    return [_summary(row, threads) for row in times]


def _summary(times: numpy.ndarray[Any, numpy.dtype[numpy.float64]], threads: int) -> Latency:
    p50, p95 = numpy.percentile(times, [50, 95])
    mean = float(times.mean())
    cov = float(times.std()) / mean
    return Latency(float(p50), float(p95), mean, cov, len(times), threads, cov > NOISY)
