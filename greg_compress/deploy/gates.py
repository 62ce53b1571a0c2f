"""Whether an exported file keeps to its gates.

A quiet measurement is decided by its p50. A noisy one may not pass by luck: the far end of its interval decides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from greg_compress.deploy.latency import Timing
from greg_compress.options.gates import Gates


@dataclass(frozen=True)
class Verdict:
    """One gate."""

    gate: str
    limit: float
    measured: float
    decided_on: float
    """What was held against the limit: as measured, or the far end of a noisy measurement's interval."""
    passed: bool
    text: str
    """The same in words."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def verdicts(gates: Gates, timing: Timing | None, size: int, top1: float | None) -> list[Verdict]:
    """Decide every gate that was set.

    Args:
        timing: of the exported file and its baseline, if there is one; None for what nothing here can time.
        size: bytes of the file.
        top1: percent; None where nobody asked.
    """
    found = []
    if gates.max_latency is not None and timing is not None:
        first = timing.latencies[0]
        sure = first.p50_interval_ms.high if first.noisy and first.p50_interval_ms else first.p50_ms
        found.append(_verdict("--max-latency", gates.max_latency, first.p50_ms, sure, "p50 is", "{:.4g} ms"))
    if gates.min_speedup is not None and timing is not None:
        both, ratio = timing.latencies[:2], timing.ratios[1]
        sure = ratio.low if any(each.noisy for each in both) and ratio else timing.speedup(1)
        found.append(_verdict("--min-speedup", gates.min_speedup, timing.speedup(1), sure, "the speedup is", "{:.4g}x"))
    if gates.max_size is not None:
        found.append(_verdict("--max-size", gates.max_size, size, size, "the file has", "{:,} bytes"))
    if gates.min_top1 is not None and top1 is not None:
        found.append(_verdict("--min-top1", gates.min_top1, top1, top1, "top-1 is", "{:.4g}%"))
    return found


def _verdict(gate: str, limit: float, measured: float, decided_on: float, said: str, unit: str) -> Verdict:
    largest = gate.startswith("--max")

    def within(value: float) -> bool:
        return value <= limit if largest else value >= limit

    passed = within(decided_on)
    doubt = f", but the timing is noisy and it may be {unit.format(decided_on)}" if within(measured) > passed else ""
    side = "within" if passed else "above" if largest else "below"
    text = f"{said} {unit.format(measured)}{doubt}, {side} {gate} {unit.format(limit)}"
    return Verdict(gate, limit, measured, decided_on, passed, text)
