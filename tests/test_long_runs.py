"""What is known of a long run before and while it goes on: its pace, a budget that it fits, its log."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from greg_compress.cli.arguments import seconds
from greg_compress.errors import RequestError
from greg_compress.long_run.pace import Pace
from greg_compress.options.penalty import Method, PenaltyOptions, Preset
from greg_compress.penalty.presets import PRESETS
from greg_compress.penalty.schedule import LONGEST, SHORTEST, fitted_schedule, resolve_schedule
from tests import program
from tests.conftest import DIGITS
from tests.test_interrupt import DENSE, REGULARIZE, tensors_and_figures
from tests.test_recipes import TINY
from tests.test_training import assert_same


@settings(max_examples=300, deadline=None)
@given(
    allowed=st.integers(SHORTEST, 200_000),
    preset=st.sampled_from(Preset),
    method=st.sampled_from(Method),
    steps=st.integers(1, 6000),
)
@example(allowed=SHORTEST, preset=Preset.PAPER_IMAGENET, method=Method.GREG_2, steps=1)
def test_a_schedule_uses_what_it_is_allowed_and_no_more(
    allowed: int, preset: Preset, method: Method, steps: int
) -> None:
    options = PenaltyOptions(method, preset)
    whole = resolve_schedule(options, steps, 5e-4)
    found = fitted_schedule(options, steps, 5e-4, allowed)
    longest = LONGEST if preset is Preset.QUICK else whole.iterations
    assert found.iterations <= allowed
    assert found.iterations >= 0.85 * min(allowed, longest)
    assert found.ceiling == whole.ceiling
    assert found.update_every <= whole.update_every
    assert found.updates * found.delta + (found.picking.updates * found.picking.delta if found.picking else 0) > 0
    share = found.stabilize / found.iterations - whole.stabilize / whole.iterations
    assert abs(share) < 0.1


@pytest.mark.parametrize("preset", Preset)
def test_what_the_papers_settings_take_is_left_to_them(preset: Preset) -> None:
    options = PenaltyOptions(Method.GREG_2, preset)
    whole = resolve_schedule(options, 391, PRESETS[preset].weight_decay)
    assert fitted_schedule(options, 391, PRESETS[preset].weight_decay, whole.iterations) == whole


def test_a_budget_of_a_moment_is_refused() -> None:
    with pytest.raises(RequestError, match="the budget allows 99 iterations, but 100 are the least"):
        fitted_schedule(PenaltyOptions(), 100, 5e-4, 99)


@given(st.integers(1, 10_000), st.integers(0, 100), st.integers(1, 10**6))
def test_iterations_in_a_budget_take_no_longer(milliseconds: int, evaluations: int, budget: int) -> None:
    assume(evaluations < budget / 2)
    pace = Pace(milliseconds / 1000, evaluations)
    assert pace.seconds(pace.iterations_in(budget)) <= budget


@pytest.mark.parametrize(("text", "found"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m5s", 5405)])
def test_times(text: str, found: float) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["", "30", "m", "1.5h", "-3s", "0m", "5s3m", "9" * 99 + "s"])
def test_no_times(text: str) -> None:
    with pytest.raises(RequestError, match="write a time, like 90s, 30m or 1h30m"):
        seconds(text)


SHORT = ("regularize", DIGITS, "--ratios", "0.5", "--data", "digits", "--batch-size", "64", "--precision", "fp32")


def lines(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for line in found:
        line.pop("clock")
    return found


def test_time_says_when_it_would_end_and_leaves_nothing(tmp_path: Path) -> None:
    ran = program.greg(tmp_path, *SHORT, "-o", "o.pt", "--time", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert found["iterations"] == 330
    assert found["seconds"] >= 330 * found["seconds_per_iteration"] > 0
    assert found["top1_after"] is None
    assert list(tmp_path.iterdir()) == []


def test_a_budget_is_chosen_once_and_stored(tmp_path: Path) -> None:
    """The interrupted run goes on with what was chosen, however fast the machine is by then."""
    (tmp_path / "tiny.py").write_text(TINY.replace("(in_channels, 16, 16)", "(in_channels, 8, 8)"))
    small = ("regularize", "tiny.py:tiny", "--arch-arg", "in_channels=1", *SHORT[2:])
    words = (*small, "--budget", "6s", "-o", "o.pt")
    running = program.start(tmp_path, *words)
    running.wait_for("pushing 1/")
    running.signal(signal.SIGINT)
    stopped = running.finish()
    assert stopped.code == 130
    total = stopped.err.partition("pushing 1/")[2].split()[0]
    ran = program.greg(tmp_path, *words, "--resume", "--json")
    assert ran.code == 0
    result = json.loads(ran.out)
    assert result["iterations"] == int(total)
    entry = tensors_and_figures(tmp_path / "o.pt")["history"][-1]
    assert entry["options"]["budget"] == 6.0
    assert {name: entry["metrics"][name] for name in ("delta", "update_every", "stabilize")} == {
        name: result[name] for name in ("delta", "update_every", "stabilize")
    }


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--budget", "1h", "--delta", "0.1"), 2, "--delta is what --budget decides"),
        (("--budget", "soon"), 2, "write a time, like 90s"),
        (("--log", "o.pt"), 2, "is a file of this command's own"),
        (("--log", "notes.txt"), 2, "exists; add --force"),
        (("--log", "notes.txt", "--resume"), 2, "is no log of greg's"),
        (("--log", "."), 2, "is no ordinary file"),
        (("--log", "missing/log.jsonl"), 1, "cannot be written"),
    ],
)
def test_bad_words(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    (tmp_path / "notes.txt").write_text("to be kept\n")
    ran = program.greg(tmp_path, *SHORT, "-o", "o.pt", *words)
    assert ran.code == code
    assert said in ran.error()
    assert (tmp_path / "notes.txt").read_text() == "to be kept\n"
    assert not (tmp_path / "o.pt").exists()


def test_a_log_can_be_read_while_it_grows_and_survives_a_kill(tmp_path: Path, narrow: Path) -> None:
    shutil.copy(narrow, tmp_path / DENSE)
    words = (*REGULARIZE, "--val-fraction", "0.1")
    assert program.greg(tmp_path, *words, "-o", "straight.pt", "--log", "straight.jsonl").code == 0
    whole = lines(tmp_path / "straight.jsonl")
    assert whole[0]["test_top1"] is not None
    assert whole[-1]["test_top1"] is not None
    middle = whole[1:-1]
    assert [line["iteration"] for line in middle] == sorted({line["iteration"] for line in middle})
    assert {20, 40} < {line["iteration"] for line in middle}
    assert any(line["val_top1"] is not None for line in middle)

    running = program.start(tmp_path, *words, "-o", "o.pt", "--log", "o.jsonl")
    running.wait_for("never", tmp_path / "o.pt.partial")
    assert lines(tmp_path / "o.jsonl")  # while it runs
    running.signal(signal.SIGKILL)
    running.finish()
    with (tmp_path / "o.jsonl").open("a") as file:
        file.write('{"iteration": 4')  # a line that was not finished
    assert program.greg(tmp_path, *words, "-o", "o.pt", "--log", "o.jsonl", "--resume").code == 0
    assert lines(tmp_path / "o.jsonl") == whole
    assert_same(tensors_and_figures(tmp_path / "straight.pt"), tensors_and_figures(tmp_path / "o.pt"))
