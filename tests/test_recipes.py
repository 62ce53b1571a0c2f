"""Recipes: what is wrong is said at once, every step is done once, and the figures are those of the steps."""

from __future__ import annotations

import json
import signal
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from greg_compress.cli import app
from greg_compress.cli.arguments import shares
from greg_compress.cli.running import Line
from greg_compress.errors import RequestError
from greg_compress.options.penalty import Method, PenaltyOptions, Preset
from greg_compress.options.training import Decay
from greg_compress.penalty.schedule import resolve_schedule, scaled_schedule
from greg_compress.recipes.expand import expand
from greg_compress.recipes.recipe import read
from greg_compress.training.schedule import Schedule
from tests import program
from tests.conftest import DIGITS, ROOT, Ran
from tests.test_training import assert_same

Greg = Callable[..., Ran]
SHIPPED = sorted((ROOT / "sample_models" / "recipes").glob("*.toml"))
COMMANDS = Line(app).words()
TINY = """
from torch import nn

def tiny(in_channels=3, num_classes=10):
    made = nn.Sequential()
    made.conv1 = nn.Conv2d(in_channels, 8, 3, 2, bias=False)
    made.layer1 = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, bias=False), nn.BatchNorm2d(12))
    made.layer2 = nn.Sequential(nn.ReLU(), nn.Conv2d(12, 12, 1), nn.ReLU())
    made.layer3 = nn.Sequential(nn.Conv2d(12, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))
    made.input_shape = (in_channels, 16, 16)
    return made
"""
GOOD = f"""
seeds = [0, 1]

[values]
data = "digits"

[each]
ratio = [0.25, 0.5]

[steps.base]
command = "train"
arch = "tiny.py:tiny"
arch-arg = "in_channels=1"
data = "{{data}}"
iterations = 8
batch-size = 64
seed = "{{seed}}"

[steps.cut]
command = "prune"
model = "{{base}}"
ratios = "{{ratio}}"

[steps.final]
command = "finetune"
model = "{{cut}}"
teacher = "{DIGITS}"
data = "{{data}}"
iterations = 4
batch-size = 64

[[results]]
name = "top-1"
figure = "final.top1_after"

[results.paper]
"0.5" = "91.0"
"""


def write(folder: Path, text: str = GOOD) -> Path:
    (folder / "tiny.py").write_text(TINY)
    path = folder / "r.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("seeds = [0, 1]", "sedes = [0]", "unknown key 'sedes'; nearest: seeds"),
        ("iterations = 8", "iteration = 8", "step base has an unknown key 'iteration'; nearest: iterations"),
        ('name = "top-1"', 'nam = "top-1"', "results 1 has an unknown key 'nam'; nearest: name"),
        ('command = "prune"', 'command = "prne"', "step cut: unknown command 'prne'; nearest: prune"),
        ('command = "prune"', 'command = "demo"', "step cut: unknown command 'demo'"),
        ('command = "prune"\n', "", "step cut has no command; write one of train, "),
        ('model = "{base}"', 'model = "{final}"', "step cut reads final, which comes later"),
        ('model = "{base}"', 'model = "{cut}"', "step cut reads itself"),
        ('model = "{base}"', 'model = "{bse}"', "step cut: nothing has the name {bse}; nearest: base"),
        ('model = "{base}"', "", "step cut: greg prune lacks MODEL"),
        ('ratios = "{ratio}"', 'ratios = "{rato}"', "step cut: nothing has the name {rato}; nearest: ratio"),
        ('ratios = "{ratio}"', 'ratios = "{ratio}x"', "r.toml: step cut: --ratios 0.25x"),
        ('ratios = "{ratio}"', "ratios = 0.5", "each.ratio is used by no step"),
        ('data = "digits"', "data = 'digits'\nother = 5", "values.other is used by no step"),
        ('"final.top1_after"', '"base.top1_after"', "base is the same in all cells; write paper as one text"),
        ('ratios = "{ratio}"', "coupled = 'yes'", "step cut: coupled takes true or false"),
        ('ratios = "{ratio}"', "ratios = true", "step cut: ratios takes one value"),
        ('ratios = "{ratio}"', "ratios = [0.5]", "step cut: ratios takes one value"),
        ('ratios = "{ratio}"', "ratios = 1979-05-27", "step cut: ratios: write a text or a number"),
        ('ratios = "{ratio}"', 'out = "a.pt"', "step cut: out is decided by greg run"),
        ('ratios = "{ratio}"', 'skip = "conv{ratio}"', "step cut: --skip would have no effect"),
        ("seeds = [0, 1]", "seeds = [0.5]", "seeds must be a list of different whole numbers"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "seeds must be a list of different whole numbers"),
        ("seeds = [0, 1]", "seeds = [true]", "seeds must be a list of different whole numbers"),
        ("seeds = [0, 1]", "seeds = []", "seeds must be a list of different whole numbers"),
        ("seeds = [0, 1]", "about = 5", "about must be a text"),
        ("ratio = [0.25, 0.5]", "ratio = 0.25", "each.ratio: write a list"),
        ("ratio = [0.25, 0.5]", "ratio = [0.5, '0.5']", "each.ratio: a value stands there twice"),
        ("ratio = [0.25, 0.5]", "Ratio = [0.5]", "'Ratio' is no name"),
        ("ratio = [0.25, 0.5]", "data = [0.5]", "the name 'data' is taken"),
        ('data = "digits"', 'data = "{seed}"', "values.data may hold {here} in braces, not {seed}"),
        ('data = "digits"', "data = [1]", "values.data: write a text or a number"),
        ('"final.top1_after"', '"fnal.top1_after"', "there is no step 'fnal'; nearest: final"),
        ('"final.top1_after"', '"final"', 'write figure = "final.KEY"'),
        ('"0.5" = "91.0"', '"0.55" = "91.0"', "paper names '0.55', which is no cell; nearest: 0.5"),
        ('"0.5" = "91.0"', '"0.5" = 91', "paper holds texts"),
        ("[results.paper]\n", "paper = '9'\n", "final differs by cell; write paper = "),
        (GOOD, "steps = 5", "steps must be a table"),
        (GOOD, "", "has no steps"),
        (GOOD, "results = 5\n[steps.a]\ncommand='train'", "results must be tables"),
    ],
)
def test_mistakes_name_the_place_and_the_nearest(greg: Greg, tmp_path: Path, was: str, now: str, said: str) -> None:
    text = GOOD.replace(was, now)
    if now == "paper = '9'\n":
        text = text.replace('"0.5" = "91.0"\n', "")
    assert text != GOOD
    write(tmp_path, text)
    for more in ((), ("--dry-run",)):
        ran = greg("run", "r.toml", "-o", "out", *more, "--json")
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.error()
        assert "r.toml" in ran.error()
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("r.toml", "--set", "data"), 2, "--set data: write NAME=VALUE"),
        (("r.toml", "--set", "dta=digits"), 2, "--set dta: the recipe has no such value; nearest: data"),
        (("r.toml", "--set", "data=cifar"), 2, "step base: --data cifar: unknown"),
        (("r.toml", "--scale", "0"), 2, "--scale 0.0: it must be above 0"),
        (("r.toml", "--scale", "nan"), 2, "--scale nan: it must be above 0"),
        (("r.toml", "--force", "--dry-run"), 2, "--force would have no effect with --dry-run"),
        (("r.toml", "-o", "tiny.py"), 2, "tiny.py is a file; name a folder"),
        (("r.toml", "-o", "/proc/there"), 1, "/proc/there cannot be made"),
        (("none.toml",), 4, "none.toml does not exist"),
        ((".",), 4, ". is a directory"),
        (("tiny.py",), 4, "tiny.py is no TOML"),
        ((DIGITS,), 4, "name a recipe, a TOML file"),
    ],
)
def test_mistakes_on_the_command_line(
    greg: Greg, tmp_path: Path, words: tuple[object, ...], code: int, said: str
) -> None:
    write(tmp_path)
    ran = greg("run", *words, "--json")
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.error()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.toml", "tiny.py"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_cuts_what_the_paper_says(greg: Greg, tmp_path: Path, path: Path) -> None:
    recipe = tomllib.loads(path.read_text())
    ran = greg("run", path, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert list(tmp_path.iterdir()) == []
    printed = {row["figure"]: row["paper"] for row in recipe.get("results", []) if "paper" in row}
    if "pruned.macs_speedup" not in printed or "global" in path.read_text():
        return
    expected = {cell: float(speedup) for cell, speedup in printed["pruned.macs_speedup"].items()}
    found = {
        ", ".join(value for name, value in step["cell"].items() if name != "seed"): step["macs_speedup"]
        for step in ran.json["steps"]
        if step["step"].startswith("regularized")
    }
    assert found == pytest.approx(expected, rel=0.032)  # the paper's own roundings at high ratios (design, section 7)


def test_the_recipe_of_the_readme_is_one(greg: Greg, tmp_path: Path) -> None:
    text = (ROOT / "docs/recipes.md").read_text().partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "r.toml").write_text(text.replace("{here}/..", str(ROOT / "sample_models")))
    steps = greg("run", "r.toml", "--dry-run", "--json").json["steps"]
    assert [step["step"] for step in steps if step["step"].startswith("base")] == ["base-s0", "base-s1", "base-s2"]
    assert [step["macs_speedup"] for step in steps if step["step"] == "regularized-0.9-s0"] == [
        pytest.approx(11.6, 0.01)
    ]


def test_options_of_a_step_that_selects_nothing_are_no_selection(greg: Greg, tmp_path: Path) -> None:
    words = f'[steps.e]\ncommand = "export"\nmodel = "{DIGITS}"\nthreads = 2\nbatch = 4\n'
    (tmp_path / "r.toml").write_text(words)
    ran = greg("run", "r.toml", "--dry-run")
    assert ran.code == 0, ran.err
    assert "--threads 2" in ran.out


def test_the_paper_has_more_than_one_speedup() -> None:
    """The check above can fail: no two cells of a table are as close as it allows."""
    rows = tomllib.loads((ROOT / "sample_models/recipes/table1_resnet56.toml").read_text())["results"]
    printed = next(row["paper"] for row in rows if row["figure"] == "pruned.macs_speedup")
    values = sorted(map(float, printed.values()))
    assert all(b / a > 1.04 for a, b in pairwise(values))


def done(folder: Path) -> dict[str, Any]:
    """What each step returned, by file."""
    return {p.stem: json.loads(p.read_text())["result"] for p in folder.glob("*.json") if p.name != "results.json"}


def began(ran: Ran) -> list[str]:
    return [line.partition(":")[0] for line in ran.err.splitlines() if ": greg " in line]


def test_a_shipped_recipe_on_other_data(greg: Greg, tmp_path: Path) -> None:
    write(tmp_path)
    words = ("run", ROOT / "sample_models/recipes/table2_resnet56.toml", "--set", "arch=tiny.py:tiny", "--scale",
             "0.001", "--set", "data=digits", "--set", "channels=1", "-o", "out")  # fmt: skip
    ran = greg(*words)
    assert ran.code == 0, ran.err
    steps = done(tmp_path / "out")
    assert len(began(ran)) == len(set(began(ran))) == len(steps) == 3 + 3 * 2 * 3  # a base for both methods
    assert {steps[f"regularized-greg_1-s{seed}"]["iterations"] for seed in range(3)} <= {104, 105}
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["steps"] == {"finished": 21, "all": 21}
    for line in document["results"]:
        method = line["each"].get("method", "").replace("-", "_")
        step, key = line["figure"].split(".")
        values = [steps["-".join(filter(None, (step, method, f"s{seed}")))][key] for seed in range(3)]
        assert line["n"] == 3
        assert line["mean"] == pytest.approx(np.mean(values), abs=1e-9)
        assert line["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert "93.36" in ran.out
    assert len(document["cells"]) == 6

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.pt")}
    (tmp_path / "out").rename(tmp_path / "moved")
    again = greg(*words[:-1], "moved", "--json")
    assert (again.code, began(again)) == (0, [])
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "moved").glob("*.pt")} == {
        path.name: time for path, time in times.items()
    }
    assert again.json == {**document, "passed": True}

    record = tmp_path / "moved" / "base-s0.json"  # the figures really are those of the records
    record.write_text(record.read_text().replace('"top1_after": ', '"top1_after": 1'))
    assert greg(*words[:-1], "moved", "--json").json["results"][0]["mean"] != document["results"][0]["mean"]


def test_what_other_options_made_stays_unless_forced(greg: Greg, tmp_path: Path) -> None:
    write(tmp_path)
    assert greg("run", "r.toml").code == 0
    kept = {path: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    (tmp_path / "r.toml").write_text(GOOD.replace("ratio = [0.25, 0.5]", "ratio = [0.25]"))
    fewer = greg("run", "r.toml", "--json")
    assert (fewer.code, began(fewer)) == (2, []), "a printed result of a cell that is none"
    (tmp_path / "r.toml").write_text(GOOD.replace("iterations = 4", "iterations = 5"))
    ran = greg("run", "r.toml")
    assert ran.code == 2
    assert (
        "final-0.25-s0.json says that it was made by another command line (--iterations 4); add --force" in ran.error()
    )
    assert {path: path.read_bytes() for path in (tmp_path / "r").iterdir()} == kept
    forced = greg("run", "r.toml", "--force")
    assert (forced.code, sorted(set(began(forced)))) == (
        0,
        ["final-0.25-s0", "final-0.25-s1", "final-0.5-s0", "final-0.5-s1"],
    )
    assert began(greg("run", "r.toml", "--force")) == []
    (tmp_path / "r" / "base-s1.pt").unlink()
    assert began(greg("run", "r.toml")) == ["base-s1"]
    (tmp_path / "r" / "base-s1.json").write_text("{}")
    assert "base-s1.json is no record of greg run" in greg("run", "r.toml").error()


def test_a_failure_names_its_step_and_keeps_its_code(greg: Greg, tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace('"digits"', '"fashion-mnist:nowhere"'))
    ran = greg("run", "r.toml", "--json")
    assert (ran.code, ran.out) == (4, "")
    assert "greg: base-s0: " in ran.error()
    write(tmp_path, GOOD.replace('ratios = "{ratio}"', 'ratios = "{ratio}"\nskip = "*"'))
    ran = greg("run", "r.toml", "--json", "--force")
    assert ran.code == 3
    assert ran.json["passed"] is False
    write(tmp_path, GOOD.replace("final.top1_after", "final.top_after"))
    ran = greg("run", "r.toml", "--json", "--force")
    assert "final returns no top_after; nearest: top1_after" in ran.error()


def tensors(path: Path) -> Any:
    return torch.load(path, weights_only=True)["weights"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_recipe_goes_on_bit_for_bit(tmp_path: Path, number: int) -> None:
    write(tmp_path, GOOD.replace("iterations = 8", 'iterations = 60\nprecision = "fp32"').replace("seeds = [0, 1]", ""))
    straight = program.greg(tmp_path, "run", "r.toml", "-o", "straight")
    assert straight.code == 0, straight.err
    running = program.start(tmp_path, "run", "r.toml", "-o", "stopped")
    running.wait_for("training 1/")
    running.signal(number)
    ran = running.finish()
    assert ran.code == 128 + number
    assert ran.error() == "greg: interrupted; the same command goes on"
    assert (tmp_path / "stopped" / "base-s0.pt.partial").exists()
    again = program.greg(tmp_path, "run", "r.toml", "-o", "stopped")
    assert again.code == 0, again.err
    assert "going on from iteration" in again.err
    for file in ("base-s0.pt", "final-0.25-s0.pt", "final-0.5-s0.pt"):
        assert_same(tensors(tmp_path / "straight" / file), tensors(tmp_path / "stopped" / file))
    figures = [
        json.loads((tmp_path / name / "results.json").read_text())["results"] for name in ("straight", "stopped")
    ]
    assert figures[0] == figures[1]


def test_a_signal_between_commands_says_how_to_go_on(tmp_path: Path) -> None:
    write(tmp_path)
    running = program.start(tmp_path, "run", "r.toml")
    running.wait_for("cut-0.25-s0: greg")
    running.signal(signal.SIGTERM)
    ran = running.finish()
    assert ran.code == 143
    assert ran.error() == "greg: interrupted; the same command goes on"
    assert not list((tmp_path / "r").glob("*.tmp"))
    assert program.greg(tmp_path, "run", "r.toml").code == 0


def test_several_at_once_share_the_work(tmp_path: Path) -> None:
    write(tmp_path)
    ran = [running.finish() for running in [program.start(tmp_path, "run", "r.toml", "--json") for _ in range(2)]]
    assert [one.code for one in ran] == [0, 0], ran
    begun = [began(one) for one in ran]
    assert sorted(begun[0] + begun[1]) == sorted(done(tmp_path / "r"))
    assert len(begun[0] + begun[1]) == 10
    assert all(begun)
    document = json.loads((tmp_path / "r" / "results.json").read_text())
    assert ran[0].json == ran[1].json == {**document, "passed": True}
    assert document["steps"] == {"finished": 10, "all": 10}
    assert not [path for path in (tmp_path / "r").iterdir() if path.name.startswith(".")]


def test_a_step_is_one_task_for_all_cells_that_it_does_not_tell_apart(tmp_path: Path) -> None:
    text = GOOD.replace("[each]", '[each]\nkind = ["[0, 1]", "0 1", "a/b"]').replace("[results.paper]\n", "")
    text = text.replace('"0.5" = "91.0"\n', "").replace("iterations = 4", 'iterations = 4\ndevice = "{kind}"')
    recipe = read(write(tmp_path, text), (), COMMANDS)
    grid = expand(recipe, tmp_path, 1, COMMANDS)
    assert len(grid.cells) == 2 * 3 * 2
    tasks = list(grid.tasks.values())
    assert [sum(task.step.name == name for task in tasks) for name in recipe.steps] == [2, 4, 12]
    assert len({task.stem for task in tasks}) == len({task.key for task in tasks}) == len(tasks)
    kinds, ratios = ("0_1_0", "0_1_1", "a_b"), (0.25, 0.5)
    finals = {f"final-{kind}-{ratio}-s{seed}" for kind in kinds for ratio in ratios for seed in (0, 1)}
    assert {task.stem for task in tasks if task.step.name == "final"} == finals
    assert "--device '[0, 1]'" in tasks[2].line(tmp_path) + tasks[3].line(tmp_path)


def test_every_length_is_scaled(tmp_path: Path) -> None:
    text = GOOD.replace("iterations = 8", "epochs = 3\nwarmup = 30")
    grid = expand(read(write(tmp_path, text), (), COMMANDS), tmp_path, 0.1, COMMANDS)
    assert "--epochs 0.3 --warmup 3 " in grid.tasks["base-s0"].line(tmp_path)
    assert "--iterations 1 " in grid.tasks["final-0.5-s0"].line(tmp_path)  # 0.4, but one at least
    with pytest.raises(RequestError, match="step base says neither epochs nor iterations"):
        expand(read(write(tmp_path, GOOD.replace("iterations = 8", "")), (), COMMANDS), tmp_path, 0.1, COMMANDS)


@given(
    st.sampled_from(Preset),
    st.sampled_from(Method),
    st.floats(1e-3, 3),
    st.integers(1, 500),
    st.none() | st.integers(1, 30),
)
def test_a_scaled_phase_keeps_its_proportions(
    preset: Preset, method: Method, scale: float, steps: int, every: int | None
) -> None:
    options = PenaltyOptions(method, preset, update_every=every)
    whole = resolve_schedule(options, steps, 5e-4)
    total = round(scale * whole.iterations)
    if total < 10:
        with pytest.raises(RequestError, match="but 10 are the least"):
            scaled_schedule(options, steps, 5e-4, scale)
        return
    found = scaled_schedule(options, steps, 5e-4, scale)
    assert 0.6 * total - 3 * found.update_every <= found.iterations <= total
    assert found.ceiling == whole.ceiling
    assert found.update_every <= whole.update_every
    grown = found.updates * found.delta + (found.picking.updates * found.picking.delta if found.picking else 0)
    assert grown > found.ceiling
    assert (found == whole) == (total == whole.iterations)


@given(
    st.sampled_from(Preset),
    st.sampled_from(Method),
    st.floats(1e-6, 10),
    st.sampled_from([None, 0, 10, 10**6]),
    st.none() | st.floats(1e-6, 10),
    st.none() | st.floats(1e-7, 1),
)
def test_whatever_is_scaled_grows_to_its_ceiling(
    preset: Preset, method: Method, scale: float, stabilize: int | None, delta: float | None, pick_delta: float | None
) -> None:
    picking = {"pick_delta": pick_delta} if method is Method.GREG_2 else {}
    options = PenaltyOptions(method, preset, stabilize=stabilize, delta=delta, **picking)
    try:
        found = scaled_schedule(options, 20, 5e-4, scale)
    except RequestError:
        return
    grown = found.updates * found.delta + (found.picking.updates * found.picking.delta if found.picking else 0)
    assert grown > found.ceiling


def test_milestones_are_those_of_the_paper(greg: Greg) -> None:
    steps = 5005  # of ImageNet, batch 256
    schedule = Schedule(1e-2, 90 * steps, Decay.MULTISTEP, 0, shares("1/3,2/3,5/6"))
    for epoch, rate in {0: 1e-2, 29: 1e-2, 30: 1e-3, 59: 1e-3, 60: 1e-4, 74: 1e-4, 75: 1e-5, 89: 1e-5}.items():
        assert schedule.at(epoch * steps) == pytest.approx(rate)
        assert schedule.at(epoch * steps + steps - 1) == pytest.approx(rate)
    words = ("train", DIGITS, "--data", "digits", "-o", "o.pt", "--milestones")
    for text, said in {"1/3": "no effect without --decay multistep", "2": "like 1/2,3/4", "x": "like 1/2,3/4"}.items():
        more = () if text == "1/3" else ("--decay", "multistep")
        assert said in greg(*words, text, *more).error()
    for text in ("0.5,0.5", "0", "1", "1/0", "", "nan", "0.9,0.1"):
        assert greg(*words, text, "--decay", "multistep").code == 2


def test_a_phase_has_one_length(greg: Greg) -> None:
    words = ("regularize", DIGITS, "--data", "digits", "--ratios", "0.5", "-o", "o.pt", "--scale")
    assert "--scale is what --budget decides" in greg(*words, "0.5", "--budget", "9s").error()
    assert "--scale 0.0: it must be above 0" in greg(*words, "0").error()
    assert "leaves 3, but 10 are the least" in greg(*words, "0.01", "--ceiling", "1").error()


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    ran = program.greg(tmp_path, "demo", "d", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["pruned"]["top1"] > 95
    assert ran.json["macs_speedup"] > 1.9
    assert len(ran.json["commands"]) == 6
    assert "not empty" in program.greg(tmp_path, "demo", "d").error()
