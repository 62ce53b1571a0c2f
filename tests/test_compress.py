"""`greg compress`: the chain typed by hand and nothing else, which goes on, and whose gates leave no file."""

from __future__ import annotations

import json
import shutil
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from hypothesis import assume, given
from hypothesis import strategies as st

from greg_compress.cli import app, compressing
from greg_compress.cli.arguments import model_options
from greg_compress.cli.compressing import against_target
from greg_compress.cli.grouped import as_said
from greg_compress.cli.running import Line, grid_from
from greg_compress.cli.selecting import selection
from greg_compress.errors import InputError, RequestError
from greg_compress.options.network import ModelOptions, Output
from greg_compress.recipes.writing import is_untouched, require_plain, written
from greg_compress.reporting import Reporter
from greg_compress.state.models import open_beside, open_model
from tests import program
from tests.conftest import Ran
from tests.test_recipes import TINY, began, done, tensors
from tests.test_training import assert_same

Greg = Callable[..., Ran]
SAID = ("--data", "digits", "--batch-size", "64", "--scale", "0.05")
"""After these the phase has 15 iterations, and fine-tuning 6."""
WHOLE = ("compress", "base.pt", *SAID, "--ratios", "0.5", "--seed", "3", "--max-latency", "10s", "--max-drop", "100")
STEPS = ["regularized", "pruned", "final", "exported", "top1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small trained network and the file that defines it, compressed to m.onnx."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "tiny.py").write_text(TINY.replace("(in_channels, 16, 16)", "(in_channels, 8, 8)"))
    words = ("train", "--arch", "tiny.py:tiny", "--arch-arg", "in_channels=1", "--data", "digits", "--epochs", "3")
    for typed in ((*words, "--batch-size", "64", "-o", "base.pt"), (*WHOLE, "-o", "m.onnx", "--json")):
        ran = program.greg(folder, *typed)
        assert ran.code == 0, ran.err
    (folder / "m.json").write_text(ran.out)
    return folder


@pytest.fixture
def here(base: Path, tmp_path: Path) -> Path:
    """The network alone."""
    for name in ("tiny.py", "base.pt"):
        shutil.copy(base / name, tmp_path)
    return tmp_path


@pytest.fixture
def finished(base: Path, tmp_path: Path) -> Path:
    """The network, and all that came of it."""
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    return tmp_path


def compress(greg: Greg, *more: object) -> Ran:
    return greg(*WHOLE, *more, "-o", "m.onnx", "--json")


def weights_in(path: Path) -> dict[str, Any]:
    return {held.name: onnx.numpy_helper.to_array(held) for held in onnx.load(path).graph.initializer}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_it_is_the_chain_typed_by_hand(greg: Greg, finished: Path) -> None:
    training = ("--data", "digits", "--batch-size", "64", "--seed")
    for seed in (3, 4):
        for words in (
            ("regularize", "base.pt", "--ratios", "0.5", *training, seed, "--scale", "0.05", "-o", f"r{seed}.pt"),
            ("prune", f"r{seed}.pt", "-o", f"p{seed}.pt"),
            ("finetune", f"p{seed}.pt", *training, seed, "--epochs", "0.25", "-o", f"f{seed}.pt"),
        ):
            assert greg(*words).code == 0
    assert greg("export", "f3.pt", "-o", "e3.onnx", "--runs", "1").code == 0
    made = finished / "m.onnx.greg"
    assert_same(tensors(made / "regularized.pt"), tensors(finished / "r3.pt"))
    assert_same(tensors(made / "final.pt"), tensors(finished / "f3.pt"))
    assert same(weights_in(finished / "m.onnx"), weights_in(finished / "e3.onnx"))
    with pytest.raises(AssertionError):
        assert_same(tensors(made / "final.pt"), tensors(finished / "f4.pt"))

    document = json.loads((finished / "m.json").read_text())
    dense, after = (greg("evaluate", name, "--data", "digits", "--json").json for name in ("base.pt", "m.onnx"))
    assert (document["dense"]["top1"], document["pruned"]["top1"]) == (dense["top1"], after["top1"])
    assert document["drop"] == pytest.approx(dense["top1"] - after["top1"])
    costs = [greg("analyze", name, "--json").json for name in ("base.pt", "f3.pt")]
    for key in ("params", "macs"):
        assert [document[which][key] for which in ("dense", "pruned")] == [cost[key] for cost in costs]
    assert document["pruned"]["onnx_size"] == (finished / "m.onnx").stat().st_size
    assert document["dense"]["onnx_size"] > document["pruned"]["onnx_size"]
    assert document["speedup"] == pytest.approx(document["dense"]["p50_ms"] / document["pruned"]["p50_ms"])
    assert (document["onnx"], document["recipe"], document["passed"]) == ("m.onnx", "m.onnx.greg/recipe.toml", True)


def test_what_is_finished_is_not_done_again_and_the_recipe_is_a_real_one(greg: Greg, finished: Path) -> None:
    first = (finished / "m.onnx").read_bytes()
    assert "m.onnx exists; add --force" in compress(greg).error()
    (finished / "m.onnx").unlink()
    for ran in (compress(greg), compress(greg, "--force"), greg("run", "m.onnx.greg/recipe.toml", "-o", "m.onnx.greg")):
        assert (ran.code, began(ran)) == (0, [])
    assert (finished / "m.onnx").read_bytes() == first
    (finished / "m.onnx").unlink()
    refused = compress(greg, "--seed", "1")
    assert "regularized.json says that it was made by another command line (--seed 3); add --force" in refused.error()
    (finished / "m.onnx.greg" / "final.pt").unlink()
    assert began(compress(greg)) == ["final"]


@pytest.mark.parametrize(
    "result", [{}, {"params": []}, {"params": {"before": "x", "after": None}}, {"params": {"before": 1}}]
)
def test_records_that_tell_nothing_are_one_line(greg: Greg, finished: Path, result: Any) -> None:
    (finished / "m.onnx").unlink()
    path = finished / "m.onnx.greg" / "pruned.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"result": result | {"macs_speedup": 2.0}}))
    ran = compress(greg)
    assert (ran.code, ran.out) == (4, "")
    assert "pruned" in ran.error() or "the records in m.onnx.greg are damaged" in ran.error()
    assert not (finished / "m.onnx").exists()


def test_another_model_of_the_same_name_is_not_the_old_one(greg: Greg, finished: Path) -> None:
    (finished / "m.onnx").unlink()
    old = (finished / "base.pt").read_bytes()
    state = torch.load(finished / "base.pt", weights_only=True)
    state["weights"]["conv1.weight"][0] += 0.5
    torch.save(state, finished / "base.pt")
    ran = compress(greg)
    assert (ran.code, began(ran)) == (2, [])
    assert "regularized.json says that it read another base.pt; add --force" in ran.error()
    (finished / "base.pt").write_bytes(old)
    assert compress(greg).code == 0


def test_an_edited_recipe_is_not_replaced_unasked(greg: Greg, finished: Path) -> None:
    (finished / "m.onnx").unlink()
    recipe = finished / "m.onnx.greg" / "recipe.toml"
    edited = recipe.read_text().replace("epochs = 0.25", "epochs = 0.5")
    recipe.write_text(edited)
    ran = compress(greg)
    assert ran.code == 2
    assert "recipe.toml was edited; run it as it is (greg run " in ran.error()
    assert (recipe.read_text(), (finished / "m.onnx").exists()) == (edited, False)
    assert compress(greg, "--force").code == 0
    assert recipe.read_text() != edited


def test_an_interrupted_run_goes_on_bit_for_bit(here: Path, base: Path) -> None:
    running = program.start(here, *WHOLE, "-o", "m.onnx")
    running.wait_for("pushing 1/")
    running.signal(signal.SIGTERM)
    ran = running.finish()
    assert ran.code == 128 + signal.SIGTERM
    assert ran.error() == "greg: interrupted; the same command goes on"
    assert not (here / "m.onnx").exists()
    again = program.greg(here, *WHOLE, "-o", "m.onnx")
    assert (again.code, began(again)) == (0, STEPS)
    assert "going on from iteration" in again.err
    assert same(weights_in(here / "m.onnx"), weights_in(base / "m.onnx"))


def test_gates_leave_no_file_and_may_be_changed(greg: Greg, finished: Path) -> None:
    late = compress(greg, "--max-latency", "1us", "--force")
    assert (late.code, began(late)) == (3, ["exported"])
    assert "exported: p50 is " in late.error()
    assert late.json["passed"] is False
    assert (late.json["onnx"], late.json["pruned"]["top1"], late.json["drop"]) == (None, None, None)
    assert late.json["pruned"]["p50_ms"] > 0.001

    folder = finished / "m.onnx.greg"
    (finished / "m.onnx").unlink()
    (folder / "exported.onnx").unlink(missing_ok=True)
    ran = compress(greg)  # nothing that is finished says otherwise
    assert (ran.code, began(ran)) == (0, ["exported"])

    known = json.loads((folder / "top1.json").read_text())
    known["result"]["top1"] = ran.json["dense"]["top1"] - 0.75
    (folder / "top1.json").write_text(json.dumps(known))
    for most, code in (("0.5", 3), ("0", 3), ("0.74", 3), ("0.75", 0), ("1", 0)):
        (finished / "m.onnx").unlink(missing_ok=True)
        judged = compress(greg, "--max-drop", most)
        assert (judged.code, began(judged), (finished / "m.onnx").exists()) == (code, [], code == 0)
        assert judged.json["drop"] == pytest.approx(0.75)
        if code:
            assert f"top-1 fell by 0.75 points, from {ran.json['dense']['top1']:.2f}% to " in judged.error()
            assert f"more than --max-drop {most}; m.onnx was not written" in judged.json["reason"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("tiny.py:tiny", "--ratios", "0.5"), 2, "tiny.py:tiny has no trained weights to compress; train it"),
        (("torchvision:resnet18", "--ratios", "0.5"), 2, "no trained weights to compress"),
        (("base.pt",), 2, "say what to prune with one of --ratios, --plan, --target-macs"),
        (("base.pt", "--ratios", "0.5", "--target-macs", "50%"), 2, "not --ratios and --target-macs"),
        (("base.pt", "--skip", "layer1"), 2, "--skip would have no effect"),
        (("base.pt", "--ratios", "2"), 2, "--ratios 2"),
        (("base.pt", "--ratios", "layr1=0.5"), 2, "nearest: layer1"),
        (("base.pt", "--ratios", "0.5", "--batch", "0"), 2, "--batch 0"),
        (("base.pt", "--ratios", "0.5", "--max-drop", "-1"), 2, "--max-drop -1.0: write points of top-1"),
        (("base.pt", "--ratios", "0.5", "--max-drop", "nan"), 2, "--max-drop nan: write points of top-1"),
        (("base.pt", "--ratios", "0.5", "--max-latency", "fast"), 2, "--max-latency fast"),
        (("base.pt", "--ratios", "0.5", "--scale", "0"), 2, "--scale 0.0: it must be above 0"),
        (("base.pt", "--ratios", "0.5", "--epochs", "nan"), 2, "--epochs nan: it must be above 0"),
        (("base.pt", "--ratios", "0.5", "--data", "digit"), 2, "--data digit: unknown"),
        (("base.pt", "--ratios", "0.5", "--method", "greg-2", "--criterion", "max"), 2, "--criterion would have no"),
        (("base.pt", "--ratios", "0.5", "--arch-arg", "a=1"), 2, "--arch-arg would have no effect without --arch"),
        (("base.pt", "--ratios", "0.5", "-o", "base.pt"), 2, "base.pt exists"),
        (("base.pt", "--ratios", "0.5", "-o", "m.pt2"), 2, "m.pt2 is no name for an ONNX file; end it in .onnx"),
        (("base.pt", "--ratios", "0.5", "-o", "taken.onnx"), 2, "taken.onnx.greg is a file"),
        (("base.pt", "--ratios", "0.5", "-o", "none/m.onnx"), 1, "cannot be written"),
        (("base.pt", "--plan", "{a}.json"), 2, "{a} has a meaning in recipes; choose a name without braces"),
        (("none.pt", "--ratios", "0.5"), 4, "none.pt does not exist"),
        ((".", "--ratios", "0.5"), 4, ". is a directory"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    greg: Greg, here: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    (here / "taken.onnx.greg").write_text("")
    before = sorted(here.iterdir())
    ran = greg("compress", "--data", "digits", "-o", "m.onnx", *words, "--json")
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert said in ran.error()
    left = set(here.rglob("*")) - set(before)
    assert not [path for path in left if path.suffix in (".pt", ".onnx", ".tmp") and path.is_file()]


def test_weights_of_a_network_elsewhere(greg: Greg, here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every step may run the named file, and the dense network is built with its arguments where it is compared."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    torch.save(tensors(here / "base.pt"), elsewhere / "w.pth")
    (here / "tiny.py").rename(elsewhere / "net.py")
    words = ("compress", elsewhere / "w.pth", "--arch", f"{elsewhere}/net.py:tiny", "--arch-arg", "in_channels=1")
    ran = greg(*words, *SAID, "--target-macs", "60%", "-o", "m.onnx", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["dense"]["params"] == sum(tensor.numel() for tensor in _parameters(here / "base.pt"))
    assert ran.json["dense"]["p50_ms"] is not None


def test_states_of_a_network_elsewhere(greg: Greg, here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The dense state that the exported file is compared with, or learns from, runs the named file, too."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "net.py").write_text((here / "tiny.py").read_text() + "# another file\n")
    arch = ("--arch", f"{elsewhere}/net.py:tiny")
    train = ("--data", "digits", "--iterations", 2)
    assert greg("train", *arch, "--arch-arg", "in_channels=1", *train, "-o", "b.pt").code == 0
    assert greg("prune", "b.pt", *arch, "--ratios", "0.5", "-o", "p.pt").code == 0
    assert greg("finetune", "p.pt", *arch, *train, "--teacher", "b.pt", "-o", "f.pt").code == 0
    ran = greg("export", "f.pt", *arch, "--baseline", "b.pt", "--runs", 1, "-o", "f.onnx", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["macs_speedup"] > 1


def _parameters(path: Path) -> list[Any]:
    return [held for name, held in tensors(path).items() if "running" not in name and "num_batches" not in name]


def test_a_baseline_of_weights_is_of_the_network_beside_it(tmp_path: Path) -> None:
    made = torchvision.models.squeezenet1_1(num_classes=7)
    torch.save(made.state_dict(), tmp_path / "w.pth")
    words = {"arch": "torchvision:squeezenet1_1", "arch_arg": ["num_classes=7"], "input_shape": ["3,64,64"]}
    first = open_model(model_options(str(tmp_path / "w.pth"), **words)).state  # type: ignore[arg-type]
    beside = open_beside(str(tmp_path / "w.pth"), ModelOptions("final.pt"), first)
    assert_same(beside.model.state_dict(), made.state_dict())
    assert beside.state.input_shapes == ((3, 64, 64),)
    with pytest.raises(InputError, match="name their network with --arch"):
        open_beside(str(tmp_path / "w.pth"), ModelOptions("final.pt"))


def test_every_word_that_is_passed_on_is_one_of_the_phase() -> None:
    import inspect

    known = Line(app).words()["regularize"].options
    for builder in (model_options, selection):
        said = as_said(builder, "threads", "batch")
        words = {name.replace("_", "-") for name in inspect.signature(said).parameters}
        assert words <= known.keys()
    assert as_said(selection)(ratios="0.5", skip=["a"], coupled=True, align=None, unstructured=False, scope=None) == {
        "ratios": "0.5",
        "skip": ["a"],
        "coupled": True,
    }


plain = st.text().filter(lambda text: text.isprintable() and "{" not in text)
option = plain | st.lists(plain, min_size=1, max_size=3) | st.integers(0, 2**31) | st.booleans() | st.floats(1e-6, 1e6)
bodies = st.dictionaries(st.sampled_from(["ratios", "skip", "max-drop", "seed"]), option)


@given(plain, bodies, st.dictionaries(st.sampled_from(["a", "b"]), bodies))
def test_a_written_recipe_says_what_it_was_given(model: str, values: Any, steps: Any) -> None:
    require_plain(model)
    text = written("a comment", {"model": model, **values}, steps, {"top-1": "a.top1"})
    expected = {"values": {"model": model, **values}, "results": [{"name": "top-1", "figure": "a.top1"}]}
    assert tomllib.loads(text) == (expected | {"steps": steps} if steps else expected)
    assert is_untouched(text)


@pytest.mark.parametrize("text", ["a{b}", "{}", "line\nbreak", "\x7f", "\udcff", "\u202e"])
def test_what_a_recipe_would_not_hold_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        require_plain(text)


def test_a_touched_recipe_is_told_from_an_untouched_one() -> None:
    text = written("a comment", {"model": "a.pt"}, {"a": {"command": "prune"}}, {})
    start = text.index("[values]")
    for at in range(start, len(text)):
        assert not is_untouched(text[:at] + "#" + text[at + 1 :]), at
        assert not is_untouched(text[:at])
    assert not is_untouched("")


@given(st.floats(1.01, 100), st.floats(0.01, 100), st.booleans())
def test_a_target_in_time_is_met_within_five_percent(asked: float, ratio: float, by_speedup: bool) -> None:
    """`ratio` is the time that was asked for over what the file takes."""
    if by_speedup:
        found = against_target({"target-speedup": f"{asked}x"}, {"speedup": asked * ratio})
    else:
        found = against_target({"target-latency": f"{asked}ms"}, {"speedup": 3.0, "pruned": {"p50_ms": asked / ratio}})
    assume(abs(ratio * 1.05 - 1) > 1e-9)
    assert found is not None
    assert (found["met"], found["asked"]) == (ratio > 1 / 1.05, pytest.approx(asked))
    assert against_target({"ratios": "0.5"}, {"speedup": 1.0}) is None


@pytest.mark.parametrize(("asked", "warned"), [("900x", True), ("0.001x", False)])
def test_a_missed_target_is_said(finished: Path, monkeypatch: pytest.MonkeyPatch, asked: str, warned: bool) -> None:
    """Everything is finished, and the exported file was measured then."""

    class Heard(Reporter):
        said = ""

        def warn(self, text: str) -> None:
            self.said += text

    monkeypatch.chdir(finished)
    monkeypatch.setattr(compressing, "parse_factor", lambda _, text: float(text[:-1]))
    path, output, ui = Path("m.onnx.greg/recipe.toml"), Output(Path("m.onnx"), force=True), Heard()
    text = path.read_text()
    report = compressing.run(app, grid_from(app, text, path), text, {"target-speedup": asked}, None, output, ui)
    assert report["target"]["met"] is not warned
    missed = f"the exported file misses --target-speedup {asked} (measured: {report['speedup']:.2f}x), which was met"
    assert (missed in ui.said) is warned


def test_a_folder_where_nothing_was_finished_takes_other_options(greg: Greg, here: Path) -> None:
    for ratios in ("[0.5]", "[0, 0.5]"):
        failed = compress(greg, "--ratios", ratios)
        assert failed.code == 2
        assert f"regularized: --ratios {ratios}" in failed.error()
    assert done(here / "m.onnx.greg") == {"regularized": None}
