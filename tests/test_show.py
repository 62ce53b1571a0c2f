"""`greg show`, and the line that ends every command: one function knows what comes next, and what it says works."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from typer.main import get_command

import greg_compress
from greg_compress import retyping
from greg_compress.cli import app, arguments, selecting
from greg_compress.recording import recorded
from greg_compress.state import files
from tests import program
from tests.conftest import DIGITS, RESNET, ROOT, Ran
from tests.test_documentation import chain

Chain = tuple[Path, dict[str, Ran], list[list[str]]]
RESULT_KEYS = ("recipe", "values", "each", "steps", "cells", "results")
TINY = {"train": ["--iterations", "4"], "finetune": ["--iterations", "4"], "regularize": ["--scale", "0.04"]}
TINY |= {"export": ["--runs", "5"]}


def following(done: Ran) -> list[str]:
    """The words of the last line, after `greg`."""
    assert done.code == 0, done.err
    line = done.out.splitlines()[-1]
    assert line.startswith("next: greg "), done.out
    return shlex.split(line.removeprefix("next: greg "))


def follow(folder: Path, words: list[str], most: int = 12) -> tuple[dict[str, Ran], list[list[str]]]:
    """Type a command, then what it says, and so on until it says nothing or itself."""
    done, typed = {}, []
    for _ in range(most):
        typed.append(words)
        ran = program.greg(folder, *words, *TINY.get(words[0], []))
        done[words[0]] = ran
        assert ran.code == 0, f"{words}: {ran.err}"
        if "next: " not in ran.out:
            break
        words = following(ran)
    return done, typed


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain with spaces")
    shutil.copy(RESNET, folder / "own net.py")
    start = ["train", "--arch", "own net.py:resnet20", "--arch-arg", "in_channels=1", "--arch-arg", "width=8"]
    return folder, *follow(folder, [*start, "--data", "digits", "--batch-size", "64", "-o", "base.pt"])


def test_printed_lines_alone_lead_from_training_to_a_checked_onnx_file(followed: Chain) -> None:
    folder, _, typed = followed
    commands = [words[0] for words in typed]
    assert commands == ["train", "analyze", "regularize", "prune", "finetune", "export", "evaluate", "show"]
    assert all(
        (folder / name).is_file() for name in ("base.pt", "regularized.pt", "pruned.pt", "final.pt", "final.onnx")
    )
    assert typed[5] == ["export", "final.pt", "--baseline", "base.pt", "-o", "final.onnx"]


def test_a_line_that_does_not_work_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"nothing\.pt does not exist"):
        follow(tmp_path, ["prune", "nothing.pt", "-o", "x.pt"])


def test_the_chain_of_the_readme_is_what_its_commands_say(followed: Chain) -> None:
    """But for where it evaluates the state, and for its own network."""
    text = chain().replace("sample_models/digits_resnet20.pt", "base.pt")
    lines = [shlex.split(line)[1:] for line in text.splitlines()]
    assert followed[2][1:6] == [words for words in lines if words[0] != "evaluate"]


def test_show_and_the_commands_say_the_same(followed: Chain) -> None:
    """What ends a command is the first complete way of `greg show` on its file."""
    folder, done, _ = followed
    for command, file in {"prune": "pruned.pt", "finetune": "final.pt", "regularize": "regularized.pt"}.items():
        ways = program.greg(folder, "show", file, "--json").json["next"]
        first = next(way["command"] for way in ways if way["complete"])
        said = shlex.join(["greg", *following(done[command])])
        assert first.rpartition(" -o ")[0] == said.rpartition(" -o ")[0]  # names that are taken by now differ


def test_other_ways_work_too(followed: Chain, tmp_path: Path) -> None:
    """Those beside the chain that train nothing."""
    folder = tmp_path / "copy"
    shutil.copytree(followed[0], folder)
    typed = []
    for file in ("base.pt", "regularized.pt", "final.pt"):
        for way in program.greg(folder, "show", file, "--json").json["next"]:
            words = shlex.split(way["command"])[1:]
            assert way["complete"]
            if words[0] in ("prune", "evaluate", "plot"):
                typed.append(words[0])
                assert program.greg(folder, *words).code == 0, words
    assert set(typed) == {"prune", "evaluate", "plot"}


def test_json_has_no_last_line_and_steps_of_a_recipe_have_none(greg: Callable[..., Ran]) -> None:
    assert greg("analyze", DIGITS, "--json").json["passed"]
    Path("r.toml").write_text(f'[steps.a]\ncommand = "prune"\nmodel = "{DIGITS}"\nratios = "0.5"\n')
    ran = greg("run", "r.toml", "-o", "out")
    assert [line for line in ran.out.splitlines() if line.startswith("next: ")] == ["next: greg show out/results.json"]
    assert greg(*following(ran)).code == 0
    assert "a recipe, 1 of 1 steps" in greg("show", "out/results.json").out
    record = greg("show", "out/a.json").out
    assert "finished" in record
    assert "greg show out/a.pt" in record


def test_a_network_of_a_file_elsewhere_is_named(greg: Callable[..., Ran], tmp_path: Path) -> None:
    """`--arch` where the file would not be found, and not where it is."""
    (tmp_path / "net.py").write_text(RESNET.read_text() + "\n# another digest\n")
    (tmp_path / "work").mkdir()
    spec = f"{tmp_path}/net.py:resnet20"
    assert following(greg("prune", spec, "--ratios", "0.5", "-o", "work/p.pt"))[:2] == ["export", "work/p.pt"]

    def below(*words: str) -> Ran:
        return program.greg(tmp_path / "work", *words)

    words = following(below("analyze", "p.pt", "--arch", spec, "--ratios", "0.5"))
    assert words[:4] == ["export", "p.pt", "--arch", spec]
    ways = below("show", "p.pt", "--json").json["next"]
    assert [way["complete"] for way in ways if f"p.pt --arch {spec}" in way["command"]] == [
        False,
        True,
        False,
    ]  # no data
    assert below("analyze", "p.pt", "--ratios", "0.5").code == 4
    (tmp_path / "net.py").unlink()
    assert not any(way["complete"] for way in below("show", "p.pt", "--json").json["next"])
    assert "FILE.py:resnet20" in below("show", "p.pt").out


def test_a_selection_that_was_looked_at_is_what_comes_next(followed: Chain) -> None:
    folder, _, _ = followed
    with_it = following(program.greg(folder, "analyze", "final.pt", "--ratios", "0.25"))
    assert with_it[:4] == ["regularize", "final.pt", "--ratios", "0.25"]
    assert following(program.greg(folder, "analyze", "final.pt"))[0] == "export"


def test_a_result_never_lies_where_something_is(greg: Callable[..., Ran]) -> None:
    Path("pruned.pt.partial").touch()
    assert following(greg("analyze", DIGITS, "--ratios", "0.5"))[-1] == "regularized.pt"
    ways = greg("show", DIGITS, "--json").json["next"]
    assert [way["command"].split()[-1] for way in ways if " prune " in way["command"]] == ["digits_resnet20-pruned.pt"]


# What a file is


def test_a_state_is_told_in_words_and_without_its_factory(followed: Chain) -> None:
    folder, *_ = followed
    found = program.greg(folder, "show", "final.pt", "--json").json
    holds, state = found["holds"], files.load(folder / "final.pt")[0]
    assert (found["kind"], holds["stage"], holds["data"], holds["classes"]) == ("state", "finetuned", "digits", 10)
    shutil.copy(folder / "own net.py", folder / "kept")
    network = greg_compress.load(folder / "final.pt", arch=f"{folder / 'own net.py'}:resnet20")
    assert holds["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert holds["plan"]["kept"] == sum(share["kept"] for share in (state.plan or {}).values())
    (folder / "own net.py").rename(folder / "gone")
    try:
        assert program.greg(folder, "show", "final.pt").code == 0  # no factory is called
        assert program.greg(folder, "analyze", "final.pt").code == 4
    finally:
        (folder / "gone").rename(folder / "own net.py")
    commands = [shlex.split(entry["command"])[1] for entry in found["history"]]
    assert commands == ["train", "regularize", "prune", "finetune"]
    outs = [shlex.split(entry["command"])[-1] for entry in found["history"]]
    assert outs == ["base.pt", "regularized.pt", "pruned.pt", "final.pt"]


def test_a_history_typed_again_makes_the_same_state(followed: Chain, tmp_path: Path) -> None:
    """The strongest thing to say of a line: it gives the same weights."""
    folder, *_ = followed
    shutil.copy(folder / "own net.py", tmp_path)
    for entry in program.greg(folder, "show", "final.pt", "--json").json["history"]:
        assert program.greg(tmp_path, *shlex.split(entry["command"])[1:]).code == 0
    one, two = (files.load(where / "final.pt")[0] for where in (folder, tmp_path))
    assert all(torch.equal(one.weights[name], tensor) for name, tensor in two.weights.items())
    assert [e["options"] for e in one.history] == [e["options"] for e in two.history]


def test_unfinished_work_says_the_command_that_goes_on(greg: Callable[..., Ran], tmp_path: Path) -> None:
    words = [
        "regularize",
        DIGITS,
        "--ratios",
        "[0, 0.5, 0.5, 0.3]",
        "--data",
        "digits",
        "--scale",
        "0.06",
        "-o",
        "r.pt",
    ]
    running = program.start(tmp_path, *words, "--skip", "layer1.0", "--save-every", "1")
    running.wait_for("never said", tmp_path / "r.pt.partial")
    running.signal(signal.SIGINT)
    assert running.finish().code == 130
    found = greg("show", "r.pt.partial", "--json").json
    assert (found["kind"], found["holds"]["stage"]) == ("unfinished", "dense")
    assert "iteration" in greg("show", "r.pt.partial").out
    assert greg(*shlex.split(found["next"][0]["command"])[1:]).code == 0
    assert Path("r.pt").is_file()


def test_masks_are_counted(greg: Callable[..., Ran]) -> None:
    assert greg("prune", DIGITS, "--ratios", "0.5", "--unstructured", "-o", "w.pt").code == 0
    holds = greg("show", "w.pt", "--json").json["holds"]
    masks = files.load(Path("w.pt"))[0].masks
    assert holds["masks"]["zero"] == sum(int(mask.sum()) for mask in masks.values()) > 0
    assert "weights are zero" in greg("show", "w.pt").out
    assert greg("show", DIGITS, "--json").json["holds"]["masks"] is None


def test_strange_files_of_tensors(greg: Callable[..., Ran]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, "weights.pth")
    found = greg("show", "weights.pth", "--json").json
    assert (found["kind"], found["holds"]["parameters"]) == ("weights", sum(p.numel() for p in network.parameters()))
    assert not any(way["complete"] for way in found["next"])
    torch.save(network, "whole.pt")
    found = greg("show", "whole.pt", "--json").json
    assert found["kind"] == "pickle"
    assert "Sequential" in found["what"]


def test_an_onnx_file_of_ours_and_of_others(followed: Chain, tmp_path: Path) -> None:
    import onnx

    folder, *_ = followed
    found = program.greg(folder, "show", "final.onnx", "--json").json
    assert found["holds"]["by"] == f"greg {greg_compress.__version__}"
    assert (found["holds"]["classes"], found["holds"]["inputs"][0]["shape"][1:]) == (10, [1, 8, 8])
    kept = {name: share["kept"] for name, share in (files.load(folder / "final.pt")[0].plan or {}).items()}
    assert found["holds"]["kept"] == kept
    model = onnx.load(folder / "final.onnx")
    model.ClearField("metadata_props")
    onnx.save(model, tmp_path / "other.onnx")
    other = program.greg(tmp_path, "show", "other.onnx", "--json").json
    assert "did not export" in other["what"]
    assert other["holds"]["kept"] is None


def test_a_plan_says_how_much_stays(greg: Callable[..., Ran]) -> None:
    assert greg("analyze", DIGITS, "--ratios", "0.5", "--plan-out", "p.json").code == 0
    found = greg("show", "p.json", "--json").json
    groups = json.loads(Path("p.json").read_text())["groups"]
    assert found["holds"]["kept"] == sum(group["kept"] for group in groups)
    ways = [shlex.split(way["command"]) for way in found["next"]]
    assert all("MODEL" in words for words in ways)
    typed = [str(DIGITS) if word == "MODEL" else word for word in ways[-1][1:]]
    assert greg(*typed).code == 0


@pytest.mark.parametrize("recipe", sorted((ROOT / "sample_models" / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_a_recipe_says_its_steps(greg: Callable[..., Ran], recipe: Path) -> None:
    found = greg("show", recipe, "--json").json
    assert found["kind"] == "recipe"
    assert found["holds"]["tasks"] >= len(found["holds"]["commands"]) > 0


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("nothing.pt", None, "does not exist"),
        ("x.txt", b"hello", "none of greg's files"),
        ("empty.pt", b"", "none of greg's files"),
        ("cut.pt", DIGITS.read_bytes()[:5000], "truncated|damaged"),
        ("x.onnx", b"\x08\x01nonsense", "no ONNX file"),
        ("x.toml", b"[steps", "no TOML"),
        ("x.toml", b"[step.a]", "unknown key"),
        ("x.json", b"{", "no JSON"),
        ("x.json", b"[1]", "neither a plan"),
        ("x.json", b'{"format": "greg-plan", "version": 99}', "version 99"),
        ("x.json", b'{"step": 1, "argv": 2, "key": 3, "result": 4}', "damaged"),
        (
            "x.json",
            json.dumps(dict.fromkeys(RESULT_KEYS, 1)).encode(),
            "damaged",
        ),
    ],
)
def test_bad_files_are_one_line_and_exit_4(
    greg: Callable[..., Ran], name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    ran = greg("show", name)
    assert ran.code == 4
    assert re.search(says, ran.error())


@pytest.mark.parametrize("field", ["history", "normalization", "plan", "run"])
def test_a_state_of_nonsense_is_damaged_and_no_crash(greg: Callable[..., Ran], field: str) -> None:
    state, _ = files.load(DIGITS)
    nonsense: Any = {"history": [{"command": "train", "options": 3}], "normalization": {"mean": "\x1b[31m"}}
    setattr(state, field, nonsense.get(field, {"a": 1}))
    files.save(state, Path("odd.pt"), replace=True)
    assert greg("show", "odd.pt").code == 4
    assert "damaged" in greg("show", "odd.pt").error()


def test_a_file_cannot_command_the_terminal(greg: Callable[..., Ran]) -> None:
    state, _ = files.load(DIGITS)
    state.history[0]["options"]["data"] = "digits\x1b[2J"
    state.history[0]["versions"]["torch"] = "\x1b]0;owned\x07"
    files.save(state, Path("odd.pt"), replace=True)
    out = greg("show", "odd.pt").out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "digits?[2J" in out  # it came so far


# A recorded command as it would be typed

COMMANDS: Any = get_command(app)


def as_recorded(words: list[str]) -> dict[str, Any]:
    """What the history says of these words after `greg train`."""
    with COMMANDS.commands["train"].make_context("train", words) as context:
        given = context.params
    model = arguments.trainable_options(*(given[name] for name in ("model", "arch", "arch_arg", "input_shape")))
    names = arguments.training_options.__annotations__.keys() & given.keys()
    return recorded(model, arguments.training_options(**{n: given[n] for n in names}, default_epochs=12))


NUMBERS = st.floats(0.001, 0.9)


@settings(max_examples=15, deadline=None)
@example({}, {"a": "...", "b": "(1,)", "c": "1", "d": "'"})
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "lr": NUMBERS,
            "momentum": NUMBERS,
            "weight-decay": NUMBERS,
            "batch-size": st.integers(1, 999),
            "iterations": st.integers(1, 999),
            "warmup": st.integers(0, 99),
            "seed": st.integers(0, 2**40),
            "val-fraction": NUMBERS,
            "decay": st.sampled_from(["cosine", "constant"]),
            "device": st.sampled_from(["cpu", "auto"]),
            "tf32": st.just(True),
            "compile": st.just(True),
        },
    ),
    st.dictionaries(st.text("abc", min_size=1), st.one_of(st.booleans(), NUMBERS, st.text("ab1'. -"))),
)
def test_what_is_recorded_can_be_typed_again(options: dict[str, Any], kwargs: dict[str, Any]) -> None:
    words = ["--arch", "torchvision:resnet18", "--data", "digits", "-o", "x.pt"]
    for key, value in kwargs.items():
        words += ["--arch-arg", f"k_{key}={value!r}"]
    for key, value in options.items():
        words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    first = as_recorded(words)
    again = retyping.retyped("train", first)
    assert again[0] == "train"
    assert as_recorded([*again[1:], "-o", "x.pt"]) == first


@pytest.mark.parametrize(
    "given",
    [
        {"ratios": "[0, 0.5]", "skip": ["a", "-b"], "align": "8"},
        {"ratios": "0.5", "scope": "global", "max_ratio": "0.75", "criterion": "random:3"},
        {"target_macs": "33.333%", "coupled": True},
        {"target_params": "0.4567", "align": "auto"},
        {"target_latency": "1.5ms", "threads": 2, "batch": 4},
        {"target_speedup": "1.7x"},
        {"ratios": "0.3", "unstructured": True, "skip": ["fc"]},
    ],
)
def test_a_selection_can_be_typed_again(given: dict[str, Any]) -> None:
    chosen = selecting.selection(**given)
    assert chosen is not None
    words = [*retyping.selected(chosen), str(DIGITS), "-o", "x.pt"]
    with COMMANDS.commands["prune"].make_context("prune", words) as context:
        names = selecting.selection.__annotations__.keys() & context.params.keys()
        again = selecting.selection(**{name: context.params[name] for name in names})
    assert again == chosen


def test_that_oracle_sees_a_lost_option() -> None:
    chosen = selecting.selection(ratios="0.5", coupled=True)
    assert chosen is not None
    assert "--coupled" in retyping.selected(chosen)
    assert selecting.selection(ratios="0.5") != chosen
