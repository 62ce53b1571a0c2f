"""`export --format pt2`: a program of PyTorch's that computes what the network does, and says what it is."""

from __future__ import annotations

import copy
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import ExportedProgram

import greg_compress
from greg_compress.deploy import program
from greg_compress.deploy.parity import compare
from greg_compress.sources.data import load_data
from greg_compress.sources.samples import Part
from greg_compress.sources.specs import DataSpec
from tests import program as processes
from tests.conftest import DIGITS, ROOT, Ran

Greg = Callable[..., Ran]
NETWORK = """
from torch import nn
class Two(nn.Module):
    input_shape = ((1, 4, 4), (3,))
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 4), nn.Linear(3, 4)
    def forward(self, x, y):
        return self.a(x.flatten(1)) + self.b(y), y.sum(1)
class Decides(nn.Module):
    input_shape = (1, 4, 4)
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 4)
    def forward(self, x):
        return self.a(x.flatten(1)) if x.sum() > 0 else self.a(x.flatten(1)) * 2
"""


def opened(path: Path) -> nn.Module:
    """As another program would open it, which knows nothing of greg."""
    loaded: ExportedProgram = torch.export.load(path)
    module: nn.Module = loaded.module()
    return module


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a network that was pruned."""
    folder = tmp_path_factory.mktemp("small")
    assert processes.greg(folder, "prune", DIGITS, "--ratios", "0.5", "-o", "small.pt").code == 0
    return folder / "small.pt"


@pytest.fixture(scope="module")
def made(small: Path) -> Path:
    assert processes.greg(small.parent, "export", small, "--format", "pt2", "-o", "small.pt2").code == 0
    return small.with_suffix(".pt2")


def test_it_computes_what_the_network_does(small: Path, made: Path) -> None:
    loaded, network = opened(made), greg_compress.load(small).eval()

    @settings(max_examples=20, deadline=None)
    @given(batch=st.integers(1, 9), seed=st.integers(0, 2**31))
    def same(batch: int, seed: int) -> None:
        images = torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), network(images))

    same()


def test_a_program_of_other_weights_does_not_pass(small: Path, made: Path) -> None:
    true = greg_compress.load(small).eval()
    assert compare(true, program.runtimes(made), ((1, 8, 8),), 1e-4).passed
    wrong = copy.deepcopy(true)
    with torch.no_grad():
        next(wrong.parameters()).mul_(1.01)
    found = compare(wrong, program.runtimes(made), ((1, 8, 8),), 1e-4)
    assert not found.passed
    assert found.max_rel_error > 1e-4


def test_it_takes_pixels(greg: Greg, tmp_path: Path, small: Path) -> None:
    ran = greg("export", small, "--format", "pt2", "--with-preprocessing", "-o", "p.pt2", "--json")
    assert (ran.code, ran.json["program"], ran.json["preprocessing"]) == (0, "p.pt2", "normalize")
    assert ran.json["parity"]["passed"]
    assert ran.json["size"] == (tmp_path / "p.pt2").stat().st_size
    images = load_data(DataSpec("digits", None)).test
    assert isinstance(images, Part)
    pixels, labels = images.images, images.labels
    with torch.no_grad():
        right = int((opened(tmp_path / "p.pt2")(pixels).argmax(1) == labels).sum())
        same = greg_compress.load(small).eval()((pixels * 0.0625 - 0.3058) / 0.3764).argmax(1)
    assert right == int((same == labels).sum())


def test_several_inputs_and_outputs(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text(NETWORK)
    assert greg("export", "n.py:Two", "--format", "pt2", "-o", "two.pt2").code == 0
    first, second = opened(tmp_path / "two.pt2")(torch.ones(3, 1, 4, 4), torch.ones(3, 3))
    assert (first.shape, second.tolist()) == ((3, 4), [3, 3, 3])


def test_gates_and_parity_leave_no_file(greg: Greg, tmp_path: Path, small: Path) -> None:
    for words, told in (
        (("--max-size", "1kB"), "above --max-size 1,000 bytes"),
        (("--with-preprocessing", "--tolerance", "1e-30"), "the program and PyTorch differ by"),
    ):
        ran = greg("export", small, "--format", "pt2", *words, "-o", "o.pt2", "--json")
        assert (ran.code, ran.json["passed"], ran.json["program"]) == (3, False, None)
        assert told in ran.error()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--threads 2", "--threads is for ONNX files"),
        ("--baseline nowhere.pt", "--baseline is for ONNX files"),
        ("--opset 18", "--opset is for ONNX files"),
        ("--int8 --data digits", "--int8 is for ONNX files"),
        ("--max-latency 1ms", "--max-latency is for ONNX files"),
        ("--min-top1 90 --data digits", "is for ONNX files"),
    ],
)
def test_what_only_onnx_files_have(greg: Greg, tmp_path: Path, words: str, told: str) -> None:
    ran = greg("export", DIGITS, "--format", "pt2", *words.split(), "-o", "o.pt2")
    assert ran.code == 2
    assert told in ran.error()
    assert list(tmp_path.iterdir()) == []


def test_a_name_says_what_a_file_is(greg: Greg) -> None:
    for words, told in (
        (("--format", "pt2", "-o", "o.onnx"), "end it in .pt2"),
        (("-o", "o.pt2"), "end it in .onnx"),
        (("-o", "o.bin"), "end it in .onnx"),
        (("-o", "o"), "end it in .onnx"),
        (("--format", "pt", "-o", "o.pt2"), "nearest: pt2"),
    ):
        ran = greg("export", DIGITS, *words)
        assert ran.code == 2
        assert told in ran.error()


def test_a_recipe_names_it_so(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f'[steps.out]\ncommand = "export"\nmodel = "{DIGITS}"\nformat = "pt2"\n')
    ran = greg("run", "r.toml", "--dry-run")
    assert ran.code == 0
    assert "out.pt2" in ran.out


def test_what_torch_cannot_follow_is_one_line(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text(NETWORK)
    ran = greg("export", "n.py:Decides", "--format", "pt2", "-o", "o.pt2")
    assert ran.code == 1
    assert "cannot be exported as a program" in ran.error()
    assert not (tmp_path / "o.pt2").exists()


def test_it_names_no_path_of_this_machine(made: Path) -> None:
    content = made.read_bytes()
    assert str(ROOT).encode() not in content
    assert b"site-packages" not in content


def test_show_tells_what_it_is(greg: Greg, small: Path, made: Path) -> None:
    shown, state = greg("show", made, "--json").json, greg("show", small, "--json").json
    assert shown["kind"] == "program"
    assert (shown["holds"]["classes"], shown["holds"]["input_shapes"]) == (10, [[1, 8, 8]])
    assert shown["holds"]["kept"]["layer1.0.conv1"] == 16
    assert sum(shown["holds"]["kept"].values()) < state["holds"]["plan"]["all"]
    assert "9 groups keep 336 channels" in greg("show", made).out


def test_the_record_of_a_step_names_it(greg: Greg, tmp_path: Path, made: Path) -> None:
    (tmp_path / "e.pt2").write_bytes(made.read_bytes())
    (tmp_path / "e.json").write_text(
        '{"step": "e", "cell": {}, "argv": ["export"], "reads": {}, "key": "", "result": {}}'
    )
    assert "greg show e.pt2" in greg("show", "e.json").out


def test_a_report_tells_of_it(greg: Greg, tmp_path: Path, small: Path) -> None:
    ran = greg("export", small, "--format", "pt2", "-o", "o.pt2", "--json")
    (tmp_path / "e.json").write_text(ran.out)
    assert greg("report", small, "e.json", "-o", "r.html").code == 0
    page = (tmp_path / "r.html").read_text()
    assert "The program computes what PyTorch does" in page
    assert f"{ran.json['size']:,} bytes" in page
    assert "--format pt2 -o o.pt2" in " ".join(re.sub("<[^>]*>", " ", page).split())


def test_a_program_is_no_network_to_go_on_from(greg: Greg, made: Path) -> None:
    for words in (
        ("prune", "--ratios", "0.5", "-o", "o.pt"),
        ("evaluate", "--data", "digits"),
        ("export", "-o", "o.onnx"),
    ):
        ran = greg(words[0], made, *words[1:])
        assert ran.code == 4
        assert "is an exported program; name the state that it was made of" in ran.error()


class Planted:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("open('ran', 'w').close()",)


def archive(path: Path, **entries: str | bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in entries.items():
            made.writestr("a/" + name, content)
    return path


def test_programs_of_others_are_described_and_never_loaded(greg: Greg, tmp_path: Path) -> None:
    said = "extra/greg.json"
    for entries, told in (
        ({"data/weights/w": pickle.dumps(Planted())}, "that greg did not export"),
        ({said: json.dumps({"other": "1"})}, "that greg did not export"),
        ({said: " " * 2**26}, "more of itself than"),
        ({said: "[" * 10**5}, "damaged"),
        ({said: json.dumps({"greg.version": "1", "greg.ratios": '{"a": "x"}'})}, "damaged"),
        ({said: json.dumps({"greg.version": "1", "greg.input_shapes": "3"})}, "damaged"),
    ):
        ran = greg("show", archive(tmp_path / "o.pt2", **entries))
        assert told in (ran.out or ran.error())
        assert ran.code == (0 if ran.out else 4)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "o.pt2").write_bytes(b"PK\x03\x04 and no more")
    assert greg("show", "o.pt2").code == 4
