"""Files that somebody made to do harm: what opening them may not do. SECURITY.md names these tests.

Files of tensors have their own in `test_tensor_files.py`, states in `test_state.py` and `test_models.py`.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from greg_compress.cli.running import Line
from greg_compress.cli.terminal import console, make_table
from greg_compress.deploy import opening
from greg_compress.errors import GregError, InputError
from greg_compress.latency_target import timetable
from greg_compress.recipes import records
from greg_compress.recipes.expand import _slugs, expand
from greg_compress.recipes.figures import document
from greg_compress.recipes.recipe import OWN
from greg_compress.recipes.recipe import parsed as parsed_recipe
from greg_compress.selection.plan_file import read_plan
from greg_compress.selection.ratios import parse_ratios
from greg_compress.small_files import parsed, read_small
from greg_compress.sources.data import load_data
from greg_compress.sources.specs import parse_data
from greg_compress.tensor_files.arrays import read_idx
from greg_compress.whole_files import require_free
from tests.conftest import DIGITS, Ran
from tests.test_deployed import END, FLAT, saved
from tests.test_plot import finetuned
from tests.test_recipes import COMMANDS
from tests.test_sources import idx, write_fashion
from tests.test_tensor_files import MOST_MEMORY, Hostile, measurable, mutated, peak, reset_peak

Greg = Callable[..., Ran]
LONGEST = 60
"""Seconds of this machine, with others at work on it, that no small file may take."""
STEP = f'command = "prune"\nmodel = "{DIGITS}"\nratios = 0.5\n'
RECIPE = f"""seeds = [0, 1]
[values]
data = "digits"
[each]
ratio = [0.25, 0.5]
[steps.a]
command = "regularize"
model = "{DIGITS}"
data = "{{data}}"
ratios = "{{ratio}}"
seed = "{{seed}}"
[[results]]
name = "loss"
figure = "a.loss"
"""


@contextmanager
def bounded(memory: int = MOST_MEMORY) -> Iterator[None]:
    reset_peak()
    before, started = peak(), time.monotonic()
    yield
    assert peak() - before < memory
    assert time.monotonic() - started < LONGEST


def refused(ran: Ran, said: str, code: int = 4) -> None:
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert said in ran.error()
    assert ran.error().isprintable()


# Small files


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large", "nothing", "long", "nul", "broken link"])
def test_what_is_no_small_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "large":
            path.write_bytes(bytes(101))
        case "broken link":
            path.symlink_to("nowhere")
        case "long" | "nul":
            path = tmp_path / {"long": "x" * 5000, "nul": "a\0b"}[kind]
    with pytest.raises(InputError):
        read_small(path, 100)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(-1e300, 1e300, allow_subnormal=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_plain_json_reads_as_python_reads_it(value: Any) -> None:
    assert parsed(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "-Infinity",
        "1e999",
        "[1, -1e999]",
        "9" * 30,
        "9" * 5000,
        '{"a": 1, "a": 2}',
        "[" * 10**6,
        "{",
        "\xff",
        "",
    ],
)
def test_json_that_python_would_take_or_trip_over(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (what json says)
        parsed(text.encode("latin1"))


BAD: list[Any] = [
    None, True, -1, 0, 2**62, 10**400, 1e308, float("nan"), float("inf"), "", "x", "1", "../../etc/passwd", "a\0b",
    "\x1b[2J\u202e\n[bold]", [], [[]], {}, {"a": {}}, "9" * 5000, "*" * 3000, "@f", "1e-999999999999", "NaN", "0x10",
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a document with every key or index of it."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def spoilt(document: Any, draw: random.Random) -> bytes:
    """A document with values in wrong places, lost, or repeated; or with wrong bytes."""
    changed = json.loads(json.dumps(document))
    for _ in range(draw.choice((1, 1, 2))):
        found = list(places(changed))
        if not found:
            break
        holder, key = draw.choice(found)
        match draw.randrange(5):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw.choice(("x", "name", ""))] = copy.deepcopy(draw.choice(BAD))
            case 2 if isinstance(holder, list):
                holder.append(holder[key])
            case _:
                holder[key] = copy.deepcopy(draw.choice(BAD))
    text = json.dumps(changed)
    if draw.random() < 0.15:
        text = text.replace(",", ',"format": 1,', 1)
    return mutated(text.encode(), draw) if draw.random() < 0.25 else text.encode()


PLAN = {
    "format": "greg-plan",
    "version": 1,
    "groups": [
        {"name": "a", "channels": 8, "kept": 6, "removed": [0, 3]},
        {"name": "b", "channels": 4, "kept": 2, "removed": None},
    ],
}
RATIOS = {"layer1.*": 0.5, "layer2.0.conv1": 0.25}
CACHE = {"[3, 16]": {"3,16": 0.5, "3,8": 0.25}}
RECORD = {"step": "a", "cell": {}, "argv": ["prune", "x"], "reads": {}, "key": "", "result": {"loss": 0.5, "top1": 90}}


def is_refused(opened: Callable[[], Any], case: str) -> bool:
    """Whether it is refused, with the code of a bad input or request; no other error may happen."""
    try:
        opened()
    except GregError as error:
        found = error
    except BaseException as error:
        raise AssertionError(case) from error
    else:
        return False
    assert found.exit_code in (2, 4), (case, str(found))
    return True


def fuzzed(reader: Callable[[Path], Any], content: Any, folder: Path, count: int) -> int:
    """How many of so many spoilt files a reader refuses; it may do nothing else, but read them."""
    refusals = 0
    for seed in range(count):
        path = folder / "f.json"
        path.write_bytes(spoilt(content, random.Random(seed)))
        refusals += is_refused(lambda path=path: reader(path), f"case {seed}: {path.read_bytes()[:300]!r}")
    return refusals


def read_record(path: Path) -> None:
    """Into results, as a run would that finds it."""
    recipe = parsed_recipe(
        f'[steps.f]\n{STEP}[[results]]\nname="x"\nfigure="f.loss"\n'.encode(), Path("r.toml"), (), COMMANDS
    )
    grid = expand(recipe, path.parent, 1.0, COMMANDS)
    (task,) = grid.tasks.values()
    found = records.read(task, path.parent)
    if found is not None and found.result is not None:
        json.dumps(document(grid, {"f": found.result, "x": found.result}), allow_nan=False)


READERS: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "plan": (lambda path: read_plan(str(path)), PLAN),
    "ratios": (lambda path: parse_ratios(f"@{path}"), RATIOS),
    "record": (read_record, RECORD),
}


@pytest.mark.parametrize("kind", READERS)
def test_spoilt_documents(tmp_path: Path, kind: str) -> None:
    reader, content = READERS[kind]
    assert 40 < fuzzed(reader, content, tmp_path, 150) < 150


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_many_spoilt_documents(tmp_path: Path, kind: str) -> None:
    reader, content = READERS[kind]
    fuzzed(reader, content, tmp_path, 20_000)


def test_the_fuzzer_finds_a_reader_that_trusts_its_documents(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="case"):
        fuzzed(lambda path: json.loads(path.read_bytes())["groups"][0]["kept"] + 1, PLAN, tmp_path, 50)


def test_a_spoilt_cache_is_as_good_as_none(tmp_path: Path) -> None:
    """It is read or measured anew, never an error."""
    for seed in range(150):
        path = tmp_path / "layers.json"
        path.write_bytes(spoilt(CACHE, random.Random(seed)))
        found = timetable._read(path)
        assert all(type(value) is float for times in found.values() for value in times.values())
    path.write_bytes(b"[" * 10**6)
    assert timetable._read(path) == {}
    path.unlink()
    os.mkfifo(path)
    assert timetable._read(path) == {}


@measurable
@pytest.mark.parametrize("piece", ["[],", '{"":0},', '"ab",'])
def test_a_plan_file_as_large_as_it_may_be_takes_bounded_memory(tmp_path: Path, piece: str) -> None:
    (tmp_path / "p.json").write_text("[" + piece * (2**22 // len(piece) - 1) + "0]")
    with bounded(), pytest.raises(InputError):
        read_plan(str(tmp_path / "p.json"))


# Recipes


TOML = {
    "an endless number": f"seeds = [{'9' * 3000}]\n[steps.a]\n{STEP}",
    "a number that has no decimals": f"seeds = [0x{'f' * 4000}]\n[steps.a]\n{STEP}",
    "an option of that": f"[steps.a]\n{STEP}align = 0x{'f' * 4000}\n",
    "dots": "a." * 30_000 + "a = 1",
    "dots on many lines": "\n".join(f"a{n}." + "b." * 1000 + "c = 1" for n in range(31)),
    "brackets": "a = " + "[" * 4000,
    "10^9 cells": "[each]\n"
    + "".join(f"v{n} = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n" for n in range(9))
    + f"[steps.a]\n{STEP}",
    "a text of texts": f'[values]\nv = "{"x" * 4000}"\n[steps.a]\n{STEP}skip = ["{"{v}" * 1300}"]\n',
    "a name that is a path": f'[steps."../a"]\n{STEP}',
    "an output elsewhere": f'[steps.a]\n{STEP}out = "/tmp/elsewhere.pt"\n',
    "a log elsewhere": '[steps.a]\ncommand = "train"\narch = "torchvision:resnet18"\ndata = "digits"\nlog = "x"\n',
    "a recipe in a recipe": '[steps.a]\ncommand = "run"\nmodel = "r.toml"\n',
    "a date": f"[values]\nv = 2020-01-01\n[steps.a]\n{STEP}",
    "not a number": '[steps.a]\ncommand = "prune"\nmodel = "m.pt"\nratios = nan\n',
}


@measurable
@pytest.mark.parametrize("name", TOML)
def test_recipes_that_ask_for_too_much(greg: Greg, tmp_path: Path, name: str) -> None:
    (tmp_path / "r.toml").write_text(TOML[name])
    with bounded():
        ran = greg("run", "r.toml")
    assert ran.code in (2, 4), ran.err
    assert ran.error().isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["r.toml"]


def spoilt_recipe(draw: random.Random) -> bytes:
    """With other words, values and bytes in some places."""
    lines = RECIPE.splitlines()
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(lines))
        key, equals, _ = lines[at].partition(" = ")
        value = draw.choice(
            ("nan", "inf", "-1", "[]", "{}", '""', '"-x"', '"--force"', '"../../x"', '"\\u0000"', '"\\u001b[2J"', "0x1",
             "0xffffffffffffffffffff", "9999999999999999999999", "1979-05-27", "[[1]]", '"{data}{ratio}"', '"{"',
             "true", '"{x}"', '["a", "a"]', "[0, 0]", '"@x"', '"x.py:y"', '"' + "x" * 300 + '"')
        )  # fmt: skip
        lines[at : at + 1] = draw.choice(
            ([f"{key}{equals}{value}"], [], [lines[at]] * 2, [f"{draw.choice(OWN)} = {value}"])
        )
    whole = "\n".join(lines).encode()
    return mutated(whole, draw) if draw.random() < 0.2 else whole


def spoilt_recipes(greg: Greg, folder: Path, seeds: range) -> None:
    """Each is read, or refused in one line; nothing is written."""
    for seed in seeds:
        (folder / "r.toml").write_bytes(content := spoilt_recipe(random.Random(seed)))

        def read(content: bytes = content) -> None:
            grid = expand(parsed_recipe(content, Path("r.toml"), (), COMMANDS), Path("out"), 0.5, COMMANDS)
            assert all(Path(stem).name == stem for stem in grid.tasks)

        if not is_refused(read, f"case {seed}: {content!r}") and seed % 20 == 0:
            ran = greg("run", "r.toml", "-o", "out", "--dry-run", "--json")
            assert ran.code in (0, 2, 4), (seed, content, ran.err)
            assert ran.code == 0 or ran.error()
    assert not (folder / "out").exists()


def test_spoilt_recipes(greg: Greg, tmp_path: Path) -> None:
    spoilt_recipes(greg, tmp_path, range(1, 250))


@pytest.mark.slow
def test_many_spoilt_recipes(greg: Greg, tmp_path: Path) -> None:
    spoilt_recipes(greg, tmp_path, range(1000, 20_000))


@given(st.lists(st.text("a/_0.1", max_size=4), unique=True, max_size=8))
def test_every_cell_has_files_of_its_own(values: list[str]) -> None:
    """`a/`, `a` and `a_0` were `a_0`, `a_1` and `a_0`: two cells in one file."""
    found = _slugs(values)
    assert len(set(found.values())) == len(values)
    assert all(set(name) <= set("a_.0123456789") for name in found.values())


def test_a_recipe_runs_no_code_of_others(greg: Greg, tmp_path: Path) -> None:
    """shutil.py defines a callable that takes a path: as good a network as any, until it has returned."""
    (tmp_path / "kept").mkdir()
    step = '[steps.a]\ncommand = "prune"\nmodel = "{net}"\narch-arg = "path=kept"\nratios = 0.5\n'
    (tmp_path / "r.toml").write_text(f'[values]\nnet = "{shutil.__file__}:rmtree"\n{step}')
    for more in ((), ("--dry-run",)):
        refused(greg("run", "r.toml", *more), "runs code of", 2)
    assert (tmp_path / "kept").exists()
    refused(greg("run", "r.toml", "--dry-run", "--set", f"net={shutil.__file__}:rmtree"), "not a torch.nn.Module")
    assert not (tmp_path / "kept").exists()  # what a user names runs


@pytest.mark.parametrize("folder", ["site-packages", "python3.12", ".hidden"])
def test_what_was_installed_below_the_current_directory_is_not_the_users_own(
    greg: Greg, tmp_path: Path, folder: str
) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "n.py").write_text("def f():\n    open('ran', 'w')\n")
    (tmp_path / "r.toml").write_text(f'[steps.a]\ncommand = "prune"\nmodel = "{folder}/n.py:f"\nratios = 0.5\n')
    refused(greg("run", "r.toml", "--dry-run"), "runs code of", 2)
    assert not (tmp_path / "ran").exists()


def test_a_recipe_unpickles_only_where_the_command_line_says_so(greg: Greg, tmp_path: Path) -> None:
    torch.save(Hostile(Path.touch, tmp_path / "ran"), tmp_path / "net.pt")
    (tmp_path / "r.toml").write_text(
        '[steps.a]\ncommand = "prune"\nmodel = "net.pt"\nallow-pickle = true\ninput-shape = "1,8,8"\nratios = 0.5\n'
    )
    for more in ((), ("--dry-run",)):
        refused(greg("run", "r.toml", *more), "add --allow-pickle if you trust it", 2)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "r.toml").write_text(f"[steps.a]\n{STEP}")
    refused(greg("run", "r.toml", "--allow-pickle"), "--allow-pickle would have no effect", 2)


def test_a_model_is_never_taken_for_an_option(greg: Greg, tmp_path: Path) -> None:
    """`train` takes no MODEL where it has --arch: `model = "--log=..."` would be a log anywhere."""
    step = 'command = "train"\nmodel = "--log=victim"\narch = "torchvision:resnet18"\ndata = "digits"\niterations = 1\n'
    (tmp_path / "r.toml").write_text(f"[steps.a]\n{step}")
    refused(greg("run", "r.toml"), " --log=victim does not exist")


def test_no_option_of_a_step_names_a_file_to_write() -> None:
    """All of them are decided by `greg run`; a new one has to be, too."""
    from typer.main import get_command

    from greg_compress.cli import app

    group: Any = get_command(app)
    written = {
        max(parameter.opts, key=len).removeprefix("--")
        for name in Line(app).words()
        for parameter in group.commands[name].params
        if "Path" in type(getattr(parameter, "type", None)).__name__ or (parameter.metavar or "") == "FILE"
    }
    assert written - {"plan", "sensitivity"} <= set(OWN), written


def test_a_run_replaces_nothing_that_is_not_its_own(greg: Greg, tmp_path: Path) -> None:
    """Not at the second try either, when a record of the first one is there."""
    (tmp_path / "r.toml").write_text(f"[steps.a]\n{STEP}")
    for name in ("a.pt", "results.json", "a.json"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("mine")
        for _ in range(2):
            ran = greg("run", "r.toml", "-o", folder)
            assert ran.code in (2, 4)
            assert name in ran.error()
        assert [path.name for path in folder.iterdir()] == [name]
        assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["a.json", "results.json"])
def test_pipes_and_links_in_a_folder_of_records(greg: Greg, tmp_path: Path, name: str) -> None:
    (tmp_path / "r.toml").write_text(f"[steps.a]\n{STEP}")
    (tmp_path / "r").mkdir()
    os.mkfifo(tmp_path / "r" / name)
    assert name in greg("run", "r.toml").error()
    (tmp_path / "r" / name).unlink()
    (tmp_path / "r" / name).symlink_to(tmp_path / "elsewhere.json")
    assert name in greg("run", "r.toml").error()
    assert not (tmp_path / "elsewhere.json").exists()


def test_unfinished_work_goes_through_no_link(tmp_path: Path) -> None:
    from greg_compress.options.network import Output

    (tmp_path / "o.pt.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GregError, match="holds unfinished work"):
        require_free(Output(tmp_path / "o.pt"), resumable=True)


# ONNX files


def elsewhere(name: str, **entries: str) -> TensorProto:
    held = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[10], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        held.external_data.add(key=key, value=value)
    return held


ADDED = helper.make_node("Add", ["made", "c"], ["output"])


def constant(**entries: str) -> list[onnx.NodeProto]:
    return [*FLAT, helper.make_node("Constant", [], ["c"], value=elsewhere("c", **entries)), ADDED]


def branch(**entries: str) -> list[onnx.NodeProto]:
    made = helper.make_tensor_value_info("o", TensorProto.FLOAT, [10])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["o"])], "g", [], [made], [elsewhere("w", **entries)]
    )
    return [*FLAT, helper.make_node("If", ["yes"], ["c"], then_branch=graph, else_branch=graph), ADDED]


@pytest.mark.parametrize("where", [constant, branch])
@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"location": "../secret"}, "outside of its folder"),
        ({"location": "/etc/passwd"}, "outside of its folder"),
        ({"location": "link"}, "outside of its folder"),
        ({"location": "pipe"}, "is not there"),
        ({"location": "."}, "is not there"),
        ({"location": "m.onnx", "offset": "x"}, "does not say where its weights are"),
        ({"location": "m.onnx", "offset": "-5"}, "does not say where its weights are"),
        ({"location": "m.onnx", "length": "9" * 30}, "is truncated"),
        ({"location": "a\0b"}, "does not say where its weights are"),
        ({"location": "x" * 5000}, "does not say where its weights are"),
    ],
)
def test_weights_in_other_files_wherever_a_network_names_them(
    greg: Greg, tmp_path: Path, where: Callable[..., list[onnx.NodeProto]], entries: dict[str, str], said: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(bytes(40))
    (tmp_path / "in" / "link").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "in" / "pipe")
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    saved(tmp_path / "in" / "m.onnx", where(**entries), [yes])
    refused(greg("evaluate", tmp_path / "in" / "m.onnx", "--data", "digits"), said)


def test_a_network_that_never_ends(greg: Greg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {name: helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in
             (("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("goes", TensorProto.BOOL, []),
              ("v", TensorProto.FLOAT, None), ("w", TensorProto.FLOAT, None))}  # fmt: skip
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Identity", ["v"], ["w"])], "body",
        [value["i"], value["go"], value["v"]], [value["goes"], value["w"]],
    )  # fmt: skip
    more = [
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        helper.make_tensor("most", TensorProto.INT64, [], [10**15]),
    ]
    saved(tmp_path / "m.onnx", [*FLAT, helper.make_node("Loop", ["most", "yes", "made"], ["output"], body=body)], more)
    monkeypatch.setattr(opening, "LONGEST_RUN", 1)
    refused(greg("evaluate", "m.onnx", "--data", "digits"), "takes more than 1 s for 1 images")


def test_damaged_onnx_files(tmp_path: Path) -> None:
    whole = saved(tmp_path / "w.onnx", [*FLAT, END]).read_bytes()
    for seed in range(60):
        (tmp_path / "m.onnx").write_bytes(mutated(whole, random.Random(seed)))
        is_refused(lambda: opening.try_one(opening.open_network(tmp_path / "m.onnx", 1), (1, 8, 8)), f"case {seed}")


# Data sets


def a_folder(root: Path) -> Path:
    for part in ("train", "val"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(root / part / name / "0.png")
    return root / "train" / "a"


def png(width: int, height: int) -> bytes:
    """A picture of black that says its size and little else."""
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compress(bytes(10**6), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", rows)
    )


@measurable
@pytest.mark.parametrize("kind", ["10^9 pixels", "10^8 pixels", "a pipe", "a device", "PostScript", "half"])
def test_images_that_are_none(tmp_path: Path, kind: str) -> None:
    folder = a_folder(tmp_path)
    (folder / "0.png").unlink()
    path = folder / "0.png"
    match kind:
        case "10^9 pixels":
            path.write_bytes(png(40_000, 25_000))
        case "10^8 pixels":
            path.write_bytes(png(10_000, 10_000))
        case "a pipe":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "PostScript":  # Pillow hands it to Ghostscript, whatever the name says
            path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file closefile\nshowpage\n")
        case "half":
            Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (90, 90), dtype=numpy.uint8)).save(path)
            path.write_bytes(path.read_bytes()[:4000])
    data = load_data(parse_data(f"imagefolder:{tmp_path}"), workers=0).at((3, 8, 8))
    with bounded(), pytest.raises(InputError, match=r"0\.png cannot be read"):
        list(data.train.batches(torch.arange(1), 1))


def test_links_that_lead_round_in_circles(tmp_path: Path) -> None:
    """Two in a folder that lead back to it make 2^40 paths before the system says stop."""
    folder = a_folder(tmp_path)
    for name in ("x", "y", "z"):
        (folder / name).symlink_to(folder)
    (folder / "more").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "more" / "1.png")
    started = time.monotonic()
    data = load_data(parse_data(f"imagefolder:{tmp_path}"), workers=0)
    assert (data.classes, len(data.train)) == (2, 3)
    assert time.monotonic() - started < LONGEST


def test_a_pickle_in_the_place_of_fashion_mnist_is_not_opened(tmp_path: Path) -> None:
    """torchvision takes FashionMNIST/processed/training.pt, of older versions, for the data set."""
    write_fashion(tmp_path)
    (tmp_path / "FashionMNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save(
            (torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3).long()),
            tmp_path / "FashionMNIST/processed" / name,
        )
    assert len(load_data(parse_data(f"fashion-mnist:{tmp_path}")).train) == 20


@settings(max_examples=60)
@given(st.integers(0, 10**9))
def test_damaged_idx_files(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.getbasetemp() / "images-idx3-ubyte"
    path.write_bytes(mutated(idx(torch.arange(60).view(3, 4, 5)), random.Random(seed)))

    def read() -> None:
        assert read_idx(path).numel() <= path.stat().st_size

    is_refused(read, f"case {seed}")


# What is shown


HOSTILE = "\x1b]0;title\x07\x1b[2J\r[bold red]x[/]\u202egnp\x9b1A:bug:"
MARKUP = '--><script>alert("x")</script>&lt;]]>'


def test_names_in_tables_and_lines_are_only_shown(tmp_path: Path) -> None:
    """A terminal obeys what stands between escapes, and turns letters round after U+202E."""
    with (tmp_path / "out").open("w+") as file:
        out = console(file)
        out.print(make_table(("layer", "units"), [(HOSTILE, 1)]))
        out.print(HOSTILE)
        file.seek(0)
        said = file.read()
    assert all(letter.isprintable() or letter == "\n" for letter in said)
    assert said.count("[bold red]x[/]?gnp?1A:bug:") == 2


def test_names_in_pictures_are_only_drawn(tmp_path: Path) -> None:
    from greg_compress.figures.page import page, rendered
    from greg_compress.story.pictures import pictures

    state = finetuned({MARKUP: 4, HOSTILE: 6, "$\\frac{": 4})
    svg = rendered(page(list(pictures(state, None)[0].values())), "svg")
    from xml.etree import ElementTree

    kinds = {str(element.tag).rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
    assert "script" not in kinds
    assert b"<script" not in svg.replace(b"--", b"")
    assert not any(byte in svg for byte in (b"\x1b", b"\x9b", "\u202e".encode()))


def test_more_layers_than_a_picture_shows() -> None:
    """Each takes milliseconds to draw, and a state has room for 100,000."""
    from greg_compress.story.pictures import pictures

    _, missing = pictures(finetuned({f"l{n}": 4 for n in range(3000)}), None)
    assert {"kept", "separation"} == {str(name) for name in missing}
    assert all("3,000 layers are more than a picture shows" in said for said in missing.values())


def test_names_of_layers_in_a_plan_are_said_in_one_line(greg: Greg, tmp_path: Path) -> None:
    groups = [{"name": HOSTILE, "channels": 16, "kept": 8}]
    (tmp_path / "p.json").write_text(json.dumps({"format": "greg-plan", "version": 1, "groups": groups}))
    refused(greg("analyze", DIGITS, "--plan", "p.json"), "is a plan of another network", 2)


@pytest.mark.parametrize(
    "words", [("--plan", "x" * 5000), ("--ratios", "@" + "x" * 5000), ("--arch", "x" * 5000 + ".py:f")]
)
def test_a_name_that_no_file_can_have(greg: Greg, words: tuple[str, ...]) -> None:
    ran = greg("analyze", DIGITS, *words)
    assert ran.code in (2, 4), ran.err
    assert len(ran.error()) < 2100
