"""Measured latency in onnxruntime: files in turn, warm, and how far the figures can be trusted.

Files take turns run by run, so that a machine that slows down slows all of them, and a turn of one belongs to a turn
of the other. Before that each is warmed, by time and by count. A noisy measurement is made again, at most twice, and
the calmest counts. What is still noisy is said to be, and its intervals span those of all that were made: on a busy
machine two measurements can differ by more than either of them shows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy

from greg_compress.deploy.intervals import Interval, spans
from greg_compress.deploy.onnx_file import session
from greg_compress.wiring.skeleton import Shapes

WARM_RUNS = 10
WARM_SECONDS = 0.5
SEED = 0
"""Of the random inputs."""
NOISY = 0.025
"""A coefficient of variation above this says that the machine was busy with other things."""
MEASUREMENTS = 3
"""At most, while they are noisy."""
QUANTILES = 41
"""How many of them tell a distribution: every 2.5 %, from the least to the greatest."""
FEWEST_FOR_P99 = 100
"""Below that it is no more than the slowest run."""
Times = numpy.ndarray[Any, numpy.dtype[numpy.float64]]
"""Milliseconds, (files, runs)."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one run of a batch."""

    p50_ms: float
    p95_ms: float
    mean_ms: float
    cov: float
    """Coefficient of variation: standard deviation over mean."""
    runs: int
    threads: int
    noisy: bool
    batch: int = 1
    p99_ms: float | None = None
    """None of fewer than 100 runs."""
    min_ms: float | None = None
    std_ms: float | None = None
    throughput: float | None = None
    """Samples in a second."""
    p50_interval_ms: Interval | None = None
    """Of 95 % confidence, see :mod:`.intervals`; None of fewer than 20 runs."""
    quantiles_ms: tuple[float, ...] = ()
    """:data:`QUANTILES` of them, however many runs there were."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Timing:
    """Several files, timed in turn."""

    latencies: list[Latency]
    ratios: list[Interval | None]
    """How many times longer each file took than the first, as an interval; None of fewer than 20 runs."""
    measurements: int
    """How many were made; this is the calmest."""
    seconds: float
    """That all of them took."""

    @property
    def noisy(self) -> bool:
        return any(latency.noisy for latency in self.latencies)

    @property
    def worst_cov(self) -> float:
        return max(latency.cov for latency in self.latencies)

    def speedup(self, other: int) -> float:
        """p50 of another file over that of the first."""
        return self.latencies[other].p50_ms / self.latencies[0].p50_ms

    def caveat(self, compared: bool) -> str:
        """Of a noisy timing, what can be claimed all the same.

        Args:
            compared: whether the second file's time over the first's is of interest.
        """
        claim = ""
        if (sure := self.latencies[0].p50_interval_ms) is not None:
            claim += f"; the p50 lies between {sure.low:.3f} and {sure.high:.3f} ms"
        if compared and (ratio := self.ratios[1]) is not None:
            claim += f", the speedup between {ratio.low:.2f}x and {ratio.high:.2f}x"
        return (
            f"the timing is noisy: variation {self.worst_cov:.1%}, more than {NOISY:.1%}, in the calmest of"
            f" {self.measurements} measurements{claim}"
        )


def calmest(paths: Sequence[Path], input_shapes: Shapes, threads: int, runs: int, batch: int = 1) -> Timing:
    """Time each file `runs` times in turn, up to three times while it is noisy.

    What counts is the measurement with the least variation, with its intervals.

    Raises:
        CheckFailed: this onnxruntime cannot run one of the files.
    """
    started = time.perf_counter()
    bench = _Bench(paths, input_shapes, threads, batch)
    made = [bench.turns(runs)]
    while len(made) < MEASUREMENTS and min(map(_worst_cov, made)) > NOISY:
        made.append(bench.turns(runs))
    best = min(made, key=_worst_cov)
    medians, ratios = spans(made if _worst_cov(best) > NOISY else [best])
    found = [_summary(row, threads, batch, sure) for row, sure in zip(best, medians, strict=True)]
    return Timing(found, ratios, len(made), time.perf_counter() - started)


class _Bench:
    """Files that are open and warm, each with its input."""

    def __init__(self, paths: Sequence[Path], input_shapes: Shapes, threads: int, batch: int) -> None:
        self._sessions = [session(path, threads) for path in paths]
        self._feeds = [
            {
                entry.name: _random_input(entry.type, (batch, *shape))
                for entry, shape in zip(runtime.get_inputs(), input_shapes, strict=True)
            }
            for runtime in self._sessions
        ]
        for runtime, feed in zip(self._sessions, self._feeds, strict=True):
            start, count = time.perf_counter(), 0
            while count < WARM_RUNS or time.perf_counter() - start < WARM_SECONDS:
                runtime.run(None, feed)
                count += 1

    def turns(self, runs: int) -> Times:
        times = numpy.empty((len(self._sessions), runs))
        for turn in range(runs):
            for index, (runtime, feed) in enumerate(zip(self._sessions, self._feeds, strict=True)):
                start = time.perf_counter()
                runtime.run(None, feed)
                times[index, turn] = 1000 * (time.perf_counter() - start)
        return times


def _random_input(kind: str, shape: tuple[int, ...]) -> numpy.ndarray[Any, Any]:
    """Standard normal numbers, or bytes of any brightness for a file that takes bytes; always the same."""
    random = numpy.random.default_rng(SEED)
    if kind == "tensor(uint8)":
        return random.integers(0, 256, shape, dtype=numpy.uint8)
    return random.standard_normal(shape, dtype=numpy.float32)


def _cov(times: Times) -> float:
    return float(times.std() / times.mean())


def _worst_cov(times: Times) -> float:
    return max(_cov(row) for row in times)


def _summary(times: Times, threads: int, batch: int, sure: Interval | None) -> Latency:
    p50, p95, p99 = (float(value) for value in numpy.percentile(times, [50, 95, 99]))
    mean, cov = float(times.mean()), _cov(times)
    return Latency(
        p50, p95, mean, cov, len(times), threads, cov > NOISY, batch,
        p99 if len(times) >= FEWEST_FOR_P99 else None,
        float(times.min()), float(times.std()), 1000 * batch / mean, sure,
        tuple(map(float, numpy.percentile(times, numpy.linspace(0, 100, QUANTILES)))),
    )  # fmt: skip
