"""Export, the last step: what is reported can be trusted, and gates hold."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import greg_compress
from greg_compress.cli import app
from greg_compress.deploy import identity, intervals, latency, onnx_file
from greg_compress.deploy.alignment import alignment
from greg_compress.deploy.gates import verdicts
from greg_compress.deploy.intervals import Interval
from greg_compress.deploy.latency import Latency, Timing
from greg_compress.deploy.parity import compare
from greg_compress.errors import CheckFailed, RequestError
from greg_compress.export.checks import kept, said
from greg_compress.options.gates import Gates, parse_accuracy, parse_least_speedup, parse_size
from greg_compress.selection.amounts import parse_time
from greg_compress.sources.data import load_data
from greg_compress.sources.samples import Part
from greg_compress.sources.specs import DataSpec
from greg_compress.state import files
from greg_compress.state.models import Opened
from tests.conftest import DIGITS, ROOT, Ran

Greg = Callable[..., Ran]
NETWORK = """
from torch import nn
class Net(nn.Sequential):
    input_shape = (1, 8, 8)
    def __init__(self, width=16, size=8):
        super().__init__(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, width, 3), nn.ReLU(), nn.Conv2d(width, 16, 3), nn.Flatten(),
            nn.Linear(64, 10))
class Two(nn.Module):
    input_shape = ((1, 4, 4), (3,))
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 4), nn.Linear(3, 4)
    def forward(self, x, y):
        return self.a(x.flatten(1)) + self.b(y)
"""
GATES = ("--max-latency", "--min-speedup", "--max-size", "--min-top1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained network and one that was pruned to an odd width."""
    folder = tmp_path_factory.mktemp("states")
    (folder / "n.py").write_text(NETWORK)
    with contextlib.chdir(folder):
        for words in (
            "train --arch n.py:Net --data digits --iterations 60 -o s.pt",
            "prune s.pt --ratios 2=0.3 -o p.pt",
        ):
            assert CliRunner().invoke(app, words.split(), prog_name="greg").exit_code == 0
    return folder


@pytest.fixture
def states(made: Path, tmp_path: Path) -> Path:
    """The same where commands are typed, and an empty folder for outputs."""
    for path in made.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    (tmp_path / "out").mkdir()
    return tmp_path


def empty(folder: Path) -> bool:
    return list((folder / "out").iterdir()) == []


# What the times say


def noise(seed: int, files: int = 2, runs: int = 200) -> Any:
    return 1 + 0.1 * numpy.random.default_rng(seed).random((files, runs))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.001, 1000), runs=st.integers(20, 120))
def test_intervals_scale_with_the_times_and_hold_them(seed: int, factor: float, runs: int) -> None:
    times = noise(seed, runs=runs)
    (first, second), (same, ratio) = intervals.intervals(times)
    scaled, ratios = intervals.intervals(times * [[factor], [1.0]])
    assert first
    assert second
    assert ratio
    assert scaled[0] == pytest.approx((factor * first.low, factor * first.high))
    assert ratios[1] == pytest.approx((ratio.low / factor, ratio.high / factor))
    assert scaled[1] == second
    assert same == Interval(1.0, 1.0)
    assert times[0].min() <= first.low <= first.high <= times[0].max()


def test_an_interval_holds_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """With disturbances that last for several runs; as if runs were independent it would be too narrow."""

    def holds(seed: int) -> bool:
        random = numpy.random.default_rng(seed)
        drift = numpy.convolve(random.standard_normal(209), numpy.ones(10) / 10, "valid")  # its median is 0
        (found,), _ = intervals.intervals(1 + 0.01 * drift[None])
        return found is not None and found.low <= 1 <= found.high

    assert sum(map(holds, range(50))) >= 40
    monkeypatch.setattr(intervals, "BLOCKS", 200)
    assert sum(map(holds, range(50))) < 35


def test_turns_are_paired() -> None:
    """What slows a turn of both files cancels out of their ratio; shuffled, it does not."""
    times = numpy.repeat(1 + numpy.random.default_rng(0).exponential(1, (1, 200)), 2, axis=0) * [[1.0], [2.0]]
    width = []
    for each in (times, numpy.stack([times[0], numpy.random.default_rng(1).permutation(times[1])])):
        ratio = intervals.intervals(each)[1][1]
        assert ratio
        width.append(ratio.high - ratio.low)
    assert width[0] < 1e-12
    assert width[1] > 0.05


def test_few_runs_say_nothing_of_their_spread() -> None:
    assert intervals.intervals(noise(0, runs=19)) == ([None, None], [None, None])


class Scripted:
    """In place of a clock: one measurement after the other, as written."""

    def __init__(self, *measurements: Any) -> None:
        self.left = [numpy.asarray(each, dtype=float) for each in measurements]

    def __call__(self, *_: object) -> Scripted:
        return self

    def turns(self, runs: int) -> Any:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def spread(p50: float, share: float, runs: int = 200) -> list[float]:
    """Times with this p50, half of them below and half above it by a share."""
    return [p50 * (1 + share * (-1) ** run) for run in range(runs - 1)] + [p50]


def test_a_noisy_measurement_is_made_again_and_the_calmest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*shares: float) -> tuple[Timing, int]:
        script = Scripted(*([spread(1, share), spread(2, 0.001)] for share in shares))
        monkeypatch.setattr(latency, "_Bench", script)
        return latency.calmest([], (), 1, 200), len(script.left)

    quiet, left = timed(0.02, 0.5)
    assert (quiet.measurements, left, quiet.noisy) == (1, 1, False)
    once, _ = timed(0.5, 0.01)
    assert (once.measurements, once.noisy) == (2, False)
    never, _ = timed(0.5, 0.1, 0.3)
    assert (never.measurements, never.noisy) == (3, True)
    assert never.worst_cov == pytest.approx(0.1, rel=0.01)  # of the second
    assert never.latencies[1].noisy is False


def test_what_stays_noisy_spans_all_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two measurements can differ by more than either shows; a quiet one stands for itself."""
    load = [[spread(p50, 0.1), spread(2, 0.001)] for p50 in (1.0, 3.0, 2.0)]
    monkeypatch.setattr(latency, "_Bench", Scripted(*load))
    found = latency.calmest([], (), 1, 200)
    each = [intervals.intervals(numpy.asarray(times)) for times in load]
    (lows, highs), (least, most) = (
        zip(*(ends for one in each if (ends := one[part][part])), strict=True) for part in (0, 1)
    )
    assert found.latencies[0].p50_interval_ms == (min(lows), max(highs))
    assert found.ratios[1] == (min(least), max(most))
    assert max(highs) > 2.5 * min(lows)
    quiet = [spread(3.0, 0.01), spread(2, 0.001)]
    monkeypatch.setattr(latency, "_Bench", Scripted(load[0], quiet))
    assert (
        latency.calmest([], (), 1, 200).latencies[0].p50_interval_ms == intervals.intervals(numpy.asarray(quiet))[0][0]
    )


def test_figures_are_what_numpy_says(monkeypatch: pytest.MonkeyPatch) -> None:
    times = noise(3, files=1)
    monkeypatch.setattr(latency, "_Bench", Scripted(times))
    (found,) = latency.calmest([], (), 3, 200, batch=8).latencies
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == tuple(numpy.percentile(times, [50, 95, 99]))
    assert (found.min_ms, found.mean_ms) == (times.min(), times.mean())
    assert found.std_ms == times.std()
    assert found.cov == times.std() / times.mean()
    assert found.throughput == pytest.approx(8 / (times.mean() / 1000))
    assert (found.runs, found.threads, found.batch, found.noisy) == (200, 3, 8, True)
    monkeypatch.setattr(latency, "_Bench", Scripted(times[:, :99]))
    assert latency.calmest([], (), 3, 99).latencies[0].p99_ms is None


# Gates


def timing(p50: float, sure: Interval, ratio: Interval, noisy: bool) -> Timing:
    first = Latency(p50, p50, p50, 0.1 if noisy else 0.01, 200, 1, noisy, p50_interval_ms=sure)
    dense = Latency(2 * p50, 2 * p50, 2 * p50, 0.01, 200, 1, False, p50_interval_ms=sure)
    return Timing([first, dense], [Interval(1, 1), ratio], 3, 1.0)


@given(p50=st.floats(0.1, 10), low=st.floats(0.5, 1), high=st.floats(1, 2), limit=st.floats(0.05, 20))
def test_noise_never_passes_a_gate_by_luck(p50: float, low: float, high: float, limit: float) -> None:
    """Quiet, the p50 decides; noisy, the far end does, which is never kinder."""
    sure, ratio = Interval(low * p50, high * p50), Interval(2 * low, 2 * high)
    gates = Gates(max_latency=limit, min_speedup=limit)
    quiet, noisy = (verdicts(gates, timing(p50, sure, ratio, each), 1, None) for each in (False, True))
    assert [verdict.passed for verdict in quiet] == [p50 <= limit, limit <= 2.0]
    assert [verdict.passed for verdict in noisy] == [sure.high <= limit, limit <= ratio.low]
    assert all(a.passed >= b.passed for a, b in zip(quiet, noisy, strict=True))
    assert [verdict.measured for verdict in noisy] == [p50, 2.0]
    for before, after in zip(quiet, noisy, strict=True):
        assert ("noisy" in after.text) == (before.passed and not after.passed)


def test_no_gate_no_verdict_and_limits_are_inclusive() -> None:
    quiet = timing(1.0, Interval(0.9, 1.1), Interval(1.9, 2.1), False)
    assert verdicts(Gates(), quiet, 100, 90.0) == []
    at = verdicts(Gates(1.0, 2.0, 100, 90.0), quiet, 100, 90.0)
    assert [verdict.passed for verdict in at] == [True] * 4
    beyond = verdicts(Gates(0.999, 2.001, 99, 90.1), quiet, 100, 90.0)
    assert [verdict.passed for verdict in beyond] == [False] * 4
    assert [verdict.gate for verdict in beyond] == list(GATES)


@given(st.integers(1, 10**9))
def test_sizes_read_back(count: int) -> None:
    assert parse_size("--max-size", str(count)) == count
    for unit, scale in {"kB": 1000, "MB": 10**6, "MiB": 2**20, "GiB": 2**30, "KB": 1000, "B": 1}.items():
        assert parse_size("--max-size", f"{count % 10**5 + 1} {unit}") == (count % 10**5 + 1) * scale
    assert parse_size("--max-size", "1.5kB") == 1500


def test_other_limits_read_back() -> None:
    assert [parse_time("-", text) for text in ("12ms", "12", "0.5s", "800us")] == [12, 12, 500, 0.8]
    assert [parse_least_speedup("-", text) for text in ("2x", "1.5", "0.9")] == [2, 1.5, 0.9]
    assert [parse_accuracy("-", text) for text in ("90", "98.5%", "100")] == [90, 98.5, 100]


@pytest.mark.parametrize("text", ["", "nan", "-1", "0", "1e3", "inf", "two", "1,5", "9" * 40, "12 parsecs", "٣"])
def test_nonsense_limits_are_refused(text: str) -> None:
    for parse in (parse_time, parse_least_speedup, parse_size, parse_accuracy):
        if (parse, text) != (parse_time, "9" * 40):
            with pytest.raises(RequestError, match=r"^--gate .*: write "):
                parse("--gate", text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--min-speedup", "2"), "name it with --baseline"),
        (("--min-top1", "90"), "name them with --data"),
        (("--min-top1", "0.9", "--data", "digits"), "write percent, from 1 to 100"),
        (("--data", "digits"), "--data would have no effect without --min-top1, --int8 or --fp16"),
        (("--workers", "2"), "--workers would have no effect without --data"),
        (("--max-latency", "12 parsecs"), "--max-latency 12 parsecs: write a time, as 12ms"),
        (("--max-size", "small"), "--max-size small: write a size, as 2MB"),
        (("--min-speedup", "fast", "--baseline", "s.pt"), "write how many times faster"),
        (("--max-latency", "12", "--runs", "19"), "--max-latency cannot be decided on --runs 19; it takes 20 or more"),
        (("--batch", "0"), "--batch 0: it must be above 0"),
        (("--min-top1", "90", "--data", "fashion-mnist:."), None),
        (("--min-top1", "90", "--data", "n.py:Net"), None),
    ],
)
def test_gates_that_make_no_sense_leave_nothing(
    greg: Greg, states: Path, words: tuple[str, ...], said: str | None
) -> None:
    ran = greg("export", "s.pt", "-o", "out/o.onnx", *words)
    assert ran.code == (2 if said else 4)
    assert (said or "") in ran.error()
    assert ran.out == ""
    assert empty(states)


def test_data_of_another_shape_are_refused_before_anything_is_done(greg: Greg, states: Path) -> None:
    (states / "d.py").write_text(
        "import torch\ndef some():\n return [[(torch.zeros(3, 8, 8, dtype=torch.uint8), 1)] * 4] * 2\n"
    )
    ran = greg("export", "s.pt", "-o", "out/o.onnx", "--min-top1", "90", "--data", "d.py:some")
    assert ran.code == 2
    assert "has images of 3x8x8, but the network takes 1x8x8" in ran.error()
    assert "exporting" not in ran.err
    assert empty(states)


def test_all_gates_are_decided_and_all_failures_named(greg: Greg, states: Path) -> None:
    words = ("export", "p.pt", "--baseline", "s.pt", "--data", "digits", "-o", "out/o.onnx", "--runs", 40, "--json")
    limits = zip(GATES, ("1us", "900x", "1kB", "100"), strict=True)
    ran = greg(*words, *(word for pair in limits for word in pair))
    assert (ran.code, ran.json["passed"], ran.json["onnx"]) == (3, False, None)
    line = ran.error()
    assert all(gate in line for gate in GATES)
    assert line.endswith("; no file was left")
    assert [(gate["gate"], gate["passed"]) for gate in ran.json["gates"]] == [(gate, False) for gate in GATES]
    assert ran.json["reason"] in line
    assert empty(states)
    ran = greg("export", "p.pt", "-o", "out/o.onnx", "--max-latency", "9s", "--max-size", "1kB", "--json")
    assert ran.code == 3
    assert [gate["passed"] for gate in ran.json["gates"]] == [True, False]
    assert not any(gate in ran.error() for gate in GATES if gate != "--max-size")
    assert empty(states)


def test_onnxruntime_tells_nobody(tmp_path: Path) -> None:
    """Where its telemetry is on, it complains of a home in which it cannot keep the number of this device."""
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), "/proc/nothing")
    script = "import greg_compress.deploy.opening, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, **nowhere, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_what_passes_is_written_and_told_in_full(greg: Greg, states: Path) -> None:
    limits = ("--max-latency", "9s", "--max-size", "1MB", "--min-top1", "20", "--data", "digits")
    ran = greg(
        "export", "p.pt", "--baseline", "s.pt", "-o", "out/o.onnx", "--batch", 4, "--threads", 2, *limits, "--json"
    )
    assert ran.code == 0, ran.err
    told = ran.json
    content = (states / "out/o.onnx").read_bytes()
    at = told["identity"]
    assert at["sha256"] == hashlib.sha256(content).hexdigest()
    assert at["baseline_sha256"] not in (None, at["sha256"])
    assert (at["batch"], at["intra_threads"], at["inter_threads"], at["seed"]) == (4, 2, 1, 0)
    assert (at["input_shapes"], at["dtypes"]) == ([[4, 1, 8, 8]], ["float"])
    assert at["versions"]["onnxruntime"] == onnxruntime.__version__
    assert at["provider"] == "CPUExecutionProvider"
    assert (at["opset"], told["protocol"]["warm_runs"]) == (told["opset"], 10)
    low, high = told["speedup_interval"]
    assert 0 < low <= high
    for timed in (told["latency"], told["baseline"]):
        assert timed["min_ms"] <= timed["p50_ms"] <= timed["p95_ms"] <= timed["p99_ms"]
        assert timed["p50_interval_ms"][0] <= timed["p50_interval_ms"][1]
        assert (timed["batch"], timed["threads"], timed["runs"]) == (4, 2, 200)
    assert told["top1"] == greg("evaluate", "p.pt", "--data", "digits", "--json").json["top1"]
    assert told["alignment"]["convolutions"] == 2
    assert "for 2 keeps 11" in told["alignment"]["hint"]
    held = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    assert (held["greg.ratios"], held["greg.preprocessing"]) == ('{"2": 11}', "none")


def test_a_noisy_machine_is_said_and_decided_on_what_is_sure(
    greg: Greg, states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two thirds of the runs take 1 ms, the rest 3 ms, in long stretches.
    times = numpy.where(numpy.arange(200) % 100 < 51, 1.0, 3.0)
    monkeypatch.setattr(latency, "_Bench", Scripted([times]))
    words = ("export", "s.pt", "-o", "out/o.onnx")
    ran = greg(*words, "--max-latency", "2ms")
    assert ran.code == 3
    assert "warning: the timing is noisy" in ran.err
    assert "in the calmest of 3 measurements; the p50 lies between 1.000 and 3.000 ms" in ran.err
    assert "p50 is 1 ms, but the timing is noisy and it may be 3 ms, above --max-latency 2 ms" in ran.error()
    assert greg(*words, "--max-latency", "4ms").code == 0
    monkeypatch.setattr(latency, "_Bench", Scripted([spread(1.0, 0.001)]))
    quiet = greg(*words, "--force", "--max-latency", "1.01ms")
    assert quiet.code == 0
    assert "noisy" not in quiet.err + quiet.out


# The file


@pytest.fixture(scope="module")
def plain() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3), torch.nn.Flatten(), torch.nn.Linear(576, 10)).eval()


def test_parity_is_that_of_the_worst_level(
    plain: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx_file.write(plain, ((1, 8, 8),), path, None)
    found = compare(plain, onnx_file.runtimes(path), ((1, 8, 8),), 1e-5)
    assert found.passed
    assert {level: one.passed for level, one in found.levels.items()} == {"basic": True, "all": True}
    wrong = onnx.load(str(path))
    for held in wrong.graph.initializer:
        if (array := onnx.numpy_helper.to_array(held)).ndim == 4:
            held.CopyFrom(onnx.numpy_helper.from_array(array * 1.01, held.name))
    onnx.save(wrong, str(other))
    true = onnx_file.session
    for level in onnx_file.LEVELS:  # as if a kernel of this level alone were wrong
        monkeypatch.setattr(
            onnx_file,
            "session",
            lambda path, threads, level, wrong=level: true(other if level == wrong else path, 1, level),
        )
        found = compare(plain, onnx_file.runtimes(path), ((1, 8, 8),), 1e-5)
        assert not found.passed
        assert [name for name, one in found.levels.items() if not one.passed] == [level]
        assert found.max_rel_error == max(one.max_rel_error for one in found.levels.values()) > 1e-3


def test_levels_differ_in_what_runs(plain: torch.nn.Module, tmp_path: Path) -> None:
    """Else the two comparisons would be one."""
    onnx_file.write(plain, ((1, 8, 8),), tmp_path / "a.onnx", None)
    used = {level: onnx_file.session(tmp_path / "a.onnx", 1, level) for level in onnx_file.LEVELS}
    levels = {level: each.get_session_options().graph_optimization_level for level, each in used.items()}
    assert levels == onnx_file.LEVELS
    assert len(set(map(str, levels.values()))) == 2


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Error No Op registered for Frobnicate with domain_version of 18", "lacks the operator Frobnicate"),
        ("anything else\nof two lines", "cannot open the exported network"),
    ],
)
def test_a_runtime_that_cannot_run_it_is_said_in_one_line(
    greg: Greg, states: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    ran = greg("export", "s.pt", "-o", "out/o.onnx")
    assert ran.code == 3
    assert told in ran.error()
    assert empty(states)


def test_a_real_unknown_operator_is_named(plain: torch.nn.Module, tmp_path: Path) -> None:
    onnx_file.write(plain, ((1, 8, 8),), tmp_path / "a.onnx", None)
    model = onnx.load(str(tmp_path / "a.onnx"))
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, str(tmp_path / "a.onnx"))
    with pytest.raises(CheckFailed, match="lacks the operator Frobnicate"):
        onnx_file.session(tmp_path / "a.onnx", 1)


@settings(max_examples=20, deadline=None)
@given(widths=st.lists(st.integers(1, 70), min_size=2, max_size=5), groups=st.sampled_from([1, 2]))
def test_alignment_counts_input_channels(
    tmp_path_factory: pytest.TempPathFactory, widths: list[int], groups: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.onnx"
    nodes, held = [], []
    for number, (read, made) in enumerate(itertools.pairwise(widths)):
        shape = [made * groups, read, 1, 1]
        held.append(onnx.numpy_helper.from_array(numpy.zeros(shape, numpy.float32), f"w{number}"))
        nodes.append(onnx.helper.make_node("Conv", [f"x{number}", f"w{number}"], [f"x{number + 1}"], group=groups))
    graph = onnx.helper.make_graph(nodes, "g", [], [], held)
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    read = [groups * width for width in widths[:-1] if groups * width >= 8]
    found = alignment(path, {})
    assert (found["convolutions"], found["hint"]) == (len(read), None)
    for multiple in (4, 8, 16):
        share = sum(width % multiple == 0 for width in read) / len(read) if read else None
        assert found[f"multiple_of_{multiple}"] == share
    odd = any(width % 4 for width in read)
    assert (alignment(path, {"a": (13, 32)})["hint"] is not None) == odd
    for spared in ({"a": (12, 32)}, {"a": (13, 13)}):  # aligned, or as it always was
        assert alignment(path, spared)["hint"] is None


def test_the_processor_has_a_name_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity.processor()
    for text, name in (("model name\t: Fast 3000\n", "Fast 3000"), ("Model\t\t: Raspberry Pi 4\n", "Raspberry Pi 4")):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(identity, "CPUINFO", tmp_path / "cpuinfo")
        assert identity.processor() == name
    monkeypatch.setattr(identity, "CPUINFO", tmp_path / "none")
    assert identity.processor()


def test_a_file_with_preprocessing_takes_bytes_and_gives_the_same(greg: Greg, states: Path) -> None:
    words = ("--with-preprocessing", "--runs", 3, "--json")
    told = greg("export", "s.pt", "--baseline", "s.pt", "-o", "out/o.onnx", *words).json
    assert (told["preprocessing"], told["identity"]["dtypes"], told["parity"]["passed"]) == (
        "normalize",
        ["uint8"],
        True,
    )
    assert {entry.key: entry.value for entry in onnx.load(str(states / "out/o.onnx")).metadata_props}[
        "greg.preprocessing"
    ] == "normalize"
    runtime = onnxruntime.InferenceSession(str(states / "out/o.onnx"), providers=["CPUExecutionProvider"])
    images = cast(Part, load_data(DataSpec("digits", None)).test).images
    (got,) = runtime.run(None, {"input": images.numpy()})
    network = greg_compress.load(states / "s.pt", arch=f"{states / 'n.py'}:Net")
    normalised = (images.double() / 16 - 0.3058) / 0.3764
    with torch.no_grad():
        wanted, bare = network(normalised.float()), network(images.float())
    scale = float(wanted.abs().max())
    assert numpy.abs(got - wanted.numpy()).max() < 1e-5 * scale
    assert numpy.abs(got - bare.numpy()).max() > 0.1 * scale
    state, file = (greg("evaluate", each, "--data", "digits", "--json").json for each in ("s.pt", "out/o.onnx"))
    assert file["top1"] == state["top1"]


def test_what_is_still_to_be_cut_is_not_said_to_be() -> None:
    state, digest = files.load(DIGITS)
    state.plan, state.shapes = {"stem": {"channels": 16, "kept": 8}}, {}
    opened = Opened(torch.nn.Identity(), state, digest)
    assert (kept(opened), json.loads(said(opened, None)["greg.ratios"])) == ({}, {})
    state.shapes = {"stem.weight": [8, 1, 3, 3]}
    assert (kept(opened), json.loads(said(opened, None)["greg.ratios"])) == ({"stem": (8, 16)}, {"stem": 8})


@pytest.mark.parametrize("precision", ["--int8", "--fp16"])
def test_preprocessing_goes_with_other_precisions(greg: Greg, states: Path, precision: str) -> None:
    words = ("--with-preprocessing", precision, "--data", "digits", "--min-top1", "20", "--runs", 3, "--json")
    ran = greg("export", "s.pt", "-o", "out/o.onnx", *words)
    assert ran.code == 0, ran.err
    assert ran.json["identity"]["dtypes"] == ["uint8"]
    top1 = {row["precision"]: row["top1"] for row in ran.json["variants"]}
    assert ran.json["top1"] == top1[precision[2:]] == pytest.approx(top1["fp32"], abs=3)
    assert greg("evaluate", "out/o.onnx", "--data", "digits", "--json").json["top1"] == ran.json["top1"]


def test_parity_sees_a_wrong_normalisation(greg: Greg, states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch normalises as in training, not by the file's own constants."""
    from greg_compress.deploy import preprocessing

    true = preprocessing.Preprocessed.__init__

    def wrong(self: Any, network: Any, normalization: Any) -> None:
        true(self, network, normalization)
        self.shift += 0.01

    monkeypatch.setattr(preprocessing.Preprocessed, "__init__", wrong)
    ran = greg("export", "s.pt", "-o", "out/o.onnx", "--with-preprocessing")
    assert ran.code == 3
    assert "more than --tolerance" in ran.error()
    assert empty(states)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("n.py:Net", "--with-preprocessing: n.py:Net does not say how its images are normalised"),
        ("n.py:Two", "takes 2 inputs, not one image"),
        ("idle.pt", "--with-preprocessing would have no effect"),
    ],
)
def test_preprocessing_that_nobody_knows_is_refused(greg: Greg, states: Path, model: str, said: str) -> None:
    data = torch.load(states / "s.pt", weights_only=True)
    torch.save({**data, "normalization": {"scale": 1.0, "mean": [0.0], "std": [1.0]}}, states / "idle.pt")
    ran = greg("export", model, "-o", "out/o.onnx", "--with-preprocessing")
    assert ran.code == 2
    assert said in ran.error()
    assert empty(states)


def test_people_read_the_same(greg: Greg, states: Path) -> None:
    ran = greg("export", "p.pt", "--baseline", "s.pt", "-o", "out/o.onnx", "--max-size", "1MB", "--with-preprocessing")
    assert ran.code == 0, ran.err
    size = (states / "out/o.onnx").stat().st_size
    assert f"the file has {size:,} bytes, within --max-size 1,000,000 bytes" in ran.out
    for words in ("p50", "p99", "takes pixels as bytes", "no multiple of 4", "samples a second", "graph optimisations"):
        assert words in ran.out
    assert re.search(r"measured speedup [0-9.]+x \([0-9.]+x to [0-9.]+x\); 1\.[0-9]+x fewer MACs", ran.out)
