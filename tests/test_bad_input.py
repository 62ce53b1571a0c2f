"""Every command with everything that can be wrong, by running the real program: one line, the right code, no loss."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import program
from tests.conftest import Ran

NETWORKS = """
import time, torch
from torch import nn
class Net(nn.Module):
    input_shape = (1, 8, 8)
    def __init__(self):
        super().__init__()
        self.a, self.bn, self.b = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.c, self.fc = nn.Conv2d(6, 6, 1), nn.Linear(6, 10)
    def forward(self, x):
        return self.fc(self.c(self.b(self.bn(self.a(x)).relu()).relu()).mean((2, 3)))
class Other(Net):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(6, 6, 3)
class Poisoned(Net):
    steps = 0
    def forward(self, x):
        Poisoned.steps += self.training and x.device.type == "cpu"
        return super().forward(x) * (float("nan") if Poisoned.steps >= 30 else 1)
class Slow(Net):
    def forward(self, x):
        time.sleep(0.5)
        return super().forward(x)
"""
DATA = """
import time, torch
from torch.utils.data import TensorDataset
class Named(TensorDataset):
    classes = range(10)
def some(shape=(1, 8, 8), count=40, classes=10):
    random = torch.Generator().manual_seed(0)
    found = Named(torch.rand(count, *shape, generator=random), torch.arange(count) % classes)
    found.classes = range(classes)
    return found, found
def channels(): return some((3, 8, 8))
def size(): return some((1, 2, 2))
def classes(): return some(classes=12)
def empty(): return some(count=0)
class Reads(Named):
    def __getitem__(self, index):
        time.sleep(0.05)
        return super().__getitem__(index)
def slow():
    found = Reads(*some()[0].tensors)
    return found, found
"""
SHORT = ("--batch-size", "16", "--precision", "fp32", "--device", "cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One state of each stage, made by the program, and files that are wrong in one way each."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "net.py").write_text(NETWORKS)
    (folder / "data.py").write_text(DATA)
    data = ("--data", "data.py:some", *SHORT)
    for words in (
        ("train", "--arch", "net.py:Net", *data, "--iterations", "2", "-o", "dense.pt"),
        ("regularize", "dense.pt", *data, "--ratios", "b=0.5", "--ceiling", "0.1", "--delta", "0.1", "-o", "reg.pt"),
        ("prune", "reg.pt", "-o", "pruned.pt"),
        ("train", "--arch", "net.py:Poisoned", *data, "--iterations", "1", "-o", "poisoned.pt"),
        ("prune", "poisoned.pt", "--ratios", "0.5", "-o", "poisoned-pruned.pt"),
        ("train", "--arch", "net.py:Slow", *data, "--iterations", "1", "-o", "slow.pt"),
        ("prune", "slow.pt", "--ratios", "0.5", "-o", "slow-pruned.pt"),
    ):
        done = program.greg(folder, *words)
        assert done.code == 0, done.err
    for stage in ("dense", "pruned"):
        _spoil(folder, stage)
    for name, (width, outputs) in {"plan": (8, 10), "wide": (9, 10), "frozen": (8, 9)}.items():
        sizes = (("a", width, width), ("b", 6, 3), ("c", 6, 6), ("fc", 10, outputs))
        groups = [{"name": layer, "channels": channels, "kept": kept} for layer, channels, kept in sizes]
        (folder / f"{name}.json").write_text(json.dumps({"format": "greg-plan", "version": 1, "groups": groups}))
    (folder / "ratios.json").write_text("0.5")
    (folder / "folder.pt").mkdir()
    (folder / "empty.pt").touch()
    before = _contents(folder)
    yield folder
    assert _contents(folder) == before


def _spoil(folder: Path, stage: str) -> None:
    whole = folder / f"{stage}.pt"
    (folder / f"{stage}-truncated.pt").write_bytes(whole.read_bytes()[:-200])
    changes: dict[str, Callable[[Any], Any]] = {
        "newer": lambda d: d.update(version=99),
        "missing": lambda d: d["weights"].pop("fc.bias"),
        "surplus": lambda d: d["weights"].update(more=torch.zeros(2)),
        "misshapen": lambda d: d["weights"].update({"fc.bias": torch.zeros(3)}),
        "lying": lambda d: d["weights"].update({"fc.bias": torch.zeros(1).expand(10**12)}),
    }
    for name, change in changes.items():
        data = torch.load(whole, weights_only=True)
        change(data)
        torch.save(data, folder / f"{stage}-{name}.pt")


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for outputs alone."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


DATA_WORDS = ("--data", "data.py:some", *SHORT)
COMMANDS: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    # command: the state that it takes, further words, name of its output
    "train": ("dense", (*DATA_WORDS, "--iterations", "40"), "o.pt"),
    "analyze": ("dense", (), None),
    "regularize": ("dense", (*DATA_WORDS, "--ratios", "0.5", "--delta", "0.1", "--stabilize", "9"), "o.pt"),
    "prune": ("dense", ("--ratios", "0.5"), "o.pt"),
    "finetune": ("pruned", (*DATA_WORDS, "--iterations", "40"), "o.pt"),
    "evaluate": ("dense", ("--data", "data.py:some"), None),
    "export": ("dense", ("--runs", "3"), "o.onnx"),
}
WRITING = [name for name, (_, _, result) in COMMANDS.items() if result]
WITH_DATA = ["train", "regularize", "finetune", "evaluate"]
TRAINING = ["train", "regularize", "finetune"]
SELECTING = ["analyze", "regularize", "prune"]


def type_(command: str, out: Path, model: str | None = None, **replaced: str) -> list[str]:
    """A whole command line; `ratios="..."` and the like take the place of its options or are added to them."""
    stage, words, result = COMMANDS[command]
    line = [command, model or f"{stage}.pt", *words, *(("-o", str(out / result)) if result else ())]
    for name, value in replaced.items():
        option = "-o" if name == "o" else "--" + name.replace("_", "-")
        if option in line:
            line[line.index(option) + 1] = value
        else:
            line += [option, value]
    return line


def refused(ran: Ran, code: int, said: str, out: Path, left: tuple[str, ...] = ()) -> None:
    """One line on stderr with the code, nothing on stdout, nothing left behind."""
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert said in ran.error()
    assert sorted(path.name for path in out.iterdir()) == sorted(left)


MODEL_FAULTS = {
    "nowhere": "nowhere.pt does not exist",
    "folder": "is a directory",
    "empty": "empty.pt is no file of tensors, or a truncated one",
    "{stage}-truncated": "is damaged or truncated",
    "{stage}-newer": "has format version 99, this greg reads",
    "{stage}-missing": "lacks fc.bias",
    "{stage}-surplus": "has a surplus more",
    "{stage}-misshapen": "fc.bias is 3 torch.float32, but the network wants 10",
    "{stage}-lying": "has too little storage",
}


@pytest.mark.parametrize("fault", MODEL_FAULTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_that_cannot_be_used(corpus: Path, out: Path, command: str, fault: str) -> None:
    model = fault.format(stage=COMMANDS[command][0]) + ".pt"
    refused(program.greg(corpus, *type_(command, out, model)), 4, MODEL_FAULTS[fault], out)


@pytest.mark.parametrize("command", COMMANDS)
def test_another_architecture_than_the_states(corpus: Path, out: Path, command: str) -> None:
    ran = program.greg(corpus, *type_(command, out, arch="net.py:Other"))
    said = "c.weight cannot have been cut to" if command == "finetune" else "c.weight is 6x6x1x1"
    refused(ran, 4, said, out)


@pytest.mark.parametrize(
    ("command", "model", "code", "said"),
    [
        ("train", "reg", 4, "train takes a dense state"),
        ("train", "pruned", 4, "see greg finetune"),
        ("regularize", "reg", 4, "regularized already; next: greg prune reg.pt"),
        ("finetune", "dense", 2, "use greg train to go on with it"),
        ("finetune", "reg", 4, "not cut yet; next: greg prune reg.pt"),
    ],
)
def test_a_state_of_the_wrong_stage(corpus: Path, out: Path, command: str, model: str, code: int, said: str) -> None:
    refused(program.greg(corpus, *type_(command, out, f"{model}.pt")), code, said, out)


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ("bb=0.5", "nearest: b"),
        ("[0, 0.5]", "the network has 3 stages"),
        ("1", "at least 0 and below 1"),
        ("-0.1", "at least 0 and below 1"),
        ("nan", "nan is not a ratio"),
        ("fc=0.5", "the network's output"),
    ],
)
@pytest.mark.parametrize("command", SELECTING)
def test_a_selection_that_fits_nothing(corpus: Path, out: Path, command: str, ratios: str, said: str) -> None:
    refused(program.greg(corpus, *type_(command, out, ratios=ratios)), 2, said, out)


SELECTIONS: list[tuple[str, int, str]] = [
    ("--ratios 0.5 --align 0", 2, "--align 0: it must be above 0"),
    ("--ratios 0.5 --align -8", 2, "--align -8: it must be above 0"),
    ("--ratios 0.5 --max-ratio 0", 2, "--max-ratio 0: write the largest share that a group may lose"),
    ("--ratios 0.5 --coupled", 2, "--coupled would have no effect: no addition ties layers of this network"),
    ("--ratios b=0.5 --scope global", 2, "--scope global takes one number as --ratios, not b=0.5"),
    ("--ratios 0.5 --align 64", 3, "removes nothing from any group that could lose units; see --ratios and --align"),
    ("--ratios 0.5 --plan plan.json", 2, "and --target-speedup, not --ratios and --plan"),
    ("--ratios 0.5 --target-macs 50%", 2, "not --ratios and --target-macs"),
    ("--target-params 50% --target-macs 50%", 2, "not --target-macs and --target-params"),
    ("--target-macs 1%", 2, "--target-macs 1%: the least that can be left is"),
    ("--target-params 45% --align 4", 2, "--target-params 45%: the least that can be left is 70.9% with --align; ask"),
    ("--target-macs 70% --align 2", 2, "--target-macs 70%: the nearest found leave"),
    ("--target-macs 100%", 2, "from 0.01% to below 100%, as 50% or 0.5"),
    ("--target-macs 50", 2, "from 0.01% to below 100%, as 50% or 0.5"),
    ("--target-params -1%", 2, "from 0.01% to below 100%, as 50% or 0.5"),
    ("--target-macs 1e-400", 2, "from 0.01% to below 100%, as 50% or 0.5"),
    ("--target-macs half", 2, "from 0.01% to below 100%, as 50% or 0.5"),
    ("--plan nowhere.json", 4, "nowhere.json does not exist"),
    ("--plan folder.pt", 4, "no ordinary file"),
    ("--plan dense.pt", 4, "dense.pt is no plan file: it is no JSON"),
    ("--plan wide.json", 2, "wide.json is a plan of another network: the first layer that differs is a, 9 units"),
    ("--plan frozen.json", 2, "frozen.json removes 1 units of fc, which is frozen: it is the network's output"),
    *((f"--plan plan.json {more}", 2, f"{more.split()[0]} would have no effect: --plan says")
      for more in ("--skip a", "--coupled", "--align 4", "--scope local", "--max-ratio 0.5")),
    *((more, 2, f"{more.split()[0]} would have no effect without one of --ratios")
      for more in ("--skip a", "--coupled", "--align 4", "--scope global", "--max-ratio 0.5")),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "said"), SELECTIONS, ids=[words for words, _, _ in SELECTIONS])
@pytest.mark.parametrize("command", SELECTING)
def test_a_selection_that_cannot_be(corpus: Path, out: Path, command: str, words: str, code: int, said: str) -> None:
    line = type_(command, out)
    if "--ratios" in line:
        at = line.index("--ratios")
        line[at : at + 2] = []
    refused(program.greg(corpus, *line, *words.split()), code, said, out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--ratios b=0.8", "--ratios b=0.8 keeps b 1, but reg.pt was regularized to keep b 3; leave --ratios out"),
        ("--ratios b=0.5,c=0.5", "--ratios b=0.5,c=0.5 keeps c 3, but reg.pt was regularized to keep c 6"),
        ("--ratios b=0.5 --align 4", "keeps b 4, but reg.pt was regularized to keep b 3"),
        ("--ratios b=0.5 --max-ratio 0.4", "keeps b 4, but reg.pt was regularized to keep b 3"),
        ("--target-macs 61%", "--target-macs 61% keeps"),
    ],
)
def test_more_selections_that_contradict_the_picks(corpus: Path, out: Path, words: str, said: str) -> None:
    ran = program.greg(corpus, "prune", "reg.pt", "-o", str(out / "o.pt"), *words.split())
    refused(ran, 2, said, out)


def test_selections_that_agree_with_the_picks(corpus: Path, out: Path) -> None:
    for words in ("--ratios b=0.5", "--ratios 0.5 --skip c", "--plan plan.json", "--ratios b=0.6 --max-ratio 0.5"):
        ran = program.greg(corpus, "prune", "reg.pt", "-o", str(out / "o.pt"), "--force", *words.split())
        assert ran.code == 0, (words, ran.err)


def test_a_selection_that_contradicts_the_picks(corpus: Path, out: Path) -> None:
    ran = program.greg(corpus, *type_("prune", out, "reg.pt", ratios="b=0.8"))
    refused(ran, 2, "keeps b 1, but reg.pt was regularized to keep b 3", out)


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        ("data.py:channels", 2, "has images of 3x8x8, but the network takes 1x8x8"),
        ("data.py:size", 2, "has images of 1x2x2, but the network takes 1x8x8"),
        ("data.py:classes", 2, "has 12 classes, but the network has 10 outputs"),
        ("data.py:empty", 4, "data.py:empty holds no training images"),
        ("data.py:nothing", 4, "does not define a callable 'nothing'"),
        ("nowhere.py:some", 4, "nowhere.py is not a file"),
        ("cifar10:nowhere", 4, "put torchvision's cifar-10-batches-py files there, or add --download"),
        ("imagefolder:nowhere", 4, "nowhere/train cannot be used"),
        ("mnist", 2, "unknown; nearest: fashion-mnist"),
    ],
)
@pytest.mark.parametrize("command", WITH_DATA)
def test_data_that_do_not_fit(corpus: Path, out: Path, command: str, data: str, code: int, said: str) -> None:
    refused(program.greg(corpus, *type_(command, out, data=data)), code, said, out)


@pytest.mark.parametrize("command", WRITING)
def test_an_output_that_exists_stays(corpus: Path, out: Path, command: str) -> None:
    target = out / str(COMMANDS[command][2])
    target.write_text("mine")
    refused(program.greg(corpus, *type_(command, out)), 2, "exists; add --force", out, (target.name,))
    assert target.read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    [
        "export mine.pt -o {}",
        "export dense.pt --baseline mine.pt -o {}",
        "compress mine.pt --data data.py:some --ratios 0.5 -o {}",
        "plot mine.png -o {}",
        "report mine.html -o {}",
        "analyze mine.pt --ratios 0.5 --plan-out {}",
    ],
)
def test_an_output_of_another_kind_takes_no_inputs_place(corpus: Path, tmp_path: Path, words: str) -> None:
    mine = next(word for word in words.split() if word.startswith("mine"))
    (corpus / mine).write_bytes((corpus / "dense.pt").read_bytes())
    (tmp_path / "link").symlink_to(corpus)
    for name in (mine, str(corpus / mine), str(tmp_path / "link" / mine)):
        ran = program.greg(corpus, *words.format(name).split(), "--force")
        assert (ran.code, ran.out) == (2, ""), ran.err
        assert "is an input of this command" in ran.error()
    assert (corpus / mine).read_bytes() == (corpus / "dense.pt").read_bytes()
    (corpus / mine).unlink()


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        ("prune net.py:Net --ratios 0.5 -o net.py", "net.py"),
        ("prune net.py:Net --ratios 0.5 -o link.pt", "net.py"),
        ("train --arch net.py:Net --data digits -o net.py", "net.py"),
        ("train --arch net.py:Net --data data.py:some -o data.py", "data.py"),
        ("prune dense.pt --plan plan.json -o plan.json", "plan.json"),
        ("regularize dense.pt --data data.py:some --ratios @ratios.json -o ratios.json", "ratios.json"),
        ("analyze dense.pt --ratios @ratios.json --plan-out ratios.json", "ratios.json"),
        ("finetune pruned.pt --data data.py:some --teacher dense.pt -o dense.pt", "dense.pt"),
    ],
)
def test_force_spares_what_a_command_reads(corpus: Path, words: str, lost: str) -> None:
    link = corpus / "link.pt"
    link.symlink_to("net.py")
    ran = program.greg(corpus, *words.split(), "--force")
    link.unlink()
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert "is an input of this command" in ran.error()
    assert lost in ran.error()


def test_an_output_of_an_inputs_name_elsewhere_is_none(corpus: Path, tmp_path: Path) -> None:
    for _ in range(2):
        done = program.greg(corpus, "prune", "net.py:Net", "--ratios", "0.5", "-o", str(tmp_path / "net.py"), "--force")
        assert done.code == 0, done.err


def test_a_baseline_of_another_input(corpus: Path, out: Path) -> None:
    line = type_("export", out, baseline="torchvision:resnet18")
    refused(program.greg(corpus, *line), 2, "--baseline torchvision:resnet18 takes another input shape than", out)


@pytest.mark.parametrize("target", ["/proc/o.pt", "nowhere/o.pt", "net.py/o.pt"])
@pytest.mark.parametrize("command", WRITING)
def test_an_output_that_cannot_be_written(corpus: Path, out: Path, command: str, target: str) -> None:
    refused(program.greg(corpus, *type_(command, out, o=target)), 1, f"{target} cannot be written", out)


@pytest.mark.parametrize("command", WRITING)
def test_a_full_disk(corpus: Path, out: Path, command: str) -> None:
    """A limit on the size of files stands for the disk. The work of a long run cannot be saved either then."""
    more = {"workers": "0"} if command in TRAINING else {}  # they share memory through files
    ran = program.greg(corpus, *type_(command, out, **more), most_bytes=1000)
    refused(ran, 1, "could not be written", out)


@pytest.mark.parametrize("command", WRITING)
def test_two_runs_with_one_output(corpus: Path, out: Path, command: str) -> None:
    stage = "slow-pruned" if command == "finetune" else "slow"
    first = program.start(corpus, *type_(command, out, f"{stage}.pt"))
    lock = out / f".{COMMANDS[command][2]}.lock"
    first.wait_for("never", lock)
    assert lock.exists()
    for more in ((), ("--force",), ("--resume",))[: 3 if command in TRAINING else 2]:
        ran = program.greg(corpus, *type_(command, out), *more)
        assert (ran.code, ran.out) == (2, "")
        assert "another greg is writing" in ran.error()
    first.signal(signal.SIGINT)
    assert first.finish().code == 130
    assert {path.suffix for path in out.iterdir()} <= {".partial"}


@pytest.mark.parametrize("command", TRAINING)
def test_nan_keeps_the_last_good_state(corpus: Path, out: Path, command: str) -> None:
    model = "poisoned-pruned.pt" if command == "finetune" else "poisoned.pt"
    ran = program.greg(corpus, *type_(command, out, model, save_every="10", batch_size="20", workers="0"))
    refused(ran, 1, "the loss is not finite at iteration 30; lower --lr", out, ("o.pt.partial",))
    saved = torch.load(out / "o.pt.partial", weights_only=True)
    assert saved["run"]["loop"]["iteration"] == 20
    assert all(tensor.isfinite().all() for tensor in saved["weights"].values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_interrupted_anywhere(corpus: Path, out: Path, command: str, number: int) -> None:
    """In the middle of work that takes long: a network or a data set that sleeps."""
    model = "slow-pruned.pt" if command == "finetune" else "slow.pt"
    more = {"data": "data.py:slow", "workers": "0"} if command in WITH_DATA else {}
    running = program.start(corpus, *type_(command, out, model, **more))
    running.process.join(1.5)
    running.signal(number)
    ran = running.finish()
    assert (ran.code, ran.out) == (128 + number, "")
    assert "interrupted" in ran.error()
    assert {path.name for path in out.iterdir()} <= ({"o.pt.partial"} if command in TRAINING else set())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", WITH_DATA)
def test_interrupted_while_workers_read(corpus: Path, out: Path, command: str, number: int) -> None:
    """The whole group is told to stop, as by a terminal or a batch system: the work is saved all the same."""
    running = program.start(corpus, *type_(command, out, data="data.py:slow", workers="2"))
    if command in TRAINING:
        running.wait_for("top-1 before")
    running.process.join(0.5)
    running.signal_group(number)
    ran = running.finish()
    assert ran.code == 128 + number, ran.err
    assert "interrupted" in ran.error()
    assert [path.name for path in out.iterdir()] == ["o.pt.partial"] * (command in TRAINING)
