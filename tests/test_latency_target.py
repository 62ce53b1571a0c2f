"""A target in measured time: on a machine that is simulated, since a real one never measures the same twice."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from greg_compress.deploy import latency
from greg_compress.deploy.latency import Latency, Timing
from greg_compress.latency_target import reach, timetable
from greg_compress.latency_target.layers import Call, Channels, Form, calls_of
from greg_compress.latency_target.predict import Prediction
from greg_compress.latency_target.probes import time_forms
from greg_compress.latency_target.reach import Goal
from greg_compress.latency_target.search import Search
from greg_compress.latency_target.surface import BLOCK, Surface, points, widths
from greg_compress.latency_target.timetable import Timetable
from greg_compress.reporting import Reporter
from greg_compress.surgery.cut import cut
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import find_groups
from tests.conftest import DIGITS, Ran
from tests.zoo import ZOO, inputs_of

CALL, REST, SPEED, BLOCKS = 0.002, 1e-6, 1e-6, 8
"""Milliseconds: of a call, of an element that a layer makes, of a multiply-add. BLOCKS: channels that come together."""


def blocked(channels: int) -> int:
    return BLOCKS * ceil(channels / BLOCKS)


def layer_ms(form: Form) -> float:
    """What the simulated machine takes for a layer."""
    if form.groups > 1:
        return CALL + SPEED * form.makes * prod(form.kernel) * prod(form.positions)
    return CALL + SPEED * blocked(form.reads) * blocked(form.makes) * prod(form.kernel) * prod(form.positions)


def simulated_probes(forms: Sequence[Form], threads: int, batch: int) -> list[float]:
    return [layer_ms(form) for form in forms]


def file_ms(path: Path) -> float:
    """What it takes for a file: shapes are read from the file, not from the wiring."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.value_info, *graph.output]
    }
    weights = {entry.name: list(entry.dims) for entry in graph.initializer}
    total = 0.0
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight, made = weights[node.input[1]], shapes[node.output[0]]
            work = blocked(weight[0]) * blocked(weight[1]) * prod(weight[2:])
            if node.op_type == "Conv":
                positions = prod(shapes[node.input[0]][2:])
            total += CALL + SPEED * work * (positions if node.op_type == "Conv" else 1) + REST * prod(made[1:])
    return total


def simulated_latency(paths: Sequence[Path], input_shapes: Any, threads: int, runs: int, batch: int = 1) -> Timing:
    times = [file_ms(path) for path in paths]
    found = [Latency(time, time, time, 0.0, runs, threads, False) for time in times]
    return Timing(found, [None] * len(found), 1, 0.0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine whose times follow from shapes alone, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(latency, "calmest", simulated_latency)
    monkeypatch.setattr(timetable, "time_forms", simulated_probes)
    return tmp_path / "cache"


SMALL = """
from torch import nn

def net():
    layers = [part for c, d in ((1, 64), (64, 96), (96, 128), (128, 64))
              for part in (nn.Conv2d(c, d, 3, padding=1, bias=False), nn.BatchNorm2d(d), nn.ReLU())]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    network.input_shape = (1, 8, 8)
    return network
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A network that is exported quickly."""
    (tmp_path / "small.py").write_text(SMALL)
    return "small.py:net"


@pytest.mark.parametrize("net", ZOO, ids=lambda net: net.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_channels_are_those_of_the_cut_network(net: type[nn.Module], seed: int) -> None:
    """What a plan makes of every call, against the calls of the network after the cut."""
    torch.manual_seed(seed)
    model, shapes = net().eval(), inputs_of(net)
    wiring = prunable_wiring(model, shapes)
    groups = [group for group in wiring.groups if not group.frozen and group.channels > 1]
    random = numpy.random.default_rng(seed)
    kept = numpy.array([random.integers(1, group.channels + 1) for group in groups], dtype=numpy.int64)
    if not groups:
        return
    before = calls_of(wiring, groups)
    removed = [group.units[count:] for group, count in zip(groups, kept.tolist(), strict=True)]
    cut(model, wiring, torch.cat([torch.empty(0, dtype=torch.int64), *removed]))
    after = calls_of(find_groups(model, shapes), [])
    predicted = [call.form.at(int(call.reads.at(kept)), int(call.makes.at(kept))) for call in before]
    assert [(form.reads, form.makes, form.groups) for form in predicted] == [
        (call.form.reads, call.form.makes, call.form.groups) for call in after
    ]
    assert [(call.made, call.form.positions) for call in before if call.form.kernel] == [
        (call.made, call.form.positions) for call in after if call.form.kernel
    ]


@pytest.mark.parametrize(
    "form",
    [
        Form(6, 8, (9,), (3,), (1,), (1,), (1,)),
        Form(6, 8, (9, 9), (3, 3), (2, 2), (1, 1), (1, 1)),
        Form(4, 6, (5, 5, 5), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
        Form(8, 8, (9, 9), (3, 3), (1, 1), (2, 2), (2, 2), groups=8, whole_groups=True),
        Form(8, 16, (9, 9), (3, 3), (1, 1), (1, 1), (1, 1), groups=4),
        Form(6, 8, (5, 5), (3, 3), (2, 2), (1, 1), (1, 1), transposed=True, output_padding=(1, 1)),
        Form(6, 8, (5,)),
    ],
    ids=["1d", "2d", "3d", "depthwise", "grouped", "transposed", "linear"],
)
def test_onnxruntime_times_every_kind_of_layer(form: Form) -> None:
    chosen = points(form, form.groups == 1, True)
    times = time_forms([form.at(*point) for point in chosen], threads=1, batch=2)
    assert len(times) == len(chosen)
    assert all(0 <= time < 1000 for time in times)
    assert any(time > 0 for time in times)


@given(st.integers(1, 3000))
def test_widths_hold_every_divisor_that_there_is(channels: int) -> None:
    found = widths(channels)
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (1, channels)
    assert len(found) <= 12 + 4 * 6 + 1
    assert {int(numpy.gcd(count, BLOCK)) for count in found} == {
        int(numpy.gcd(count, BLOCK)) for count in range(1, channels + 1)
    }


@example(reads=9, makes=161, floor=0.5, block=8)
@given(st.integers(2, 300), st.integers(2, 300), st.sampled_from([0.0, 0.01, 0.5]), st.sampled_from([1, 4, 8, 16]))
@settings(deadline=None, max_examples=60)
def test_a_surface_tells_what_was_not_measured(reads: int, makes: int, floor: float, block: int) -> None:
    """Against a law of blocks with a floor: exact where one side is whole, near where neither is."""

    def law(read: int, made: int) -> float:
        return floor + 1e-3 * ceil(read / block) * ceil(made / block)

    form = Form(reads, makes, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1))
    surface = Surface(form, {point: law(*point) for point in points(form, True, True)})
    for read, made in points(form, True, False) + points(form, False, True):
        assert surface.at(numpy.array([read]), numpy.array([made]))[0] == pytest.approx(law(read, made), rel=1e-6)
    both = numpy.array(list(itertools.product(widths(reads), widths(makes))))
    wanted = numpy.array([law(*point) for point in both.tolist()])
    got = surface.at(both[:, 0], both[:, 1])
    assert numpy.median(numpy.abs(got / wanted - 1)) < 0.05


def test_a_surface_without_a_floor_would_be_wrong() -> None:
    form = Form(64, 64, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1))
    law = {point: 1.0 + point[0] * point[1] / 4096 for point in points(form, True, True)}
    surface = Surface(form, law)
    assert surface.at(numpy.array([16]), numpy.array([16]))[0] == pytest.approx(1 + 1 / 16, rel=0.02)
    surface._floor = 0.0
    assert surface.at(numpy.array([16]), numpy.array([16]))[0] > 1.1 * (1 + 1 / 16) - 0.4


def chain(widths: Sequence[int], sizes: Sequence[int]) -> Prediction:
    """Layers in a row: each reads what the one before it makes."""
    sides = [Channels(3, {}), *(Channels(0, {at: 1}) for at in range(len(widths))), Channels(10, {})]
    counts = [3, *widths, 10]
    calls, found = [], []
    for at, size in enumerate(sizes):
        form = Form(counts[at], counts[at + 1], (size, size), (3, 3), (1, 1), (1, 1), (1, 1))
        calls.append(Call(form, sides[at], sides[at + 1], size * size))
        found.append(
            Surface(form, {point: layer_ms(form.at(*point)) for point in points(form, at > 0, at < len(widths))})
        )
    total = sum(layer_ms(call.form) for call in calls)
    return Prediction(calls, found, numpy.array(widths), 1.2 * total)


@given(
    st.lists(st.integers(2, 9), min_size=2, max_size=3),
    st.lists(st.integers(2, 9), min_size=4, max_size=4),
    st.sampled_from([0.3, 0.5, 0.7, 0.9]),
)
@settings(deadline=None, max_examples=40)
def test_a_search_comes_near_the_best_there_is(widths: list[int], sizes: list[int], share: float) -> None:
    """Against all combinations; Lagrange's way may miss what lies in a dent, by a little."""
    prediction = chain(widths, sizes[: len(widths) + 1])
    counts = [numpy.arange(1, width + 1) for width in widths]
    worth = [prediction.share(at) * numpy.log(each) for at, each in enumerate(counts)]
    time = share * float(prediction.at(prediction.channels))
    kept = Search(prediction, counts, worth).within(time)
    combinations = numpy.array(list(itertools.product(*counts))).T
    allowed = prediction.at(combinations) <= time
    total = sum(each[combinations[at] - 1] for at, each in enumerate(worth))
    if not allowed.any():
        assert kept.tolist() == [1] * len(widths)
        return
    assert float(prediction.at(kept)) <= time * (1 + 1e-9)
    most, least = total[allowed].max(), total.min()
    mine = sum(each[count - 1] for each, count in zip(worth, kept, strict=True))
    assert most - mine <= 0.25 * (total.max() - least) + 1e-12


def test_a_prediction_of_the_dense_network_is_its_time() -> None:
    prediction = chain([8, 16], [8, 8, 8])
    total = sum(layer_ms(call.form) for call in prediction._calls)
    assert float(prediction.at(prediction.channels)) == pytest.approx(1.2 * total)
    kept = numpy.array([4, 16])
    moved = prediction.around(kept, 0, numpy.array([4, 8]))
    assert moved[1] - moved[0] == pytest.approx(
        float(prediction.at(numpy.array([8, 16])) - prediction.at(kept)), rel=1e-9
    )


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_target_is_met_on_the_machine(machine: Path, greg: Callable[..., Ran], small: str, scope: str) -> None:
    """By the file that export writes, timed from its shapes."""
    model: str | Path = DIGITS if scope == "local" else small
    done = greg("prune", model, "--target-speedup", "1.5x", "--scope", scope, "-o", "small.pt", "--json")
    assert done.code == 0, done.err
    target = done.json["target"]
    assert 1.5 <= target["speedup"] <= 1.5 / 0.95
    assert target["speedup"] == pytest.approx(target["dense_ms"] / target["p50_ms"])
    assert target["measurements"] <= 4
    assert greg("export", "small.pt", "-o", "small.onnx", "--baseline", model, "--json").json[
        "speedup"
    ] == pytest.approx(target["speedup"])
    kept = {group["kept"] for group in done.json["groups"] if group["kept"] < group["channels"]}
    assert all(count % BLOCKS == 0 for count in kept), kept


def test_milliseconds_and_a_plan_file(machine: Path, greg: Callable[..., Ran], small: str) -> None:
    dense = greg("analyze", small, "--target-speedup", "1.4", "--json").json["plan"]["target"]["dense_ms"]
    asked = f"{1000 * dense / 1.4:.3f}us"
    found = greg("analyze", small, "--target-latency", asked, "--plan-out", "p.json", "--json").json
    assert found["plan"]["target"]["p50_ms"] <= dense / 1.4 * (1 + 1e-6)
    again = greg("prune", small, "--plan", "p.json", "-o", "planned.pt", "--json").json
    counts = {group["name"]: group["kept"] for group in again["groups"]}
    assert all(
        row["kept"] in (None, row["out_channels"], counts[row["group"]]) for row in found["layers"] if row["group"]
    )


def test_a_model_that_is_wrong_is_corrected(
    machine: Path, greg: Callable[..., Ran], small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that take half as much by themselves as in the network's midst."""
    monkeypatch.setattr(timetable, "time_forms", lambda *given: [time**1.3 for time in simulated_probes(*given)])
    done = greg("analyze", small, "--target-speedup", "1.6", "--json")
    target = done.json["plan"]["target"]
    assert 1.6 * 0.95 <= target["speedup"] <= 1.6 * 1.06
    assert target["measurements"] > 1


def test_a_width_that_is_fast_enough_goes_before_a_nearer_one() -> None:
    """Three percent too slow, then four percent too fast."""

    def took(milliseconds: float) -> Latency:
        return Latency(milliseconds, milliseconds, milliseconds, 0.0, 9, 1, noisy=False)

    prediction, times = chain([256, 256], [8, 8, 8]), iter([1.03, 0.96])
    dense = took(float(prediction.at(prediction.channels)))
    goal = Goal("--target-speedup", "1.2x", None, 1.2)
    timed: Any = SimpleNamespace(
        dense=dense, prediction=prediction, measure=lambda _: (dense, took(next(times) * goal.time(dense)))
    )
    counts = [numpy.arange(1, channels + 1) for channels in prediction.channels]
    _, found = reach.reach(goal, timed, counts, lambda _: [each.astype(float) for each in counts], Reporter())
    assert (found.measurements, found.off) == (2, pytest.approx(0.96))


def test_align_auto_finds_the_block(machine: Path, greg: Callable[..., Ran], small: str) -> None:
    done = greg("analyze", small, "--ratios", "0.34", "--align", "auto", "--json")
    found = re.search(r"multiples of (\d+);", done.err)
    assert found is not None
    assert int(found[1]) % BLOCKS == 0
    same = greg("analyze", small, "--ratios", "0.34", "--align", found[1], "--json").json
    assert done.json["layers"] == same["layers"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--target-speedup 50x", 2, "is not reached within 5%; the narrowest that these groups can be takes"),
        ("--target-latency 1000s", 2, "as it is; ask for less"),
        ("--target-latency 0", 2, "write a time, as 12ms"),
        ("--target-latency 1ns", 2, "write a time, as 12ms"),
        ("--target-latency nan", 2, "write a time, as 12ms"),
        ("--target-speedup 1x", 2, "write how many times faster, above 1"),
        ("--target-speedup inf", 2, "write how many times faster, above 1"),
        ("--target-speedup 2 --ratios 0.5", 2, "say what to prune with one of"),
        ("--target-speedup 2 --align auto", 2, "--align auto would have no effect"),
        ("--ratios 0.5 --threads 2", 2, "--threads would have no effect without --target-latency"),
        ("--ratios 0.5 --batch 2", 2, "--batch would have no effect without --target-latency"),
        ("--target-speedup 2 --threads 0", 2, "--threads 0: it must be above 0"),
        ("--align auto", 2, "--align would have no effect without one of"),
        ("--ratios 0.5 --align many", 2, "or write auto"),
        ("--target-speedup 1.5 --max-ratio 0.01", 2, "is not reached within 5%"),
        ("--unstructured --target-speedup 2", 2, "--target-speedup would have no effect: --unstructured"),
    ],
)
def test_bad_targets(machine: Path, greg: Callable[..., Ran], small: str, words: str, code: int, said: str) -> None:
    done = greg("prune", small, *words.split(), "-o", "x.pt")
    assert done.code == code
    assert said in done.error()
    assert not Path("x.pt").exists()


def test_a_regularized_state_is_not_measured(machine: Path, greg: Callable[..., Ran], small: str) -> None:
    short = ("--data", "digits", "--delta", 1, "--ceiling", 2, "--stabilize", 1, "--batch-size", 256)
    assert greg("regularize", small, "--target-speedup", "1.3", *short, "-o", "r.pt").code == 0
    assert greg("prune", "r.pt", "-o", "p.pt").code == 0
    done = greg("prune", "r.pt", "--target-speedup", "1.3", "-o", "q.pt")
    assert done.code == 2
    assert "is measured anew each time; leave it out" in done.error()


def test_what_was_measured_is_kept(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def counted(forms: Sequence[Form], threads: int, batch: int) -> list[float]:
        measured.append(len(forms))
        return simulated_probes(forms, threads, batch)

    form = Form(16, 16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    table = Timetable(1, 1, counted)
    table.surface(form, False, True)
    table.surface(form, False, True)
    assert len(measured) == 1
    table.keep()
    Timetable(1, 1, counted).surface(form, False, True)
    assert len(measured) == 1
    Timetable(2, 1, counted).surface(form, False, True)
    Timetable(1, 2, counted).surface(form, False, True)
    assert len(measured) == 3
    for content in ("", "[]", '{"a": {"b": "c"}}', json.dumps({"a": {"1,1": float("nan")}}), '{"a": 5}'):
        table.path.write_text(content)
        Timetable(1, 1, counted).surface(form, False, True)
    assert len(measured) == 8


def test_a_cache_that_cannot_be_written_costs_nothing(
    machine: Path, greg: Callable[..., Ran], small: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert greg("analyze", small, "--target-speedup", "1.3").code == 0


def test_noise_is_said(machine: Path, greg: Callable[..., Ran], small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(*given: Any, **more: Any) -> Timing:
        quiet = simulated_latency(*given, **more)
        return replace(quiet, latencies=[replace(each, cov=0.1, noisy=True) for each in quiet.latencies])

    monkeypatch.setattr(latency, "calmest", noisy)
    done = greg("analyze", small, "--target-speedup", "1.3", "--json")
    assert done.json["plan"]["target"]["noisy"] is True
    assert "warning: times vary by more than 2.5%" in done.err
    assert reach.TOLERANCE == 0.05
