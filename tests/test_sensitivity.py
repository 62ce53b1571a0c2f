"""Sensitivity: what a masked group costs is what the cut network shows, and nothing is left of the measurement."""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from greg_compress import sensitivity
from greg_compress.errors import GregError
from greg_compress.options.network import ModelOptions
from greg_compress.reporting import Progress, Reporter
from greg_compress.selection.plan import Plan, Share
from greg_compress.sensitivity import Evaluation, masked, measure, spread
from greg_compress.sources.data import load_data
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Items, Part
from greg_compress.sources.specs import parse_data
from greg_compress.state.models import open_model
from greg_compress.surgery.cut import cut
from greg_compress.surgery.effect import cost_after, cost_of
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import Group, Wiring
from tests import program
from tests.conftest import DIGITS, Ran
from tests.cutting import silence

Greg = Callable[..., Ran]
PLAIN = Normalization(1.0, (0.0,), (1.0,))
ASKED = ("--sensitivity", "--data", "digits")
NETWORKS = """
import time
from torch import nn
def net(width=2):
    body = nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, 1, 3), nn.ReLU()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(16, 10))
def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
class Slow(nn.Sequential):
    def forward(self, x):
        time.sleep(0.1)
        return super().forward(x)
def slow():
    return Slow(*net(9))
"""


@pytest.fixture
def trained() -> Evaluation:
    """The shipped network on all test digits."""
    model = open_model(ModelOptions(str(DIGITS))).model
    data = load_data(parse_data("digits"))
    return Evaluation(model, data.test, data.normalization, torch.device("cpu"))


def found_in(model: nn.Module, *names: str) -> tuple[Wiring, list[Group]]:
    wiring = prunable_wiring(model, ((1, 8, 8),))
    return wiring, [group for group in wiring.groups if group.name in names]


def by_hand(model: nn.Module, evaluation: Evaluation) -> tuple[float, float]:
    """top-1 in percent and loss, all images at once."""
    samples = evaluation.samples
    assert isinstance(samples, Part)
    with torch.no_grad():
        output = model((samples.images / 16 - 0.3058) / 0.3764)
    hits = (output.argmax(1) == samples.labels).double().mean()
    return 100 * hits.item(), F.cross_entropy(output, samples.labels).item()


def bits(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor as integers, so that -0.0 is not 0.0 and NaN equals itself."""
    return {name: t.clone().view(torch.int32 if t.is_floating_point() else t.dtype) for name, t in
            model.state_dict().items()}  # fmt: skip


def same_bits(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in bits(model).items())


def test_a_point_is_the_accuracy_of_the_network_cut_by_hand(trained: Evaluation) -> None:
    wiring, groups = found_in(trained.model, "layer1.0.conv1", "layer2.1.conv1")
    found = measure(trained, wiring, groups, Reporter())
    assert (found["top1"], found["loss"]) == pytest.approx(by_hand(trained.model, trained), rel=1e-5)
    for group, row in zip(groups, found["groups"], strict=True):
        order = trained.model.get_submodule(group.name).weight.abs().sum((1, 2, 3)).argsort()  # type: ignore[operator]
        for ratio, point in zip((0.25, 0.5, 0.75, 0.9), row["points"], strict=True):
            gone = math.ceil(ratio * group.channels)
            small = copy.deepcopy(trained.model)
            cut(small, wiring, group.units[order[:gone]])
            top1, loss = by_hand(small, trained)
            assert point["kept"] == group.channels - gone
            assert point["loss"] == pytest.approx(loss, rel=1e-4)
            assert point["top1"] == pytest.approx(top1, abs=0.3)  # a rounding may move one image
            assert point["top1_drop"] == found["top1"] - point["top1"]
    assert found["groups"][0]["points"][-1]["top1_drop"] > 30


def test_dead_units_cost_nothing_and_others_do(trained: Evaluation) -> None:
    wiring, groups = found_in(trained.model, "layer1.0.conv1")
    silence(trained.model, wiring, Plan({"layer1.0.conv1": Share(32, 16, tuple(range(0, 32, 2)))}))
    found = measure(trained, wiring, groups, Reporter())
    quarter, half, *others = found["groups"][0]["points"]
    for point in (quarter, half):
        assert point["top1_drop"] == 0
        assert point["loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert all(abs(point["loss"] - found["loss"]) > 0.1 for point in others)


@pytest.mark.parametrize("error", [GregError("no"), KeyboardInterrupt()])
def test_every_bit_is_put_back_whatever_happens(trained: Evaluation, error: BaseException) -> None:
    wiring, groups = found_in(trained.model, "layer2.1.conv1")
    weight = trained.model.get_submodule("layer2.1.conv2").weight
    assert isinstance(weight, Tensor)
    weight.data[:, :3] = torch.tensor([-0.0, float("nan"), 1e-42])[None, :, None, None]
    before = bits(trained.model)

    def fails() -> None:
        with masked(trained.model, wiring, groups[0].units[:9]):
            assert not weight[:, :9].any()
            assert weight[:, 9:].any()
            raise error

    with pytest.raises(type(error)):
        fails()
    assert same_bits(trained.model, before)


def test_a_measurement_leaves_the_network_as_it_was(trained: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    wiring, groups = found_in(trained.model, "layer1.0.conv1", "layer3.0.conv1")
    before = bits(trained.model)
    measure(trained, wiring, groups, Reporter())
    assert same_bits(trained.model, before)
    finished = []

    class Stops(Reporter):
        def progress(self, read: Callable[[], Progress]) -> None:
            assert not same_bits(trained.model, before)
            raise KeyboardInterrupt

        def finish(self) -> None:
            finished.append(True)

    with pytest.raises(KeyboardInterrupt):
        measure(trained, wiring, groups, Stops())
    assert same_bits(trained.model, before)
    assert finished == [True]


def test_a_groups_share_of_the_macs_is_what_a_cut_saves(trained: Evaluation) -> None:
    wiring, groups = found_in(trained.model, "layer2.0.conv1", "layer3.1.conv1")
    macs = cost_of(trained.model, wiring).macs
    for group, row in zip(groups, measure(trained, wiring, groups, Reporter())["groups"], strict=True):
        half = cost_after(trained.model, wiring, group.units[: group.channels // 2]).macs
        assert row["macs_share"] / 2 == pytest.approx(100 * (macs - half) / macs)


class Joined(nn.Module):
    """Two convolutions side by side, and one that reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 12, 3), nn.Conv2d(16, 2, 1), nn.Linear(2, 10)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.a(x).relu(), self.b(x).relu()], 1)
        return self.fc(self.c(both).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_of_a_layer_that_reads_two_groups_each_has_its_share() -> None:
    model = Joined().eval()
    wiring, groups = found_in(model, "a", "b", "c")
    given = Evaluation(model, Part(torch.rand(9, 1, 8, 8), torch.arange(9)), PLAIN, torch.device("cpu"))
    found = measure(given, wiring, groups, Reporter())["groups"]
    a, b, c, fc = 36 * 9 * 4, 36 * 9 * 12, 36 * 16 * 2, 20
    wanted = [a + c / 4, b + c * 3 / 4, c + fc]
    assert [row["macs_share"] for row in found] == pytest.approx([100 * part / (a + b + c + fc) for part in wanted])


def test_points_of_one_count_are_evaluated_once_and_progress_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2 units each ratio takes 1, and a group of 1 unit loses none."""
    space: dict[str, Any] = {}
    exec(NETWORKS, space)
    model = space["net"]().eval()
    wiring, groups = found_in(model, "0", "2")
    samples = Part(torch.rand(600, 1, 8, 8), torch.arange(600) % 10)
    evaluated, seen = [], []
    whole = sensitivity.evaluate
    monkeypatch.setattr(sensitivity, "evaluate", lambda *given: evaluated.append(1) or whole(*given))

    class Sees(Reporter):
        def progress(self, read: Callable[[], Progress]) -> None:
            seen.append((read().iteration, read().total))

    given = Evaluation(model, samples, PLAIN, torch.device("cpu"))
    found = measure(given, wiring, groups, Sees())
    assert [[point["kept"] for point in row["points"]] for row in found["groups"]] == [[1] * 4, [1] * 4]
    assert all(point["top1_drop"] == 0 and point["loss"] == found["loss"] for point in found["groups"][1]["points"])
    assert len(evaluated) == 2  # the whole network and one point
    assert seen == [(1, 2), (2, 2)]  # 600 images are two batches


def test_the_images_are_spread_and_read_once() -> None:
    """A folder lists its images class by class; the first 10 would be of one class."""
    reads = []

    def read(index: int, train: bool) -> tuple[Tensor, int]:
        reads.append(index)
        return torch.full((1, 2, 2), float(index)), index // 10

    chosen = spread(Items(read, str, torch.arange(100), workers=0), 10)
    batches = [batch for _ in range(3) for batch in chosen.batches(torch.arange(10), chosen.at_once)]
    assert [batch[1].tolist() for batch in batches] == [list(range(10))] * 3
    assert torch.equal(batches[0][0][:, 0, 0, 0], torch.arange(0, 100, 10.0))
    assert reads == [0, *range(0, 100, 10)]
    assert chosen.at_once == Items.at_once


def test_images_beyond_the_memory_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    items = Items(lambda index, train: (torch.zeros(1, 2, 2), 0), str, torch.arange(100), workers=0)
    monkeypatch.setattr(sensitivity, "MOST_HELD", 16 * 100 - 1)
    assert spread(items, 99) is not items
    assert isinstance(spread(items, 99), Part)
    assert isinstance(spread(items, 100), Items)


def test_the_document(greg: Greg) -> None:
    ran = greg("analyze", DIGITS, *ASKED, "--samples", "60", "--json")
    found = ran.json["sensitivity"]
    assert list(found) == ["samples", "top1", "loss", "ratios", "groups"]
    assert (found["samples"], found["ratios"]) == (60, [0.25, 0.5, 0.75, 0.9])
    free = [layer["name"] for layer in ran.json["layers"] if layer["prunable"]]
    assert [group["name"] for group in found["groups"]] == free
    for group in found["groups"]:
        assert list(group) == ["name", "channels", "macs_share", "points"]
        assert [list(point) for point in group["points"]] == [["ratio", "kept", "top1", "loss", "top1_drop"]] * 4
    assert "sensitivity of 9 groups on 60 of 359 test images" in ran.err
    assert greg("analyze", DIGITS, *ASKED, "--samples", "60", "--json").json == ran.json
    without = greg("analyze", DIGITS, "--json").json
    assert without.pop("sensitivity") is None
    del ran.json["sensitivity"]
    assert without == {name: value for name, value in ran.json.items() if name != "sensitivity"}


def test_the_whole_network_is_what_evaluate_says(greg: Greg) -> None:
    evaluated = greg("evaluate", DIGITS, "--data", "digits", "--json").json
    found = greg("analyze", DIGITS, *ASKED, "--ratios", "0.5", "--json").json
    assert {name: found["sensitivity"][name] for name in ("samples", "top1", "loss")} == {
        name: evaluated[name] for name in ("samples", "top1", "loss")
    }
    assert found["plan"] is not None


def test_the_table_begins_with_the_most_sensitive(greg: Greg) -> None:
    lines = greg("analyze", DIGITS, *ASKED).out.splitlines()
    start = lines.index("top-1 points lost at each ratio, most sensitive first:")
    assert lines[start + 1].split() == ["group", "units", "of", "MACs", "0.25", "0.5", "0.75", "0.9"]
    rows = [line.split() for line in lines[start + 3 : -2]]
    assert rows[0][:3] == ["layer1.0.conv1", "32", "11.7%"]
    sums = [sum(map(float, row[3:])) for row in rows]
    assert sums == sorted(sums, reverse=True)
    assert len(rows) == 9
    assert lines[-2].startswith("each group alone, from 98.33% on 359 test images; one-shot by L1 norm, without fine")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((DIGITS, "--sensitivity"), 2, "say what --sensitivity is to be measured on with --data"),
        ((DIGITS, "--data", "digits"), 2, "--data would have no effect without --sensitivity"),
        ((DIGITS, "--samples", "9"), 2, "--samples would have no effect without --sensitivity"),
        ((DIGITS, "--device", "cpu"), 2, "--device would have no effect without --sensitivity"),
        ((DIGITS, "--workers", "2"), 2, "--workers would have no effect without --sensitivity"),
        ((DIGITS, "--download"), 2, "--download would have no effect"),
        ((DIGITS, *ASKED, "--workers", "2"), 2, "--workers would have no effect: digits is held in memory"),
        ((DIGITS, *ASKED, "--samples", "0"), 2, "--samples 0: it must be above 0"),
        ((DIGITS, *ASKED, "--device", "tpu"), 2, "--device tpu: write auto, cpu, cuda"),
        ((DIGITS, "--sensitivity", "--data", "mnist"), 2, "unknown; nearest: fashion-mnist"),
        (("n.py:net", "--input-shape", "1,8,8", *ASKED), 2, "would mean nothing, since it is untrained"),
        (("w.pt", "--arch", "n.py:fixed", *ASKED), 3, "no group can be measured"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_mistakes_are_one_line(greg: Greg, tmp_path: Path, words: tuple[object, ...], code: int, said: str) -> None:
    (tmp_path / "n.py").write_text(NETWORKS)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), tmp_path / "w.pt")
    ran = greg("analyze", *words)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.error()


def test_data_that_do_not_fit_are_refused_in_the_words_of_evaluate(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "d.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "def large(): return (TensorDataset(torch.rand(9, 1, 9, 9), torch.arange(9)),) * 2\n"
        "def labels(): return (TensorDataset(torch.rand(9, 1, 8, 8), torch.arange(9) + 5),) * 2\n"
    )
    for name, said in {"large": "images of 1x9x9, but the network takes 1x8x8", "labels": "has label 13"}.items():
        data = ("--data", f"d.py:{name}", "--workers", "0")
        wanted, got = greg("evaluate", DIGITS, *data), greg("analyze", DIGITS, "--sensitivity", *data)
        assert said in got.error()
        assert (got.code, got.out, got.error()) == (2, "", wanted.error())


def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text(NETWORKS)
    space: dict[str, Any] = {}
    exec(NETWORKS, space)
    torch.save(space["net"](9).state_dict(), tmp_path / "w.pt")
    words = ("analyze", "w.pt", "--arch", "n.py:slow", "--input-shape", "1,8,8", *ASKED)
    running = program.start(tmp_path, *words)
    running.wait_for("sensitivity of 0 1/4  loss")
    running.signal(signal.SIGINT)
    ran = running.finish()
    assert (ran.code, ran.out) == (130, "")
    assert "interrupted" in ran.error()
    assert {path.name for path in tmp_path.iterdir()} <= {"n.py", "w.pt", "__pycache__"}
