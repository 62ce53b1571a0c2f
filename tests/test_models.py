"""Any trained network that people have on disk: official weights, whole pickles, files of code; and what may run."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import greg_compress
from greg_compress.errors import InputError, RequestError
from greg_compress.options.network import ModelOptions
from greg_compress.sources.models import rebuild
from greg_compress.sources.specs import PICKLE, Architecture, parse_architecture
from greg_compress.sources.torchvision_models import preprocessing
from greg_compress.state import files
from greg_compress.state.models import Opened, open_model
from tests import program
from tests.test_training import assert_same

OFFICIAL = "torchvision:squeezenet1_1@IMAGENET1K_V1"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where torchvision looks for official weights; nothing is fetched here."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("something was downloaded")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    return tmp_path / "torch" / "hub" / "checkpoints"


def opened(spec: str) -> Opened:
    return open_model(ModelOptions(spec, parse_architecture(spec)))


def test_official_weights_that_are_not_there_say_where_they_belong(hub: Path) -> None:
    with pytest.raises(InputError) as error:
        opened(OFFICIAL)
    assert "squeezenet1_1-b8a52dc0.pth is expected in" in str(error.value)
    assert f"{hub}; put it there, or add --download" in str(error.value)


def test_official_weights_that_are_there(hub: Path, tmp_path: Path) -> None:
    """Read by our own reader; input, classes and normalisation are what they were trained with."""
    hub.mkdir(parents=True)
    weights = {k: torch.full_like(v, 0.5) for k, v in torchvision.models.squeezenet1_1().state_dict().items()}
    torch.save(weights, hub / "squeezenet1_1-b8a52dc0.pth", _use_new_zipfile_serialization=False)
    found = opened(OFFICIAL)
    assert_same(dict(found.model.state_dict()), weights)
    assert (found.state.classes, found.state.input_shapes, found.untrained) == (1000, ((3, 224, 224),), False)
    assert found.state.normalization is not None
    assert found.state.normalization["std"] == [0.229, 0.224, 0.225]
    files.save(found.state, tmp_path / "s.pt", replace=False)
    shutil.rmtree(hub)
    assert_same(open_model(ModelOptions(str(tmp_path / "s.pt"))).state.weights, weights)


@pytest.mark.parametrize("name", torchvision.models.list_models())
def test_every_official_network_says_what_it_was_trained_with(name: str) -> None:
    """Nothing is built here: names, sizes and classes of all that torchvision has."""
    for version in torchvision.models.get_model_weights(name):
        found = preprocessing(Architecture(f"torchvision:{name}@{version.name}"))
        assert found is not None
        if name in torchvision.models.list_models(module=torchvision.models) and version.name != "IMAGENET1K_FEATURES":
            assert found.classes == 1000
            assert found.side is not None
            assert found.mean is not None


def test_an_official_file_that_is_another(hub: Path) -> None:
    hub.mkdir(parents=True)
    path = hub / "squeezenet1_1-b8a52dc0.pth"
    own = torchvision.models.squeezenet1_1().state_dict()
    for content in (
        nn.Linear(2, 2),
        {"a": torch.ones(2)},
        5,
        {5: torch.ones(2)},
        {k: v.double() for k, v in own.items()},
    ):
        torch.save(content, path)
        with pytest.raises(InputError):
            opened(OFFICIAL)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "densenet121", "fcn_resnet50"])
def test_a_network_keeps_the_form_of_its_official_weights(hub: Path, name: str) -> None:
    """Heads that go, inputs that are rescaled, old names: torchvision's own constructor decides, without the file."""
    weights = torchvision.models.get_model_weights(name)
    version = next(iter(weights)).name
    model = rebuild(Architecture(f"torchvision:{name}@{version}"))
    if name == "googlenet":
        assert model.transform_input is True
        assert model.aux1 is None
    if name == "fcn_resnet50":
        assert model.aux_classifier is not None


def test_misspelt_names_have_neighbours() -> None:
    for spec, said in (
        ("torchvision:resnet51", "resnet50"),
        ("torchvision:resnet50@IMAGENET1K_V3", "IMAGENET1K_V2"),
        ("torchvision:resnet50@DEFAULTS", "nearest: "),
    ):
        with pytest.raises(RequestError, match=said):
            opened(spec)
    for argument in ("weights=DEFAULT", "pretrained=True", "weights_backbone=DEFAULT", "progress=False"):
        with pytest.raises(RequestError, match="write torchvision:NAME@WEIGHTS for official weights"):
            parse_architecture("torchvision:resnet18", [argument])


@pytest.mark.parametrize("kwargs", [{"weights": "DEFAULT"}, {"pretrained": True}, {"x": [1]}, {"a b": 1}, {5: 1}, []])
def test_a_state_cannot_make_torchvision_fetch_a_file(kwargs: object) -> None:
    with pytest.raises(ValueError, match="impossible arguments"):
        Architecture("torchvision:resnet18", kwargs).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec",
    ["net", "os:system", "/etc/passwd:x", "net.py:", ":net", "x\n.py:net", "\x1b[2J.py:net", "a" * 5000 + ".py:b"],
)
def test_impossible_specs_in_a_state(spec: str) -> None:
    with pytest.raises(ValueError, match="architecture"):
        Architecture(spec, {}, "0" * 64).check()


NET = """
from torch import nn
class Net(nn.Sequential):
    input_shape = (1, 8, 8)
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))
"""


def recorded(folder: Path, spec: str = "net.py:Net") -> Architecture:
    (folder / "net.py").write_text(NET)
    state = open_model(ModelOptions(spec, parse_architecture(spec))).state
    return state.architecture


def test_a_cached_pyc_beside_a_file_is_not_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would run an unchecked .pyc in the place of a source whose digest is right."""
    monkeypatch.chdir(tmp_path)
    architecture = recorded(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n{NET}")
    import py_compile

    cache = importlib.util.cache_from_source(str(tmp_path / "net.py"))
    py_compile.compile(
        str(tmp_path / "evil.py"), cache, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    rebuild(architecture)
    assert not ran.exists()
    spec = importlib.util.spec_from_file_location("probe", tmp_path / "net.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert ran.exists()  # the trick works on Python's own import


@pytest.mark.parametrize("path", ["../net.py", "../../{folder}/../net.py", "link.py", "sub/link/net.py"])
def test_a_path_that_leads_out_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    architecture = recorded(tmp_path)
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "link.py").symlink_to(tmp_path / "net.py")
    (inside / "sub" / "link").symlink_to(tmp_path)
    monkeypatch.chdir(inside)
    tricked = Architecture(f"{path.format(folder=inside.name)}:Net", {}, architecture.sha256)
    with pytest.raises(InputError, match="with the recorded digest lies below"):
        rebuild(tricked)


def test_a_changed_file_is_said_to_be_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    architecture = recorded(tmp_path)
    (tmp_path / "net.py").write_text(NET + "# changed")
    with pytest.raises(InputError, match=r"recorded digest lies \(.*net\.py is another\) below"):
        rebuild(architecture)


def pickled(folder: Path, model: nn.Module | None = None) -> None:
    model = model or nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(),
                                   nn.Linear(64, 10))  # fmt: skip
    torch.save(model, folder / "net.pt")


def test_a_whole_pickle_is_opened_only_on_request(tmp_path: Path) -> None:
    pickled(tmp_path)
    words = ("--input-shape", "1,8,8", "--json")
    ran = program.greg(tmp_path, "analyze", "net.pt", *words)
    assert (ran.code, ran.out) == (4, "")
    assert "net.pt holds a pickled torch.nn.modules.container.Sequential; nothing in it was run" in ran.error()
    ran = program.greg(tmp_path, "analyze", "net.pt", *words, "--allow-pickle")
    assert ran.json["params"] == 846
    assert "warning: net.pt is a pickle: opening it runs whatever code it holds" in ran.err
    assert "no trained weights" not in ran.err


def test_a_pickle_goes_through_the_chain_with_its_file_and_its_flag(tmp_path: Path) -> None:
    pickled(tmp_path)
    data = ("--data", "digits", "--batch-size", "64")
    allowed = "--allow-pickle"
    for words in (
        ("prune", "net.pt", "--input-shape", "1,8,8", "--ratios", "3=0.5", allowed, "-o", "p.pt"),
        ("finetune", "p.pt", *data, "--iterations", "2", allowed, "-o", "f.pt"),
        ("evaluate", "f.pt", "--data", "digits", allowed),
        ("export", "f.pt", "--runs", "3", allowed, "-o", "f.onnx"),
    ):
        ran = program.greg(tmp_path, *words)
        assert ran.code == 0, ran.err
    refused = program.greg(tmp_path, "evaluate", "f.pt", "--data", "digits")
    assert refused.code == 4
    assert "made by unpickling net.pt, which runs code; add --allow-pickle if you trust it" in refused.error()
    assert program.greg(tmp_path, "report", "f.pt", "-o", "page.html").code == 0
    assert (tmp_path / "page.html").read_text().count(">--allow-pickle<") == 2
    state, _ = files.load(tmp_path / "f.pt")
    assert (state.architecture.source, state.architecture.name) == (PICKLE, "net.pt")
    pickled(tmp_path, nn.Sequential(nn.Conv2d(1, 5, 3)))
    assert "with the recorded digest lies" in program.greg(tmp_path, "analyze", "f.pt", allowed).error()


def test_methods_that_return_nothing(tmp_path: Path) -> None:
    """The usual way to keep BatchNorm as it is forgets `return self`."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    input_shape = (1, 8, 8)\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(),"
        " nn.Linear(64, 10))\n"
        "    def train(self, mode=True):\n"
        "        super().train(mode)\n"
        "        self[1].eval()\n"
        "    def to(self, *where, **how):\n"
        "        super().to(*where, **how)\n"
    )
    data = ("--data", "digits", "--iterations", "2")
    for words in (
        ("train", "--arch", "net.py:Net", *data, "-o", "a.pt"),
        ("regularize", "a.pt", *data[:2], "--ratios", "0.5", "--delta", "1", "--stabilize", "0", "-o", "r.pt"),
        ("prune", "r.pt", "-o", "p.pt"),
        ("finetune", "p.pt", *data, "-o", "f.pt"),
        ("evaluate", "f.pt", *data[:2]),
        ("export", "f.pt", "--runs", "1", "-o", "f.onnx"),
    ):
        ran = program.greg(tmp_path, *words)
        assert ran.code == 0, ran.err


def test_a_pickle_in_the_users_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickled(tmp_path, nn.DataParallel(nn.Sequential(nn.Flatten(), nn.Linear(64, 3))))
    found = open_model(ModelOptions("net.pt", input_shapes=((1, 8, 8),), allow_pickle=True))
    assert isinstance(found.model, nn.Sequential)
    files.save(found.state, Path("s.pt"), replace=False)
    with pytest.raises(InputError, match="add --allow-pickle"):
        greg_compress.load("s.pt")
    assert_same(dict(greg_compress.load("s.pt", allow_pickle=True).state_dict()), found.state.weights)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("net.py:Net", "--allow-pickle"), 2, "--allow-pickle would have no effect: MODEL is an architecture"),
        (("s.pt", "--allow-pickle"), 2, "--allow-pickle would have no effect: s.pt needs none"),
        (("w.pt", "--arch", "net.py:Net", "--allow-pickle"), 2, "w.pt is read without running anything"),
        (("net.pt", "--arch", "net.py:Net", "--allow-pickle"), 2, "--arch would have no effect: net.pt is a whole"),
        (("s.pt", "--arch", "net.py:Net", "--arch-arg", "a=1"), 2, "--arch-arg would have no effect: s.pt records"),
        (("w.pt", "--arch-arg", "a=1"), 2, "--arch-arg would have no effect without --arch"),
        (
            ("s.pt", "--download"),
            2,
            "--download would have no effect: MODEL is not of the form torchvision:NAME@WEIGHTS",
        ),
        (("w.pt", "--arch", OFFICIAL), 2, "MODEL has weights of its own; leave @IMAGENET1K_V1 out"),
        (("w.pt",), 4, "w.pt is not a greg state file; if it holds weights, name their network with --arch SPEC"),
        (("w.pt", "--arch", "net.py:Other"), 4, "net.py does not define a callable 'Other'"),
        (("w.pt", "--arch", "net.py:Two"), 4, "w.pt lacks 5.bias: it does not fit net.py:Two"),
        (("two.pt", "--arch", "net.py:Net"), 4, "two.pt has a surplus 5.bias: it does not fit net.py:Net"),
    ],
)
def test_flags_that_do_not_belong_to_the_file(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    (tmp_path / "net.py").write_text(f"{NET}\nclass Two(Net):\n    def __init__(self):\n"
                                     "        super().__init__()\n        self.append(nn.Linear(10, 2))\n")  # fmt: skip
    namespace: dict[str, type[nn.Module]] = {"__name__": "n"}
    exec((tmp_path / "net.py").read_text(), namespace)
    torch.save({"state_dict": namespace["Net"]().state_dict()}, tmp_path / "w.pt")
    torch.save(namespace["Two"]().state_dict(), tmp_path / "two.pt")
    pickled(tmp_path)
    made = program.greg(tmp_path, "train", "w.pt", "--arch", "net.py:Net", "--data", "digits", "--iterations", "1",
                        "-o", "s.pt") if "s.pt" in words else None  # fmt: skip
    assert made is None or made.code == 0, made
    ran = program.greg(tmp_path, "analyze", *words)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert said in ran.error()


def test_weights_with_a_wrapper_say_what_was_taken_off(tmp_path: Path) -> None:
    model = torchvision.models.squeezenet1_1(num_classes=7)
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3}, tmp_path / "w.pth")
    ran = program.greg(tmp_path, "prune", "w.pth", "--arch", "torchvision:squeezenet1_1", "--arch-arg", "num_classes=7",
                       "--input-shape", "3,64,64", "--ratios", "0.5", "-o", "p.pt", "--json")  # fmt: skip
    assert ran.json["self_check"]["passed"]
    assert "w.pth: took the weights under 'model', names without 'module.'" in ran.err
    assert "no trained weights" not in ran.err
    loaded = greg_compress.load(tmp_path / "p.pt")
    assert sum(p.numel() for p in loaded.parameters()) == ran.json["params"]["after"]


SCRIPT = """
import sys, torch
from torch import nn
class Net(nn.Sequential): pass
net = Net(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))
if __name__ == "__main__":
    torch.save(net, "main.pt")
    from script import Net, net
    torch.save({"model": net, "epoch": 3}, "imported.pt")
"""


def test_pickles_as_training_scripts_write_them(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True)
    words = ("--input-shape", "1,8,8", "--allow-pickle")
    beside = program.greg(tmp_path, "prune", "imported.pt", *words, "--ratios", "2=0.5", "-o", "p.pt")
    assert beside.code == 0, beside.err
    assert program.greg(tmp_path, "evaluate", "p.pt", "--data", "digits", "--allow-pickle").code == 0
    for name, said in (("main", "script.Net|__main__.Net"), ("imported", "script.Net")):
        kind = program.greg(tmp_path, "analyze", f"{name}.pt").error()
        assert re.search(f"holds a pickled ({said}); nothing in it was run", kind)
    lost = program.greg(tmp_path, "analyze", "main.pt", *words)
    assert lost.code == 4
    assert "importable from here, else save its state_dict() and name the network with --arch" in lost.error()


def test_a_named_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    """A file that only a state names may not: nobody vouches for its neighbours."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "layers.py").write_text(NET)
    (tmp_path / "deep" / "mine.py").write_text("from layers import Net\ndef mine(): return Net()\n")
    data = ("--data", "digits", "--iterations", "1", "--batch-size", "64")
    made = program.greg(tmp_path, "train", "--arch", "deep/mine.py:mine", *data, "-o", "m.pt")
    assert made.code == 0, made.err
    refused = program.greg(tmp_path, "analyze", "m.pt")
    assert refused.code == 4
    assert "No module named 'layers'" in refused.error()
    assert "name it with --arch" in refused.error()
    assert program.greg(tmp_path, "analyze", "m.pt", "--arch", "deep/mine.py:mine").code == 0
    imported = program.greg(tmp_path, "analyze", "deep/mine.py:Net")
    assert "but imports it; define a function there that calls it" in imported.error()


def test_advice_that_can_be_followed(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    data = ("--data", "digits", "--iterations", "1", "--batch-size", "64")
    for words, code, said in (
        (
            ("train", "--arch", "net.py", *data, "-o", "o.pt"),
            2,
            "net.py names no network; write net.py:CALLABLE",
        ),
        (("analyze", "net.py"), 2, "net.py names no network; write net.py:CALLABLE"),
        (("analyze", "net.py:Net", "--ratios", "0.5", "-o", "."), 2, "greg analyze has no option -o"),
        (("prune", "net.py:Net", "--ratios", "0.5", "-o", "."), 2, "-o . names no file"),
        (("prune", "net.py:Net", "--ratios", "0.5", "-o", ""), 2, "names no file"),
    ):
        ran = program.greg(tmp_path, *words)
        assert (ran.code, ran.out) == (code, "")
        assert said in ran.error()
    (tmp_path / "own.py").write_text(NET.replace("    input_shape = (1, 8, 8)\n", ""))
    namespace: dict[str, type[nn.Module]] = {"__name__": "n"}
    exec(NET, namespace)
    torch.save(namespace["Net"]().state_dict(), tmp_path / "w.pt")
    known = program.greg(tmp_path, "train", "w.pt", "--arch", "own.py:Net", *data, "-o", "s.pt")
    assert known.code == 0, known.err  # what the network takes, the data say
    other = program.greg(tmp_path, "analyze", "s.pt", "--arch", "torchvision:resnet18")
    assert (other.code, other.out) == (2, "")
    assert "--arch would have no effect: s.pt holds own.py:Net" in other.error()
