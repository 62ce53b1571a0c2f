"""What users bring: which files may run, and which data are read."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from greg_compress.errors import InputError, RequestError
from greg_compress.sources.data import load_data
from greg_compress.sources.models import build, rebuild
from greg_compress.sources.samples import Part
from greg_compress.sources.specs import (
    Architecture,
    parse_architecture,
    parse_data,
    parse_input_shape,
)
from tests.conftest import RESNET

NET = """
from torch import nn
from torch.nn import Linear
def net(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten(), nn.Linear(width * 36, 10))
def wrong():
    return 5
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def recorded(path: Path) -> Architecture:
    return build(Architecture(f"{path}:net", {"width": 3}))[1]


def test_a_file_below_the_current_directory_runs_again(net: Path) -> None:
    model = rebuild(recorded(net))
    assert isinstance(model, nn.Sequential)
    assert model[0].out_channels == 3


def test_a_moved_file_is_found_by_its_digest_and_a_changed_one_is_not(net: Path) -> None:
    architecture = recorded(net)
    (net.parent / "deep" / "er").mkdir(parents=True)
    moved = net.rename(net.parent / "deep" / "er" / "net.py")
    rebuild(architecture)
    moved.write_text(NET + "\n# changed")
    with pytest.raises(InputError, match=r"name it with --arch FILE\.py:net"):
        rebuild(architecture)
    rebuild(architecture, named=Architecture(f"{moved}:net"))


def test_a_file_elsewhere_runs_only_if_named(
    net: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    architecture = recorded(net)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    Path("link").symlink_to(net.parent)  # nor through a link that leads out
    with pytest.raises(InputError, match=r"no file net\.py with the recorded digest"):
        rebuild(architecture)
    rebuild(architecture, named=Architecture(f"{net}:net"))


def test_sample_models_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = shutil.copy(RESNET, tmp_path / "resnet_cifar.py")
    architecture = build(Architecture(f"{copied}:resnet20"))[1]
    Path(copied).unlink()
    monkeypatch.chdir(tmp_path)
    assert sum(p.numel() for p in rebuild(architecture).parameters()) == pytest.approx(0.27e6, rel=0.02)


@pytest.mark.parametrize(
    ("body", "name", "match"),
    [
        (NET, "Linear", "does not define a callable 'Linear' itself"),
        (NET, "missing", "does not define a callable 'missing'"),
        (NET, "wrong", "returned int, not a torch.nn.Module"),
        ("1/0", "net", "cannot be run .ZeroDivisionError"),
        ("raise SystemExit(0)", "net", "cannot be run .SystemExit"),
        ("def net(:", "net", "cannot be run .SyntaxError"),
    ],
)
def test_files_that_are_no_networks(net: Path, body: str, name: str, match: str) -> None:
    net.write_text(body)
    with pytest.raises(InputError, match=match):
        build(Architecture(f"{net}:{name}"))


def test_the_standard_library_is_no_network() -> None:
    import os

    with pytest.raises(InputError, match="does not define a callable 'system' itself"):
        build(Architecture(f"{os.__file__}:system", {"command": "true"}))


def test_arguments_that_a_factory_refuses_are_the_users_mistake(net: Path) -> None:
    with pytest.raises(RequestError, match="refuses its arguments"):
        build(Architecture(f"{net}:net", {"depth": 3}))
    for spec in ("torchvision:resnet18", f"{RESNET}:resnet20"):
        with pytest.raises(RequestError, match="see --arch-arg; nearest: num_classes"):
            build(Architecture(spec, {"num_clases": 3}))
    with pytest.raises(RequestError, match="torchvision has no model 'resnet1000'"):
        build(Architecture("torchvision:resnet1000"))


def test_specs_as_text() -> None:
    assert parse_architecture("torchvision:vgg16", ["num_classes=10", "name=x", "flag=True"]).kwargs == {
        "num_classes": 10,
        "name": "x",
        "flag": True,
    }
    for text, said in {"True": True, "true": True, "False": False, "false": False, "'false'": "false"}.items():
        assert parse_architecture("torchvision:vgg16", [f"flag={text}"]).kwargs["flag"] == said
    assert parse_input_shape("3,32,32") == (3, 32, 32)
    for bad in ("3,x", "", "0,1,1", "-1", "3;4"):
        with pytest.raises(RequestError):
            parse_input_shape(bad)
    for bad in ("digits:here", "mnist", "", "imagefolder", "imagefolder:", "cifar"):
        with pytest.raises(RequestError):
            parse_data(bad)
    with pytest.raises(RequestError, match="key=value"):
        parse_architecture("torchvision:vgg16", ["num_classes"])
    with pytest.raises(InputError, match="is not a file"):
        parse_architecture("nowhere.py:net")


def test_the_digits() -> None:
    data = load_data(parse_data("digits"))
    assert isinstance(data.train, Part)
    assert isinstance(data.test, Part)
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.input_shape == (1, 8, 8)
    assert set(data.test.labels.tolist()) == set(range(10))
    pixels = data.normalization(data.train.images)
    assert abs(pixels.mean().item()) < 0.01
    assert abs(pixels.std().item() - 1) < 0.01


def idx(array: torch.Tensor) -> bytes:
    """The IDX format of LeCun's MNIST files: magic (unsigned byte, dimensions), sizes, bytes."""
    head = struct.pack(f">HBB{array.dim()}I", 0, 8, array.dim(), *array.shape)
    return head + bytes(array.flatten().tolist())


def write_fashion(root: Path, train: int = 20, test: int = 10) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    random = torch.Generator().manual_seed(0)
    for name, count in (("train", train), ("t10k", test)):
        images = torch.randint(0, 256, (count, 28, 28), generator=random)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(torch.arange(count) % 10))


def test_fashion_mnist_in_torchvisions_layout(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    data = load_data(parse_data(f"fashion-mnist:{tmp_path}"))
    assert isinstance(data.train, Part)
    assert isinstance(data.test, Part)
    assert data.train.images.shape == (20, 1, 28, 28)
    assert data.test.labels.tolist() == list(range(10))
    raw = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    raw.write_bytes(raw.read_bytes()[:1000])
    with pytest.raises(InputError, match="fashion-mnist cannot be read below"):
        load_data(parse_data(f"fashion-mnist:{tmp_path}"))


def test_missing_data_say_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="put torchvision's FashionMNIST/raw files there, or add --download"):
        load_data(parse_data(f"fashion-mnist:{tmp_path}"))
