"""The contract of the command line: exit codes, one line for an error, stdout for results alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from greg_compress.wiring.groups import find_groups
from tests.conftest import DIGITS, RESNET, ROOT, Ran

Greg = Callable[..., Ran]
ONE_SHOT = ("prune", DIGITS, "--ratios", "0.5")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("prune", "none.pt", "--ratios", "0.5", "-o", "o.pt"), 4, "none.pt does not exist"),
        (("prune", ".", "--ratios", "0.5", "-o", "o.pt"), 4, "is a directory"),
        (("prune", DIGITS, "--ratios", "1.0", "-o", "o.pt"), 2, "at least 0 and below 1"),
        (("prune", DIGITS, "--ratios", "[0, 0.5]", "-o", "o.pt"), 2, "the network has 4 stages"),
        (("prune", DIGITS, "--ratios", "0.5", "--skip", "layr1", "-o", "o.pt"), 2, "nearest: layer1"),
        (("prune", DIGITS, "--skip", "layer1", "-o", "o.pt"), 2, "--skip would have no effect"),
        (("prune", DIGITS, "-o", "o.pt"), 2, "dense and carries no picks"),
        (("prune", DIGITS, "--ratios", "0", "-o", "o.pt"), 3, "removes nothing"),
        (("prune", DIGITS, "--ratois", "0.5", "-o", "o.pt"), 2, "greg prune has no option --ratois; nearest: --ratios"),
        (("prune", DIGITS, "--ratios", "0.5", "-o", "there/o.pt"), 1, "cannot be written"),
        (("prune", DIGITS, "--ratios", "0.5", "-o", "/proc/o.pt"), 1, "cannot be written"),
        (("prune", DIGITS, "--ratios", "0.5", "-o", RESNET), 2, "exists; add --force"),
        (("prune", DIGITS, "--arch-arg", "a=1", "--ratios", "0.5", "-o", "o.pt"), 2, "no effect"),
        (("prune", DIGITS, "--input-shape", "1,9,9", "--ratios", "0.5", "-o", "o.pt"), 2, "contradicts"),
        (("prune", "torchvision:resnet18", "--input-shape", "3,x", "--ratios", "0.5", "-o", "o.pt"), 2, "3,224,224"),
        (("prune", "torchvision:nothing", "--ratios", "0.5", "-o", "o.pt"), 2, "has no model"),
        (("finetune", DIGITS, "--data", "digits", "-o", "o.pt"), 2, "use greg train"),
        (("evaluate", DIGITS, "--data", "cifar"), 2, "unknown; nearest: cifar10, cifar100"),
        (("evaluate", DIGITS, "--data", "fashion-mnist:nowhere"), 4, "cannot be read below nowhere"),
        (("evaluate", DIGITS, "--data", "digits", "--device", "tpu9"), 2, "write auto, cpu"),
        (("evaluate", "torchvision:resnet18", "--input-shape", "1,8,8", "--data", "digits"), 2, "does not run with"),
        (("evaluate", "torchvision:resnet18", "--data", "digits"), 2, "images of 1x8x8, but the network takes"),
        (("train", "--data", "digits", "-o", "o.pt"), 2, "say what to train"),
        (("train", "--arch", "torchvision:resnet18", "--data", "digits", "-o", "o.pt"), 2, "digits does not fit"),
        (
            ("train", "--arch", f"{RESNET}:resnet20", "--arch-arg", "in_channels=1", "--arch-arg", "num_classes=9",
             "--data", "digits", "-o", "o.pt"), 2, "10 classes, but the network has 9 outputs",
        ),
        (("train", DIGITS, "--data", "digits", "--epochs", "1", "--iterations", "2", "-o", "o.pt"), 2, "not both"),
        (("train", DIGITS, "--data", "digits", "--lr", "nan", "-o", "o.pt"), 2, "--lr nan: it must be above 0"),
        (("regularize", DIGITS, "--data", "digits", "-o", "o.pt"), 2, "with one of --ratios, --plan"),
        (("regularize", DIGITS, "--ratios", "0.5", "--data", "digits", "--delta", "0", "-o", "o.pt"), 2, "--delta"),
        (("export", DIGITS, "-o", "o.onnx", "--opset", "5"), 2, "--opset 5: write 18 or a newer one"),
        (("export", DIGITS, "-o", "o.onnx", "--baseline", "none.pt"), 4, "none.pt does not exist"),
        (("demo", ROOT), 2, "is not empty"),
    ],
    ids=lambda value: " ".join(str(w) for w in value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_mistakes_are_one_line_with_their_code(
    greg: Greg, tmp_path: Path, words: tuple[object, ...], code: int, said: str
) -> None:
    ran = greg(*words)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.error()
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_unusable_inputs(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "cut.pt").write_bytes(DIGITS.read_bytes()[:100_000])
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickle.pt")
    (tmp_path / "empty.pt").touch()
    for name, said in {
        "cut": "truncated",
        "pickle": "holds a pickled torch.nn.modules.linear.Linear; nothing in it was run",
        "empty": "no file of tensors, or a truncated one",
    }.items():
        ran = greg("export", f"{name}.pt", "-o", "o.onnx", "--json")
        assert (ran.code, ran.out) == (4, "")
        assert said in ran.error()


def test_an_output_is_never_replaced_unasked(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "p.pt").write_text("mine")
    assert greg(*ONE_SHOT, "-o", "p.pt").code == 2
    assert (tmp_path / "p.pt").read_text() == "mine"
    assert greg(*ONE_SHOT, "-o", "p.pt", "--force").code == 0
    assert (tmp_path / "p.pt").stat().st_size > 1_000_000


def test_prune_as_a_deployment_build_would(greg: Greg, tmp_path: Path) -> None:
    pruned = greg(*ONE_SHOT, "-o", "p.pt", "--json").json
    assert pruned["self_check"]["passed"]
    assert pruned["self_check"]["max_rel_error"] < 1e-9
    assert pruned["params"]["after"] < pruned["params"]["before"]
    kept = {group["name"]: group["kept"] for group in pruned["groups"]}
    assert kept["layer2.0.conv1"] == 32
    assert kept["conv1"] == 32
    exported = greg("export", "p.pt", "-o", "p.onnx", "--baseline", DIGITS, "--runs", "20", "--json").json
    assert exported["passed"]
    assert exported["parity"]["passed"]
    assert exported["size"] == (tmp_path / "p.onnx").stat().st_size
    for timed in (exported["latency"], exported["baseline"]):
        assert 0 < timed["p50_ms"] <= timed["p95_ms"]
        assert (timed["runs"], timed["threads"]) == (20, 1)
    assert exported["speedup"] == exported["baseline"]["p50_ms"] / exported["latency"]["p50_ms"]
    assert round(exported["macs_speedup"], 2) == round(pruned["macs_speedup"], 2) == 2.0


def test_parity_beyond_the_tolerance_leaves_no_file(greg: Greg, tmp_path: Path) -> None:
    ran = greg("export", DIGITS, "-o", "d.onnx", "--tolerance", "1e-30", "--json")
    assert ran.code == 3
    assert (ran.json["passed"], ran.json["parity"]["passed"], ran.json["onnx"]) == (False, False, None)
    assert "more than --tolerance" in ran.error()
    assert list(tmp_path.iterdir()) == []


def test_nothing_prunable_is_a_failed_check_with_a_document(greg: Greg) -> None:
    ran = greg("prune", DIGITS, "--ratios", "0", "-o", "p.pt", "--json")
    assert ran.code == 3
    assert ran.json["passed"] is False


def test_analyze_says_why_layers_are_left_alone(greg: Greg) -> None:
    ran = greg("analyze", DIGITS, "--ratios", "0.5", "--json")
    layers = {layer["name"]: layer for layer in ran.json["layers"]}
    assert layers["layer1.0.conv1"]["prunable"]
    assert layers["layer1.0.conv1"]["kept"] == 16
    assert "coupled: an addition ties" in layers["layer1.0.conv2"]["reason"]
    assert all(layer["kept"] == layer["out_channels"] for layer in layers.values() if not layer["prunable"])
    assert layers["conv1"]["index"] == 0
    assert layers["fc"]["index"] is None
    assert "the network's output" in layers["fc"]["reason"]
    assert sum(layer["macs"] for layer in layers.values()) == ran.json["macs"]
    assert ran.json["plan"]["macs_speedup"] == pytest.approx(2.0, abs=0.01)
    assert layers["layer1.0.conv1"]["left"] == {"shape": [16, 32, 3, 3], "params": 4608, "macs": 294912, "zeros": None}
    assert layers["layer2.0.conv1"]["stage"] == "layer2"
    dense = greg("analyze", DIGITS, "--json").json
    assert dense["plan"] is None
    assert all(layer["left"] is None for layer in dense["layers"])


def test_analyze_reads_well(greg: Greg, monkeypatch: pytest.MonkeyPatch) -> None:
    """One table, every reason once below it, and the totals."""
    lines = greg("analyze", DIGITS, "--ratios", "0.5").out.splitlines()
    for heading in ("layer", "stage", "index", "type", "shape", "params", "MACs", "share", "kept", "group", "prunable"):
        assert heading in lines[1]
    (row,) = (" ".join(line.split()) for line in lines if line.startswith("layer2.1.conv1"))
    assert row == "layer2.1.conv1 9 Conv2d 64x64x3x3 36.9k 590k 5.9% 32/64 18.4k 295k layer2.1.conv1 yes"
    (total,) = (" ".join(line.split()) for line in lines if line.startswith("total"))
    assert total == "total 1.07M 10M 100.0% 538k 5.03M"
    assert lines.count("[2] frozen: it is the network's output") == 1
    assert "1,073,386 parameters, 10,046,720 MACs, 4.1 MiB" in lines
    assert "the selection leaves 538,186 parameters" in lines[-2]


def test_functional_layers_are_counted_and_named(greg: Greg, tmp_path: Path) -> None:
    """thop sees modules alone; torch's own counter agrees with the sum (test_surgery)."""
    (tmp_path / "n.py").write_text(NETWORK)
    layers = greg("analyze", "n.py:Functional", "--ratios", "deep.kernel=0.5", "--json").json["layers"]
    assert [(layer["name"], layer["type"], layer["stage"], layer["macs"]) for layer in layers] == [
        ("deep.kernel", "functional conv2d", "deep", 4 * 9 * 36),
        ("b", "Conv2d", "b", 4 * 4 * 9 * 16),
        ("head", "functional linear", "head", 640),
    ]
    assert layers[0]["left"] == {"shape": [2, 1, 3, 3], "params": 18, "macs": 2 * 9 * 36, "zeros": None}


def test_a_network_of_two_inputs_goes_through_the_chain(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text(NETWORK)
    assert greg("prune", "n.py:Two", "--ratios", "a=0.5", "-o", "p.pt", "--json").json["self_check"]["passed"]
    ran = greg("export", "p.pt", "-o", "p.onnx", "--runs", 3, "--json")
    assert ran.json["parity"]["passed"], ran.err
    assert "repeats for several inputs" in greg("analyze", "n.py:Two", "--input-shape", "1,8,8").error()
    assert greg("analyze", "n.py:Two", "--input-shape", "1,9,9", "--input-shape", "7").code == 0
    assert "contradicts p.pt, which was made for 1x8x8 and 7" in greg("analyze", "p.pt", "--input-shape", "7").error()


def test_a_plan_that_a_trial_let_through_is_stopped_by_its_own_replay(
    greg: Greg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any trial: every second channel is read, and L1 picks as it likes."""
    monkeypatch.setattr("greg_compress.prune.prunable_wiring", find_groups)
    (tmp_path / "n.py").write_text(NETWORK)
    torch.manual_seed(0)
    ran = greg("prune", "n.py:Strided", "--ratios", "a=0.5", "-o", "p.pt", "--json")
    assert ran.code == 3
    assert "this plan cannot be cut: after a cut aten.slice" in ran.error()
    assert "it would do without a (see --skip)" in ran.error()
    assert ran.json["passed"] is False


def test_the_plan_is_shown_before_anything_is_done(greg: Greg) -> None:
    ran = greg("prune", DIGITS, "--ratios", "layer2.*.conv1=0.25", "-o", "p.pt")
    plan = [line.split() for line in ran.err.splitlines()]
    assert ["layer2.1.conv1", "64", "48"] in plan
    assert "groups that lose units: 3, left alone: 10" in ran.err


def test_a_networks_own_prints_stay_off_stdout(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "print('hello')\nfrom torch import nn\n"
        "def net():\n    print('building')\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))\n"
    )
    ran = greg("analyze", "net.py:net", "--input-shape", "1,8,8", "--json")
    assert ran.json["params"] > 0
    assert "hello" in ran.err
    assert "no trained weights" in ran.err


NETWORK = """
import sys, torch, warnings
from torch import nn
class Net(nn.Module):
    input_shape = (1, 8, 8)
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(64, 10)
    def forward(self, x):
        return self.fc(self.b(self.a(x).relu()).flatten(1))
class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 1, 3, 3))
    def forward(self, x): return nn.functional.conv2d(x, self.kernel).relu()
class Functional(nn.Module):
    input_shape = (1, 8, 8)
    def __init__(self):
        super().__init__()
        self.deep, self.b, self.head = Deep(), nn.Conv2d(4, 4, 3), nn.Parameter(torch.randn(10, 64))
    def forward(self, x): return nn.functional.linear(self.b(self.deep(x)).flatten(1), self.head)
class Two(nn.Module):
    input_shape = ((1, 8, 8), (7,))
    def __init__(self):
        super().__init__()
        self.a, self.v, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(7, 6), nn.Linear(6, 4)
    def forward(self, x, v): return {"y": self.fc((self.a(x).relu() * self.v(v)[:, :, None, None]).mean((2, 3)))}
class Frozen(Net):
    def forward(self, x): return self.a(x).softmax(1)
class Strided(Net):
    def __init__(self): super().__init__(); self.a, self.b = nn.Conv2d(1, 16, 3), nn.Conv2d(8, 4, 3)
    def forward(self, x): return self.fc(self.b(self.a(x).relu()[:, ::2]).flatten(1))
class Nan(Net):
    def forward(self, x): return super().forward(x) * float("nan")
class Quits(Net):
    def forward(self, x): sys.exit(0)
class Raises(Net):
    def __init__(self): raise ValueError("no luck")
class Pair(Net):
    def forward(self, x): return super().forward(x), x
class RealOnly(Net):
    def forward(self, x):
        if x.device.type != "meta": raise KeyError("real")
        return super().forward(x)
class Double(Net):
    def __init__(self): super().__init__(); self.double()
class Complex(Net):
    def __init__(self): super().__init__(); self.register_buffer("table", torch.zeros(2, dtype=torch.complex64))
class Quantized(Net):
    def __init__(self):
        super().__init__()
        warnings.simplefilter("ignore")  # torch says that these will go
        self.register_buffer("table", torch._empty_affine_quantized([2], scale=1.0, dtype=torch.qint8))
class Eight(Net):
    def __init__(self): super().__init__(); self.register_buffer("table", torch.zeros(2).to(torch.float8_e4m3fn))
class Stops(Net):
    def __init__(self): raise KeyboardInterrupt
class Lock(Net):
    def __init__(self):
        super().__init__()
        import threading
        self.lock = threading.Lock()
class Shape(Net):
    input_shape = "abc"
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("export", "n.py:Nan", "-o", "o.onnx"), 1, "not finite"),
        (("prune", "n.py:Nan", "--ratios", "0.5", "-o", "o.pt"), 3, "self-check failed"),
        (("prune", "n.py:Frozen", "--ratios", "0.5", "-o", "o.pt"), 3, "every group is frozen or coupled"),
        (("analyze", "n.py:Two", "--input-shape", "1,8,8"), 4, "in the network itself (TypeError"),
        (("analyze", "n.py:Net", "--input-shape", "3,8,8"), 4, "aten.convolution.default in a (RuntimeError"),
        (("analyze", "n.py:Quits"), 4, "SystemExit"),
        (("analyze", "n.py:Raises"), 4, "cannot be built (ValueError: no luck)"),
        (("analyze", "n.py:Complex"), 4, "table is of torch.complex64; prune the network of real numbers"),
        (("analyze", "n.py:Quantized"), 4, "table is of torch.qint8"),
        (("prune", "n.py:Eight", "--ratios", "0.5", "-o", "o.pt"), 4, "table is of torch.float8_e4m3fn"),
        (("analyze", "n.py:Stops"), 1, "stopped early by KeyboardInterrupt, which a file of yours raised"),
        (("analyze", "n.py:Lock"), 4, "cannot be copied"),
        (("analyze", "n.py:Shape"), 4, "input_shape that is no shape"),
        (("train", "--arch", "n.py:Pair", "--data", "digits", "-o", "o.pt"), 2, "returns tuple"),
        (("train", "--arch", "n.py:Nan", "--data", "digits", "-o", "o.pt"), 1, "not finite"),
        (("evaluate", "n.py:RealOnly", "--data", "digits"), 4, "fails on these images (KeyError"),
        (("export", "n.py:RealOnly", "-o", "o.onnx"), 1, "cannot be exported"),
        (("evaluate", "n.py:Double", "--data", "digits"), 4, "fails on these images"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_networks_that_misbehave_are_one_line(
    greg: Greg, tmp_path: Path, words: tuple[object, ...], code: int, said: str
) -> None:
    (tmp_path / "n.py").write_text(NETWORK)
    ran = greg(*words, "--json")
    assert ran.code == code
    assert said in ran.error()
    assert (ran.out != "") == (code == 3)
    if ran.out:
        assert "Infinity" not in ran.out
        assert ran.json["passed"] is False
    assert not {path.name for path in tmp_path.iterdir()} & {"o.pt", "o.onnx"}


def test_special_files_are_not_replaced_even_by_force(greg: Greg, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    ran = greg(*ONE_SHOT, "-o", "pipe", "--force")
    assert (ran.code, (tmp_path / "pipe").is_fifo()) == (2, True)
    assert "no ordinary file" in ran.error()
    assert greg("analyze", "pipe").code == 4


def test_a_baseline_may_be_another_network(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text(NETWORK)
    ran = greg("export", "n.py:Net", "--baseline", DIGITS, "--runs", "3", "-o", "o.onnx", "--json")
    assert ran.json["macs_speedup"] > 1


def test_stage_by_stage_with_its_own_rules(greg: Greg, tmp_path: Path) -> None:
    """regularize, prune by its picks, finetune: each refuses what it cannot take."""
    short = ("--data", "digits", "--batch-size", "64", "--json")
    run = greg("regularize", DIGITS, "--ratios", "[0, 0.5, 0, 0.25]", "--ceiling", "0.1", "--delta", "0.02",
               "--stabilize", "2", *short, "-o", "r.pt")  # fmt: skip
    assert run.json["iterations"] == 5 + 1 + 2
    assert "layer3.0.conv1" in run.err
    assert 0 <= run.json["top1_after"] <= 100
    assert greg("regularize", "r.pt", "--ratios", "0.5", *short, "-o", "x.pt").code == 4
    assert greg("finetune", "r.pt", *short, "-o", "x.pt").code == 4
    assert greg("train", "r.pt", *short, "-o", "x.pt").code == 4
    refused = greg("prune", "r.pt", "--ratios", "0.9", "-o", "x.pt")
    assert refused.code == 2
    assert "was regularized to keep layer1.0.conv1 16" in refused.error()
    pruned = greg("prune", "r.pt", "--ratios", "[0, 0.5, 0, 0.25]", "-o", "p.pt", "--json").json
    assert pruned["l1_differs"] == 0
    tuned = greg("finetune", "p.pt", "--iterations", "3", "--val-fraction", "0.1", *short, "-o", "f.pt").json
    assert tuned["iterations"] == 3
    assert tuned["val_top1"] is not None
    again = greg("regularize", "f.pt", "--ratios", "0.5", "--ceiling", "0.1", "--delta", "0.1",
                 "--stabilize", "0", *short, "-o", "r2.pt")  # fmt: skip
    assert again.code == 0
    twice = greg("prune", "r2.pt", "-o", "p2.pt", "--json").json
    assert twice["params"]["before"] == pruned["params"]["after"]
    assert greg("evaluate", "p2.pt", *short[:2], "--json").json["samples"] == 359


def test_a_preset_sets_what_is_not_given(greg: Greg) -> None:
    short = ("--ceiling", "0.02", "--delta", "0.01", "--update-every", "1", "--stabilize", "1", "--data", "digits",
             "--pick-ceiling", "0.002", "--pick-delta", "0.001", "--batch-size", "64", "--json")  # fmt: skip
    ran = greg(
        "regularize", DIGITS, "--ratios", "0.5", "--method", "greg-2", "--preset", "repo-cifar", *short, "-o", "r.pt"
    )
    assert ran.json["iterations"] == 3 + 2 + 1
    assert ran.json["l1_differs"] >= 0
    assert "kept units recover at -0.0001" in ran.err
    (entry,) = (e for e in torch.load("r.pt", weights_only=True)["history"] if e["command"] == "regularize")
    used = {name: entry["options"][name] for name in ("lr", "batch_size", "weight_decay", "preset", "method")}
    assert used == {"lr": 1e-3, "batch_size": 64, "weight_decay": 5e-4, "preset": "repo-cifar", "method": "greg-2"}
    assert greg("prune", "r.pt", "-o", "p.pt", "--json").json["self_check"]["passed"]
    for flag in ("--pick-ceiling", "--pick-delta", "--recover"):
        refused = greg("regularize", DIGITS, "--ratios", "0.5", flag, "0.1", "--data", "digits", "-o", "x.pt")
        assert refused.code == 2
        assert f"{flag} would have no effect without --method greg-2" in refused.error()


def test_names_in_a_file_do_not_write_on_the_terminal(greg: Greg, tmp_path: Path) -> None:
    data = torch.load(DIGITS, weights_only=True)
    data["weights"]["\x1b]0;title\x07\x1b[2Jup\rdown\u202e"] = torch.zeros(1)
    torch.save(data, tmp_path / "s.pt")
    ran = greg("analyze", "s.pt")
    assert ran.code == 4
    assert ran.error().isprintable()


def test_a_moved_network_file_is_named_again(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(RESNET.read_text() + "\n# mine\n")
    arguments = ("--arch-arg", "in_channels=1", "--arch-arg", "width=4")
    assert greg("train", "--arch", "mine.py:resnet20", *arguments, "--data", "digits", "--iterations", "2",
                "-o", "m.pt").code == 0  # fmt: skip
    (tmp_path / "mine.py").rename(tmp_path / "moved.py")
    missing = greg("analyze", "m.pt")
    assert missing.code == 4
    assert "--arch FILE.py:resnet20" in missing.error()
    assert greg("analyze", "m.pt", "--arch", "moved.py:resnet20").code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_result_that_cannot_be_printed_is_a_failure(tmp_path: Path) -> None:
    import subprocess

    from tests.conftest import command

    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command("analyze", DIGITS, "--json"), stdout=full, stderr=subprocess.PIPE, text=True,
                              cwd=tmp_path, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_gone_is_said(greg: Greg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ran = greg("show", DIGITS)
    assert (ran.code, ran.out) == (1, "")
    assert ran.error().endswith("the current folder cannot be used (No such file or directory); go to another one")


def test_the_version_and_python_dash_m(greg: Greg) -> None:
    assert greg("--version").out.startswith("greg 0.")
    assert "Usage: greg" in greg("--help").out
    assert os.sep not in greg("prune", "--help").out.splitlines()[1]
