"""Pictures hold the figures of the state, are the same bytes each time, and what cannot be drawn is said."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Page
from PIL import Image

from greg_compress.figures.accuracy import Accuracy, Part
from greg_compress.figures.kept import Kept, Layer
from greg_compress.figures.page import page
from greg_compress.figures.style import Curve, short
from greg_compress.options.plotting import Figure
from greg_compress.sources.specs import Architecture
from greg_compress.state import files
from greg_compress.state.format import State
from greg_compress.story.pictures import pictures
from tests.conftest import DIGITS, ROOT, Ran

Greg = Callable[..., Ran]
ALL = [str(name) for name in Figure]


def log(count: int, every: int, **more: Any) -> list[dict[str, Any]]:
    numbers = [
        {"epoch": e, "iteration": (e + 1) * every, "loss": 2.0 / (e + 1), "top1": 50.0 + e} for e in range(count)
    ]
    return [{**record, **{name: of(at) for name, of in more.items()}} for at, record in enumerate(numbers)]


def entry(command: str, **metrics: Any) -> dict[str, Any]:
    return {"command": command, "metrics": metrics}


def witnessed(units: dict[str, int]) -> dict[str, Any]:
    """Norms as a phase of 80 iterations writes them down, GReg-2 picking at 20."""
    iterations = [0, 10, 20, 40, 80]
    return {
        "picked": 20,
        "iterations": iterations,
        "lambda": [k / 100 for k in iterations],
        "units": units,
        "spread": {name: [0.1 + at + k / 100 for k in iterations] for at, name in enumerate(units)},
        "snapshots": [
            {"iteration": k, "lambda": k / 100, "norms": {a: [1.0 + k * u for u in range(n)] for a, n in units.items()}}
            for k in (0, 20, 80)
        ],
    }  # fmt: skip


def finetuned(units: dict[str, int] | None = None) -> State:
    """After train, regularize, prune and finetune."""
    units = units or {"layer1.a": 4, "layer1.b": 6}
    history = [
        entry("train", top1_before=10.0, top1_after=90.0, iterations=50, log=log(5, 10)),
        entry("regularize", top1_before=90.0, top1_after=88.0, iterations=80, stabilize=20, norms=witnessed(units),
              log=log(4, 20, val_top1=lambda e: 60.0 + e, weakest_ratio=lambda e: 3.0**e,
                      **{"lambda": lambda e: (e + 1) / 5})),
        entry("prune", params={}),
        entry("finetune", top1_before=87.0, top1_after=91.0, iterations=30, log=log(3, 10)),
    ]  # fmt: skip
    plan = {name: {"channels": n, "kept": n - 2, "removed": [0, 1]} for name, n in units.items()}
    spec = Architecture("torchvision:resnet18")
    return State("finetuned", spec, ((3, 8, 8),), {"a": torch.zeros(1)}, plan=plan, history=history)


def drawn(state: State, figure: Figure, layer: str | None = None) -> list[Axes]:
    found, missing = pictures(state, layer)
    assert missing == {}
    return panels(page([found[figure]]))


def panels(whole: Page) -> list[Axes]:
    return list(whole.axes)


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """x and y of every labelled line."""
    found = {str(line.get_label()): line for line in axes.get_lines()}
    return {name: (list(line.get_xdata()), list(line.get_ydata())) for name, line in found.items()}


def data(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """x and y of lines that are curves, not marks from top to bottom."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines() if len(line.get_xdata()) > 2]


def test_accuracy_runs_over_the_whole_chain() -> None:
    axes = drawn(finetuned(), Figure.ACCURACY)
    train, regularize, finetune = axes[:3]
    assert [each.get_title() for each in axes[:3]] == [
        "train\n10.00 → 90.00", "regularize\n90.00 → 88.00", "prune\nfinetune\n87.00 → 91.00"
    ]  # fmt: skip
    assert lines(train) == {
        "training": ([10, 20, 30, 40, 50], [50.0, 51.0, 52.0, 53.0, 54.0]),
        "test, before": ([0], [10.0]),
        "test, after": ([50], [90.0]),
    }
    assert lines(regularize)["held out"] == ([70, 90, 110, 130], [60.0, 61.0, 62.0, 63.0])
    assert lines(finetune)["test, before"] == ([130], [87.0])
    assert lines(finetune)["test, after"] == ([160], [91.0])
    assert data(axes[5]) == [([140, 150, 160], [2.0, 1.0, 2 / 3])]
    assert [each.get_ylabel() for each in axes] == ["top-1 (%)", "", "", "training loss", "", ""]


def test_lambda_and_ratio() -> None:
    strength, ratio = drawn(finetuned(), Figure.PENALTY)
    assert data(strength) == [([0, 10, 20, 40, 60, 80], [0.0, 0.1, 0.2, 0.4, 0.6, 0.8])]
    assert data(ratio) == [([20, 40, 60, 80], [1.0, 3.0, 9.0, 27.0])]
    assert ratio.get_yscale() == "log"
    marks = {text.get_text(): text.get_position()[0] for text in ratio.texts}
    assert marks == {"picked": 20, "stabilizing": 60}


def test_separation_of_every_layer_before_picking_and_in_all() -> None:
    growing, whole = drawn(finetuned(), Figure.SEPARATION)
    spread = finetuned().history[1]["metrics"]["norms"]["spread"].values()
    assert data(growing) == [([0, 10, 20], values[:3]) for values in spread]
    assert data(whole)[:2] == [([0, 10, 20, 40, 80], values) for values in spread]
    assert [tick.get_text() for tick in growing.get_xticklabels()][-1] == "20\n0.2"
    state = finetuned()
    state.history[1]["metrics"]["norms"]["picked"] = None  # GReg-1
    (alone,) = drawn(state, Figure.SEPARATION)
    assert len(data(alone)) == 2


def test_many_layers_get_a_colour_bar_and_few_a_legend() -> None:
    names = {f"features.block{number}.conv": 4 for number in range(33)}
    *_, bar = drawn(finetuned(names), Figure.SEPARATION)
    assert bar.get_ylabel() == "33 layers, in order of execution"
    assert bar.get_yticklabels()[0].get_text() == "block0.conv"
    assert len(drawn(finetuned(), Figure.SEPARATION)) == 2


@pytest.mark.parametrize(("layer", "units"), [(None, 6), ("layer1.a", 4)])
def test_norms_over_their_largest(layer: str | None, units: int) -> None:
    """Largest first; the plan removes units 0 and 1, whose norms are the least."""
    axes = drawn(finetuned(), Figure.NORMS, layer)
    assert [each.get_title() for each in axes] == [
        "iteration 0\nλ = 0",
        "iteration 20\nλ = 0.2",
        "iteration 80\nλ = 0.8",
    ]
    for each, k in zip(axes, (0, 20, 80), strict=True):
        norms = np.array([1.0 + k * unit for unit in range(units)])
        found = lines(each)
        points = sorted(zip(*(found["kept"][at] + found["picked"][at] for at in (0, 1)), strict=True))
        assert [x for x, _ in points] == list(range(1, units + 1))
        np.testing.assert_allclose([y for _, y in points], np.sort(norms)[::-1] / norms.max())
        assert k == 0 or len(found["picked"][0]) == 2


def test_picks_that_another_plan_replaced_are_not_shown() -> None:
    state = finetuned()
    state.history.append(entry("prune", params={}))
    assert set(lines(drawn(state, Figure.NORMS)[0])) == {"_child0"}


def test_kept_channels() -> None:
    (axes,) = drawn(finetuned(), Figure.KEPT)
    every, kept = axes.containers[:2]
    assert [bar.get_height() for bar in every] == [4, 6]
    assert [bar.get_height() for bar in kept] == [2, 4]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b"]


def test_names_without_what_they_share() -> None:
    assert short(["features.a.conv1", "features.b.conv1"]) == ["a.conv1", "b.conv1"]
    assert short(["features.a"]) == ["features.a"]
    assert short(["conv", "conv"]) == ["conv", "conv"]
    assert short(["a\nb", "$x_1$"]) == ["a?b", "$x_1$"]
    assert [len(name) for name in short(["x" * 99, "y" * 3])] == [36, 3]


def overlaps(whole: Page) -> list[tuple[str, str]]:
    """Labels of an x axis that run into each other."""
    canvas = FigureCanvasAgg(whole)
    whole.draw_without_rendering()
    found = []
    for axes in whole.axes:
        labels = [label for label in axes.get_xticklabels() if label.get_text() and label.get_visible()]
        boxes = [label.get_window_extent(canvas.get_renderer()) for label in labels]
        for at in range(len(labels) - 1):
            if boxes[at].x1 > boxes[at + 1].x0:
                found.append((labels[at].get_text(), labels[at + 1].get_text()))
    return found


@pytest.mark.parametrize("count", [1, 33, 120])
def test_names_of_layers_have_room(count: int) -> None:
    layers = [Layer(f"layer{number}.conv{number % 2}", 2048, 1024) for number in range(count)]
    assert overlaps(page([Kept(layers)])) == []


def test_iterations_of_many_commands_have_room() -> None:
    curve = Curve([1], [1.0])
    chain = [Part("finetune", 10**6 * number, 10**6 if number else 10, curve, curve, curve) for number in range(9)]
    whole = page([Accuracy(chain)])
    assert overlaps(whole) == []
    whole.axes[-1].set_xticks([chain[-1].first, chain[-1].first + 1])  # negative control
    assert len(overlaps(whole)) == 1


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "final.pt"
    files.save(finetuned(), path, replace=False)
    return path


def test_a_page_of_all_as_both_kinds(greg: Greg, state: Path) -> None:
    ran = greg("plot", state, "-o", "all.png", "--json")
    assert ran.json == {
        "picture": "all.png", "size": Path("all.png").stat().st_size, "figures": ALL, "layer": "layer1.b",
        "missing": {}, "passed": True,
    }  # fmt: skip
    with Image.open("all.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width == 1650
    assert greg("plot", state, "-o", "all.SVG").code == 0
    assert ElementTree.parse("all.SVG").getroot().tag.endswith("svg")
    assert not [text for text in ("<dc:date>", "matplotlib.org") if text in Path("all.SVG").read_text()]


def test_the_same_bytes_anywhere(greg: Greg, state: Path, tmp_path: Path) -> None:
    """Also in another process, without a home, and where a matplotlibrc would have it otherwise; without a word."""
    for suffix in ("png", "svg"):
        assert greg("plot", state, "--figure", "separation", "-o", f"a.{suffix}").code == 0
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsvg.hashsalt: other\naxes.grid: False\n")
    script = (
        "from greg_compress.cli import app\n"
        "for s in ('png', 'svg'):\n"
        "    try: app(['plot', 'final.pt', '--figure', 'separation', '-o', 'b.' + s])\n"
        "    except SystemExit as end: assert not end.code\n"
    )
    nowhere = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"), "/proc/nothing")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, **nowhere, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    changed = finetuned()
    changed.history[1]["metrics"]["norms"]["spread"]["layer1.a"][0] += 0.01
    files.save(changed, state, replace=True)
    for suffix in ("png", "svg"):
        assert Path(f"a.{suffix}").read_bytes() == Path(f"b.{suffix}").read_bytes()
        assert greg("plot", state, "--figure", "separation", "-o", f"c.{suffix}").code == 0
        assert Path(f"a.{suffix}").read_bytes() != Path(f"c.{suffix}").read_bytes()


def test_a_state_draws_what_it_has(greg: Greg) -> None:
    ran = greg("plot", DIGITS, "-o", "d.png", "--json")
    assert ran.json["figures"] == ["accuracy"]
    assert set(ran.json["missing"]) == set(ALL) - {"accuracy"}
    assert "no separation: it was never regularized" in ran.err


def test_an_older_regularized_state_draws_what_it_has() -> None:
    state = finetuned()
    del state.history[1]["metrics"]["norms"]
    found, missing = pictures(state, None)
    assert set(found) == {Figure.ACCURACY, Figure.PENALTY, Figure.KEPT}
    assert "an older greg" in missing[Figure.NORMS]
    assert data(panels(page([found[Figure.PENALTY]]))[0]) == [([20, 40, 60, 80], [0.2, 0.4, 0.6, 0.8])]


def unfinished(picks: dict[str, Any] | None, iteration: int) -> State:
    """GReg-2's OUT.partial after so many iterations."""
    state = finetuned()
    metrics = state.history[1]["metrics"]
    looks = sum(k < iteration for k in metrics["norms"]["iterations"])
    norms = metrics["norms"] | {"step": 20}
    norms |= {name: norms[name][:looks] for name in ("iterations", "lambda")}
    norms["spread"] = {name: values[:looks] for name, values in norms["spread"].items()}
    norms["snapshots"] = norms["snapshots"][: 1 + (iteration > 20)]
    phase = {"stabilizing_since": 60 if iteration > 60 else None, "picks": picks, "witness": norms}
    loop = {"iteration": iteration, "log": metrics["log"][: iteration // 20], "regularizer": phase}
    state.run = {"command": "regularize", "top1_before": 90.0, "loop": loop}
    state.history = state.history[:1]
    return state


def test_unfinished_work_is_drawn_as_far_as_it_got(greg: Greg, tmp_path: Path) -> None:
    picks = {name: {"removed": [1, 2]} for name in ("layer1.a", "layer1.b")}
    files.save(unfinished(picks, 70), tmp_path / "r.pt.partial", replace=False)
    ran = greg("plot", "r.pt.partial", "-o", "now.png", "--json")
    assert ran.json["figures"] == ALL
    assert [x for x, _ in data(drawn(unfinished(picks, 70), Figure.PENALTY)[0])] == [[0, 10, 20, 40, 60]]
    later = lines(drawn(unfinished(picks, 70), Figure.NORMS)[1])
    assert later["picked"][0] == [4, 5]
    early = drawn(unfinished(None, 15), Figure.NORMS)
    assert [set(lines(each)) for each in early] == [{"_child0"}]
    assert len(drawn(unfinished(None, 15), Figure.PENALTY)[0].texts) == 0


def change(*path: Any, value: Any) -> Callable[[State], None]:
    def apply(state: State) -> None:
        place: Any = state
        place = getattr(place, path[0])
        for key in path[1:-1]:
            place = place[key]
        place[path[-1]] = value

    return apply


NORMS = ("history", 1, "metrics", "norms")
DAMAGED = {
    "iterations": change(*NORMS, "iterations", value=[0, "1"]),
    "lambda": change(*NORMS, "lambda", value=[]),
    "spread": change(*NORMS, "spread", value={"layer1.a": [1.0]}),
    "no number": change(*NORMS, "spread", "layer1.a", value=[float("nan")] * 5),
    "no groups": change(*NORMS, "spread", value={}),
    "snapshots": change(*NORMS, "snapshots", 0, value={}),
    "other units": change(*NORMS, "units", "layer1.b", value=7),
    "huge units": change(*NORMS, "units", "layer1.b", value=10**30),
    "no record": change("history", 0, "metrics", "log", value=[7]),
    "loss": change("history", 0, "metrics", "log", 0, "loss", value="much"),
    "iteration": change("history", 0, "metrics", "log", 0, "iteration", value=-1),
    "length": change("history", 0, "metrics", "iterations", value=None),
    "plan": change("plan", "layer1.a", "kept", value=-1),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_log(greg: Greg, state: Path, what: str) -> None:
    damaged = copy.deepcopy(finetuned())
    DAMAGED[what](damaged)
    files.save(damaged, state, replace=True)
    ran = greg("plot", state, "-o", "x.svg")
    assert ran.code == 4
    assert "final.pt is damaged" in ran.error()
    assert not Path("x.svg").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("final.pt", "-o", "x.jpg"), 2, "-o x.jpg: pictures are written as .png or .svg"),
        (("final.pt", "-o", "x"), 2, "written as .png or .svg"),
        (("final.pt", "--figure", "nroms", "-o", "x.png"), 2, "nearest: norms"),
        (("final.pt", "--layer", "layer1.c", "-o", "x.png"), 2, "nearest: layer1.b, layer1.a"),
        (("final.pt", "--figure", "kept", "--layer", "layer1.a", "-o", "x.png"), 2, "--layer would have no effect"),
        ((DIGITS, "--layer", "layer1.0.conv1", "-o", "x.png"), 2, "has no norms (it was never regularized)"),
        ((DIGITS, "--figure", "separation", "-o", "x.png"), 2, "it was never regularized); it has accuracy"),
        (("fresh.pt", "-o", "x.png"), 2, "there is nothing to draw of fresh.pt: no accuracy: no command"),
        (("fresh.pt", "--figure", "kept", "-o", "x.png"), 2, "it has no other figure either"),
        (("nothing.pt", "-o", "x.png"), 4, "nothing.pt does not exist"),
        (("weights.pt", "-o", "x.png"), 4, "weights.pt is not a greg state file"),
        (("final.pt", "-o", "there.png"), 2, "there.png exists; add --force"),
        (("final.pt", "-o", "nowhere/x.png"), 1, "cannot be written"),
    ],
)
def test_bad_requests(greg: Greg, state: Path, tmp_path: Path, words: tuple[object, ...], code: int, said: str) -> None:
    empty = finetuned()
    empty.history, empty.plan = [], None
    files.save(empty, tmp_path / "fresh.pt", replace=False)
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    (tmp_path / "there.png").touch()
    ran = greg("plot", *words)
    assert ran.code == code
    assert said in ran.error()
    assert ran.out == ""
    assert not (tmp_path / "x.png").exists()
