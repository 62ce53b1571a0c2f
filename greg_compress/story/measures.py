"""What was measured: before and after, accuracies, latencies, and the checks. Nothing is computed but ratios of two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greg_compress.story.chains import Chain, Entry
from greg_compress.story.documents import File, Kind
from greg_compress.story.values import LONGEST, Told, entries, first, interval, number, numbers, text, under

TRAINING = ("train", "regularize", "finetune")
CUTS = ("prune",)
TIMED = (
    ("ms", "p50_ms"), ("ms", "p95_ms"), ("ms", "p99_ms"), ("ms", "min_ms"), ("ms", "mean_ms"), ("share", "cov"),
    ("count", "runs"), ("plain", "throughput"),
)  # fmt: skip
VARIANT = (("count", "size"), ("ms", "p50_ms"), ("ms", "p95_ms"), ("percent", "top1"))
TRAINED = (
    ("percent", "top1_before"), ("percent", "top1_after"), ("percent", "val_top1"), ("percent", "top5"),
    ("plain", "loss"), ("count", "iterations"),
)  # fmt: skip
EVALUATED = (
    ("percent", "top1_before"), ("percent", "top1"), ("percent", "val_top1"), ("percent", "top5"), ("plain", "loss"),
    ("count", "iterations"),
)  # fmt: skip
"""Columns: how a figure is written, and its key."""
Cell = tuple[str, float | int | None]
NAMES = {"latency": "this network", "baseline": "baseline"}


@dataclass(frozen=True)
class Pair:
    """One figure before and after."""

    what: str
    how: str
    """How it is written: see :mod:`.page`."""
    before: Told
    after: Told
    sure_before: tuple[float, float] | None = None
    sure_after: tuple[float, float] | None = None

    @property
    def times(self) -> float | None:
        """Before over after; None where one is not known, and of accuracies."""
        before, after = self.before.value, self.after.value
        return None if self.how == "percent" or not before or not after else before / after

    @property
    def sources(self) -> list[str]:
        return sorted({told.by for told in (self.before, self.after) if told})


@dataclass(frozen=True)
class Speedup:
    """How much faster, in measured time, beside the ratio of MACs."""

    measured: Told
    sure: tuple[float, float] | None
    macs: Told


@dataclass(frozen=True)
class Timed:
    """One file's timed runs."""

    name: str
    said: Mapping[str, Any]
    sure: tuple[float, float] | None
    quantiles: Sequence[float]

    @property
    def cells(self) -> list[Cell]:
        return _cells(self.said, TIMED)


@dataclass(frozen=True)
class Timing:
    """What one `greg export` timed in turn."""

    file: File
    rows: Sequence[Timed]

    @property
    def setting(self) -> list[tuple[str, str]]:
        """Machine, programs and method, in words."""
        said = {**under(self.file.said, "identity"), **under(self.file.said, "protocol")}
        return [(name.replace("_", " "), _words(value)) for name, value in said.items() if value is not None]

    @property
    def variants(self) -> list[Variant]:
        """The same network, and its baseline, in each precision that was measured."""
        return [
            Variant(
                "this network" if text(row, "network") == "exported" else text(row, "network") or "?",
                text(row, "precision") or "?",
                _cells(row, VARIANT),
            )
            for row in entries(self.file.said, "variants")
        ]


@dataclass(frozen=True)
class Variant:
    """One file in one precision."""

    name: str
    precision: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Row:
    """An accuracy of a command that trained or evaluated."""

    command: str
    said: Mapping[str, Any]
    by: str
    of: str | None = None

    @property
    def cells(self) -> list[Cell]:
        return _cells(self.said, EVALUATED if self.command == "evaluate" else TRAINED)


def _words(value: Any) -> str:
    many = value if isinstance(value, Mapping) else {}
    return ("; ".join(f"{name} {each}" for name, each in many.items()) if many else str(value))[:LONGEST]


def _cells(said: Any, columns: Sequence[tuple[str, str]]) -> list[Cell]:
    return [(how, number(said, key)) for how, key in columns]


def pairs(chain: Chain) -> list[Pair]:
    """Those of which at least one side is known."""
    exported = _leading(chain, Kind.EXPORTED)
    onnx = _leading(chain, Kind.ONNX)
    size_after = first(
        _of(exported, "size"), Told(onnx.size, onnx.name) if onnx else Told(), _small(chain, "onnx_size")
    )
    found = [
        Pair("Parameters", "count", *_cut(chain, "params")),
        Pair("MACs of one input", "count", *_cut(chain, "macs")),
        Pair("Parameters and buffers, bytes", "count", *_cut(chain, "size")),
        Pair(
            "ONNX file, bytes", "count", first(_of(exported, "baseline_size"), _dense(chain, "onnx_size")), size_after
        ),
        Pair("Top-1 of the test images", "percent", _top1_before(chain), _top1_after(chain)),
        Pair(
            "Latency, p50, ms",
            "ms",
            first(_of(exported, "baseline", "p50_ms"), _dense(chain, "p50_ms")),
            first(_of(exported, "latency", "p50_ms"), _small(chain, "p50_ms")),
            interval(exported and exported.said, "baseline", "p50_interval_ms"),
            interval(exported and exported.said, "latency", "p50_interval_ms"),
        ),
    ]
    return [pair for pair in found if pair.before or pair.after]


def speedup(chain: Chain) -> Speedup | None:
    """None where neither is known."""
    exported, compressed = (_leading(chain, kind) for kind in (Kind.EXPORTED, Kind.COMPRESSED))
    measured = first(_of(exported, "speedup"), _of(compressed, "speedup"))
    macs = first(_of(exported, "macs_speedup"), _of(compressed, "macs_speedup"))
    if not macs:
        before, after = _cut(chain, "macs")
        if before and after and after.value:
            macs = Told((before.value or 0) / after.value, after.by)
    sure = interval(exported and exported.said, "speedup_interval")
    return Speedup(measured, sure, macs) if measured or macs else None


def accuracies(chain: Chain) -> list[Row]:
    """Of every command that trained, in the chain's order, and of every evaluation."""
    by = chain.main.name if chain.main else ""
    rows = [Row(str(entry["command"]), under(entry, "metrics"), by) for entry in _trained(chain.history)]
    rows += [Row("training", file.said, file.name) for file in chain.of(Kind.TRAINED)]
    for file in chain.of(Kind.EVALUATED):
        rows.append(Row("evaluate", file.said, file.name, text(file.said, "made_by", "input", "model")))
    return rows


def timings(chain: Chain) -> list[Timing]:
    """Of each `greg export`."""
    found = []
    for file in chain.of(Kind.EXPORTED):
        rows = [
            Timed(name, file.said[key], interval(file.said, key, "p50_interval_ms"), _quantiles(file.said[key]))
            for key, name in NAMES.items()
            if number(file.said, key, "p50_ms") is not None
        ]
        if rows:
            found.append(Timing(file, rows))
    return found


def _quantiles(timed: Any) -> Sequence[float]:
    """Those that grow, as quantiles do."""
    found = numbers(timed, "quantiles_ms")
    return found if 2 <= len(found) <= 1001 and found == sorted(found) and found[0] > 0 else ()


def _leading(chain: Chain, kind: Kind) -> File | None:
    """The first of a kind that belongs to the run."""
    return next((file for file in chain.of(kind) if chain.connected(file)), None)


def _of(file: File | None, *keys: str) -> Told:
    return Told() if file is None else Told(number(file.said, *keys), file.name)


def _dense(chain: Chain, name: str) -> Told:
    return _of(_leading(chain, Kind.COMPRESSED), "dense", name)


def _small(chain: Chain, name: str) -> Told:
    return _of(_leading(chain, Kind.COMPRESSED), "pruned", name)


def _cut(chain: Chain, name: str) -> tuple[Told, Told]:
    """Before the first cut, and after the last one."""
    by = chain.main.name if chain.main else ""
    cuts = [entry for entry in chain.history if entry.get("command") in CUTS]
    before = Told(number(cuts[0], "metrics", name, "before"), by) if cuts else Told()
    after = Told(number(cuts[-1], "metrics", name, "after"), by) if cuts else Told()
    pruned, analyzed = (_leading(chain, kind) for kind in (Kind.PRUNED, Kind.ANALYZED))
    return (
        first(before, _of(pruned, name, "before"), _dense(chain, name), Told() if cuts else _of(analyzed, name)),
        first(after, _of(pruned, name, "after"), _small(chain, name)),
    )


def _trained(history: Sequence[Entry]) -> Iterator[Entry]:
    return (entry for entry in history if entry.get("command") in TRAINING and entry.get("metrics") is not None)


def _top1_before(chain: Chain) -> Told:
    """Of the dense network: as it was trained, or as the phase found it."""
    by = chain.main.name if chain.main else ""
    dense = Told()
    for entry in chain.history:
        if entry.get("command") == "train":
            dense = Told(number(entry, "metrics", "top1_after"), by)
        elif entry.get("command") in TRAINING:
            dense = first(dense, Told(number(entry, "metrics", "top1_before"), by))
        if entry.get("command") in ("regularize", *CUTS):
            break
    return first(dense, _dense(chain, "top1"))


def _top1_after(chain: Chain) -> Told:
    """Of the exported file in onnxruntime, or of the last training after the cut."""
    exported, onnx = (_leading(chain, kind) for kind in (Kind.EXPORTED, Kind.ONNX))
    found = _of(exported, "top1")
    made = {text(exported and exported.said, "identity", "sha256"), onnx and onnx.sha256} - {None}
    by = chain.main.name if chain.main else ""
    mains = {chain.main.sha256} if chain.main else set()
    for wanted in (made, mains):
        for file in chain.of(Kind.EVALUATED):
            if text(file.said, "made_by", "input", "sha256") in wanted:
                found = first(found, _of(file, "top1"))
    cut = False
    trained = Told()
    for entry in chain.history:
        if entry.get("command") in CUTS:
            cut, trained = True, Told()
        elif cut and entry.get("command") in TRAINING:
            trained = Told(number(entry, "metrics", "top1_after"), by)
    return first(found, trained, _small(chain, "top1"))
