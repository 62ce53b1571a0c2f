"""State files: what goes in comes out, bit for bit, and whatever else is in a file is refused in words."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import greg_compress
from greg_compress.errors import GregError, InputError, RequestError
from greg_compress.options.network import ModelOptions
from greg_compress.state import files
from greg_compress.state.models import open_model
from greg_compress.whole_files import written_whole
from tests.conftest import DIGITS, ROOT, Ran

WHOLE = DIGITS.read_bytes()


def content() -> dict[str, Any]:
    return torch.load(io.BytesIO(WHOLE), weights_only=True)  # type: ignore[no-any-return]


def nested(depth: int) -> dict[str, Any]:
    return {"x": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    "change",
    [{"std": [0.0]}, {"std": [float("inf")]}, {"scale": 0}, {"mean": ["1"]}, {"mean": [0.1, 0.2]}, {"std": 5}],
)
def test_a_normalisation_that_is_none(greg: Callable[..., Ran], tmp_path: Path, change: dict[str, Any]) -> None:
    data = content()
    data["normalization"].update(change)
    written(tmp_path / "s.pt", data)
    ran = greg("evaluate", "s.pt", "--data", "digits")
    assert ran.code == 4
    assert "normalisation is damaged" in ran.error()


def written(path: Path, data: Any) -> Path:
    torch.save(data, path)
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match):
        open_model(ModelOptions(str(path)))


def test_the_shipped_state_loads_and_was_made_as_recorded() -> None:
    opened = open_model(ModelOptions(str(DIGITS)))
    assert opened.state.stage == "dense"
    assert [entry["command"] for entry in opened.state.history] == ["train"]
    assert opened.state.input_shapes == ((1, 8, 8),)


def test_a_pruned_network_gives_the_same_outputs_in_a_new_process(greg: Callable[..., Ran], tmp_path: Path) -> None:
    assert greg("prune", DIGITS, "--ratios", "0.5", "-o", "p.pt").code == 0
    model = greg_compress.load(tmp_path / "p.pt")
    example = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.save({"in": example, "out": model(example)}, tmp_path / "seen.pt")
    script = (
        "import torch, greg_compress\n"
        "seen = torch.load('seen.pt', weights_only=True)\n"
        "with torch.no_grad(): print(torch.equal(greg_compress.load('p.pt')(seen['in']), seen['out']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_saving_what_was_loaded_changes_nothing(tmp_path: Path) -> None:
    state, _ = files.load(DIGITS)
    files.save(state, tmp_path / "again.pt", replace=False)
    again, _ = files.load(tmp_path / "again.pt")
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in state.weights.items())
    assert (again.history, again.architecture) == (state.history, state.architecture)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_every_truncation_is_refused(length: int) -> None:
    path = Path(f"/tmp/greg-truncated-{os.getpid()}.pt")
    try:
        path.write_bytes(WHOLE[:length])
        refused(path, "damaged|truncated")
    finally:
        path.unlink()


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    for name, save in {"torch.pt": torch.save, "plain.pt": lambda o, p: p.write_bytes(pickle.dumps(o))}.items():
        save({"format": "greg-state", "x": Bomb()}, tmp_path / name)
        refused(tmp_path / name, "nothing in it was run")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=4), "version 4, this greg reads 3"),
        (lambda d: d.update(format="other"), "not a greg state file"),
        (lambda d: d.update(stage="half"), "unknown stage"),
        (lambda d: d.pop("weights"), "'weights' is missing"),
        (lambda d: d.update(history={}), "'history' is missing or of the wrong type"),
        (lambda d: d["weights"].pop("fc.bias"), "lacks fc.bias"),
        (lambda d: d["weights"].update(more=torch.zeros(1)), "surplus more"),
        (lambda d: d["weights"].update({"fc.bias": torch.zeros(3)}), "fc.bias is 3 .* the network wants 10"),
        (lambda d: d["weights"].update({"fc.bias": torch.zeros(10).double()}), "float64"),
        (lambda d: d["weights"].update({"fc.bias": torch.zeros(1).expand(10**12)}), "too little storage"),
        (lambda d: d.update(shapes={"nowhere.weight": [3]}), "nowhere.weight cannot have been cut to 3"),
        (lambda d: d.update(shapes={"fc.weight": [10, -1]}), "cannot have been cut to 10x-1"),
        (lambda d: d.update(shapes={"fc.weight": [10, 10**12]}), "cannot have been cut"),
        (lambda d: d.update(shapes={"fc.weight": "x"}), "does not fit"),
        (lambda d: d.update(memory_format="save"), "unknown memory format"),
        (lambda d: d["architecture"].update(sha256="0" * 64), "name it with --arch"),
        (lambda d: d["architecture"].update(surprise=1), "damaged"),
        (lambda d: d.update(run={"loop": {}}), "unfinished work"),
        (lambda d: d["architecture"].update(spec=5), "damaged"),
        (lambda d: d["architecture"].update(spec="torchvision:nothing"), "has no model"),
        (lambda d: d["architecture"].update(spec="torchvision:resnet18"), "refuses its arguments"),
        (lambda d: d["architecture"]["kwargs"].update(width="x"), "cannot be built|refuses its arguments"),
        (lambda d: d.update(version=torch.zeros(3)), "format version"),
        (lambda d: d.update(input_shape=[float("inf")]), "damaged"),
        (lambda d: d.pop("input_shape"), "damaged"),
        (lambda d: d.update(version=2, groups={}, input_shapes=[]), "impossible input shape"),
        (lambda d: d.update(version=2, groups={}, input_shapes=[3]), "damaged"),
        (lambda d: d.update(version=2, input_shapes=[[1, 8, 8]]), "'groups' is missing"),
        (lambda d: d.update(version=2, groups={"fc": 1}, input_shapes=[[1, 8, 8]]), "fc is no convolution"),
        (lambda d: d.update(version=2, groups={"conv1": 2}, input_shapes=[[1, 8, 8]]), "cannot have been cut to 2"),
        (lambda d: d.update(version=2, groups={"conv1": "x"}, input_shapes=[[1, 8, 8]]), "does not fit"),
        (lambda d: d.update(classes=-5), "impossible number of classes"),
        (lambda d: d.update(history=[{"x": torch.ones(2)}]), "plain values belong"),
        (lambda d: d.update(history=[nested(100)]), "plain values belong"),
        (lambda d: d.update(plan={"a": {5: 1}}), "plain values belong"),
        (lambda d: d.update(version=2, groups={}, input_shapes=[[1, 8.5, 8]]), "impossible input shape"),
        (lambda d: d.update(version=2, groups={}, input_shapes=[[1, 8, 8], []]), "impossible input shape"),
        (lambda d: d.update(version=2, groups={}, input_shapes=[[9000, 900, 900]]), "impossible input shape"),
        (lambda d: d.update(history=[3]), "history is not a list of commands"),
        (lambda d: d["weights"].update({3: torch.zeros(1)}), "not all tensors"),
    ],
)
def test_a_state_that_does_not_hold_together_says_why(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    data = content()
    change(data)
    refused(written(tmp_path / "s.pt", data), message)


def test_a_changed_byte_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    """torch.load itself would give other weights without a word."""
    whole = DIGITS.read_bytes()
    for place in range(1000, len(whole), len(whole) // 7):
        path = tmp_path / "flipped.pt"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(path, "damaged")


def test_a_plain_state_dict_is_no_state(tmp_path: Path) -> None:
    refused(written(tmp_path / "w.pt", content()["weights"]), "not a greg state file")


def test_missing_files_and_folders_say_so(tmp_path: Path) -> None:
    refused(tmp_path / "none.pt", "does not exist")
    refused(tmp_path, "is a directory")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "out.pt"
    target.write_text("old")
    with pytest.raises(GregError, match="could not be written"), written_whole(target, replace=True):
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(KeyboardInterrupt), written_whole(target, replace=True):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [target]
    with written_whole(target, replace=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_appears_during_a_run_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "out.pt"
    with pytest.raises(RequestError, match="has appeared meanwhile"), written_whole(target, replace=False):
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the file size stands for the disk: the write fails in the middle."""
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from greg_compress.cli import app\n"
        f"app(['prune', {str(DIGITS)!r}, '--ratios', '0.5', '-o', 'p.pt'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "p.pt could not be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
