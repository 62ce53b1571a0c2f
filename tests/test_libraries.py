"""Networks of torchvision and timm beyond image classification, and parts of them; nothing is ever fetched."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import greg_compress
from greg_compress.errors import InputError, RequestError
from greg_compress.options.network import ModelOptions
from greg_compress.sources import models, timm_models
from greg_compress.sources.models import build, default_input_shapes, rebuild
from greg_compress.sources.specs import Architecture, parse_architecture
from greg_compress.state.models import Opened, open_model
from tests import program

timm = pytest.importorskip("timm")
DETECTOR = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No address can be asked for, and no file that was fetched before can be found."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def ask(*_: object, **__: object) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", ask)


def opened(spec: str, *arguments: str, model: str | None = None) -> Opened:
    return open_model(ModelOptions(model or spec, parse_architecture(spec, arguments)))


def default_shapes(spec: str, *arguments: str) -> Any:
    """Of a network that takes no memory."""
    architecture = parse_architecture(spec, arguments)
    with torch.device("meta"):
        model, _ = build(architecture)
    return default_input_shapes(architecture, model)


@pytest.mark.parametrize(
    ("spec", "arguments", "shapes"),
    [
        ("timm:resnet18", (), ((3, 224, 224),)),
        ("timm:mobilenetv4_conv_small", ("in_chans=1",), ((1, 224, 224),)),
        ("timm:efficientnet_lite0", (), None),
        ("timm:test_vit", ("img_size=96",), ((3, 96, 96),)),
        ("timm:resnet18/layer1", (), None),
        ("torchvision:lraspp_mobilenet_v3_large", (), ((3, 520, 520),)),
        ("torchvision:fcn_resnet50/backbone", (), ((3, 520, 520),)),
        ("torchvision:r3d_18", (), ((3, 16, 112, 112),)),
        ("torchvision:s3d", (), ((3, 16, 224, 224),)),
        ("torchvision:raft_small", (), ((3, 128, 128), (3, 128, 128))),
        (f"{DETECTOR}/backbone", (), ((3, 320, 320),)),
        ("torchvision:ssd300_vgg16/backbone", (), ((3, 300, 300),)),
        ("torchvision:inception_v3", (), ((3, 299, 299),)),
        ("torchvision:quantized_resnet18", (), ((3, 224, 224),)),
    ],
)
def test_what_networks_take(spec: str, arguments: tuple[str, ...], shapes: Any) -> None:
    if spec == "timm:efficientnet_lite0":
        shapes = (tuple(timm.get_pretrained_cfg("efficientnet_lite0").input_size),)
    assert default_shapes(spec, *arguments) == shapes


@pytest.mark.parametrize(
    ("spec", "arguments", "said"),
    [
        ("timm:resnet19", (), "timm has no model 'resnet19'; nearest: resnet18"),
        (
            "timm:resnet50.a1_in1k",
            (),
            "the tag 'a1_in1k' only names weights, which are never fetched; write timm:resnet50",
        ),
        ("timm:hf-hub:timm/resnet18.a1_in1k", (), "names files that timm would fetch or read"),
        ("timm:local-dir:/tmp", (), "names files that timm would fetch or read"),
        ("timm:resnet18", ("pretrained=True",), "--arch-arg pretrained: timm's weights are never fetched"),
        ("timm:resnet18", ("pretrained_cfg=a1_in1k",), "--arch-arg pretrained_cfg: timm's weights"),
        ("timm:resnet18", ("checkpoint_path=x.pt",), "--arch-arg checkpoint_path: timm's weights"),
        ("timm:resnet18", ("nothing=1",), "refuses its arguments"),
        ("timm:resnet18/layer5", (), "timm:resnet18 has no part 'layer5'; nearest: layer4"),
        (DETECTOR, (), f"prune its backbone, and put it back: {DETECTOR}/backbone"),
        (f"{DETECTOR}@COCO_V1", (), f"put it back: {DETECTOR}@COCO_V1/backbone"),
        (f"{DETECTOR}/backbones", (), "has no part 'backbones'; nearest: backbone"),
        ("torchvision:resnet18/", (), "torchvision has no model 'resnet18/'; nearest: resnet18"),
        ("torchvision:quantized_resnet18", ("quantize=True",), "weights of 8 bits cannot be pruned"),
    ],
)
def test_what_is_refused_in_a_line(spec: str, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(RequestError) as error:
        opened(spec, *arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "kwargs"),
    [
        ("timm:hf-hub:timm/resnet18.a1_in1k", {}),
        ("timm:resnet18.a1_in1k", {}),
        ("timm:resnet18", {"pretrained": True}),
        ("timm:resnet18", {"checkpoint_path": "x.pt"}),
        ("timm:resnet18", {"pretrained_cfg": "a1_in1k"}),
    ],
)
def test_a_state_cannot_make_timm_fetch_or_read(spec: str, kwargs: dict[str, Any]) -> None:
    architecture = Architecture(spec, kwargs)
    if kwargs:
        with pytest.raises(ValueError, match="impossible arguments"):
            architecture.check()
    else:
        with pytest.raises(InputError, match="timm has no model"):
            rebuild(architecture)


def test_timm_builds_without_weights_whatever_it_is_told() -> None:
    made = timm_models.factory(Architecture("timm:resnet10t"))(pretrained=True)
    assert isinstance(made, nn.Module)


def test_without_timm_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RequestError, match=r"^timm is not installed; pip install 'greg-compress\[timm\]'$"):
        opened("timm:resnet18")


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:convnext_atto", "timm:efficientvit_b0", "torchvision:r3d_18"])
def test_a_state_that_asks_for_a_giant_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which needs the factory to run without memory."""
    monkeypatch.setattr(models, "MOST_BYTES", 10**6)
    with pytest.raises(InputError, match="far more than its weights"):
        rebuild(Architecture(name))


def test_a_network_of_timm_through_the_chain(tmp_path: Path) -> None:
    spec = ("timm:test_resnet", "--arch-arg", "num_classes=10", "--arch-arg", "in_chans=1", "--input-shape", "1,8,8")
    for words in (
        ("prune", *spec, "--ratios", "0.5", "-o", "p.pt", "--json"),
        ("evaluate", "p.pt", "--data", "digits"),
        ("export", "p.pt", "--runs", "3", "-o", "p.onnx"),
    ):
        ran = program.greg(tmp_path, *words)
        assert ran.code == 0, ran.err
    refused = program.greg(tmp_path, "analyze", "p.pt", "--arch", "timm:test_resnet")
    assert "--arch would have no effect: p.pt holds timm:test_resnet" in refused.error()
    network = greg_compress.load(tmp_path / "p.pt")
    torch.save(network(torch.ones(2, 1, 8, 8)), tmp_path / "here.pt")
    script = "import torch as t, greg_compress as g; t.save(g.load('p.pt')(t.ones(2, 1, 8, 8)), 'there.pt')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert torch.equal(*(torch.load(tmp_path / f"{place}.pt") for place in ("here", "there")))


@pytest.mark.parametrize(("classes", "normalised"), [(1000, True), (7, False)])
def test_weights_of_timm_bring_their_normalisation(tmp_path: Path, classes: int, normalised: bool) -> None:
    """Those with another head are someone else's."""
    model = timm.create_model("test_resnet", num_classes=classes)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    found = opened("timm:test_resnet", f"num_classes={classes}", model=str(tmp_path / "w.safetensors"))
    assert not found.untrained
    assert found.state.classes == (1000 if normalised else None)
    recorded = found.state.normalization
    assert (recorded and recorded["mean"]) == (list(model.pretrained_cfg["mean"]) if normalised else None)


def test_published_detectors_have_another_form() -> None:
    name = "torchvision:fasterrcnn_resnet50_fpn"
    with torch.device("meta"):
        ours, published = (rebuild(Architecture(f"{name}{at}/backbone")).body.bn1 for at in ("", "@COCO_V1"))
    assert isinstance(ours, torchvision.ops.FrozenBatchNorm2d)
    assert (ours.eps, published.eps) == (1e-5, 0)


def shaken(model: nn.Module) -> nn.Module:
    """With statistics that are not those of a network fresh from its factory."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if "running" in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


@pytest.mark.parametrize("frozen", [True, False])
def test_a_detector_takes_its_pruned_backbone_back(tmp_path: Path, frozen: bool) -> None:
    """From weights of the whole detector, with frozen batch normalisation as those that torchvision publishes, and
    with its own."""
    made = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    whole = {f"module.{name}": tensor for name, tensor in shaken(made).state_dict().items()}
    if frozen:
        whole = {name: tensor for name, tensor in whole.items() if not name.endswith("num_batches_tracked")}
    torch.save({"model": whole, "epoch": 3}, tmp_path / "detector.pth")
    words = ("detector.pth", "--arch", f"{DETECTOR}/backbone", "--input-shape", "3,96,96")
    ran = program.greg(tmp_path, "prune", *words, "--ratios", "0.5", "-o", "pruned.pt", "--json")
    assert ran.code == 0, ran.err
    assert "tensors below 'backbone.' and left roi_heads, rpn" in ran.err
    assert ("left roi_heads, rpn, num_batches_tracked" in ran.err) is not frozen
    assert ran.json["params"]["after"] < 0.8 * ran.json["params"]["before"]
    assert ran.json["self_check"]["passed"]
    detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, min_size=96, max_size=96
    )
    before = detector.backbone
    detector.backbone = greg_compress.load(tmp_path / "pruned.pt")
    assert isinstance(detector.backbone, type(before))
    (found,) = detector.eval()([torch.rand(3, 96, 96)])
    assert {"boxes", "labels", "scores"} <= found.keys()


def test_weights_of_a_detector_are_those_of_its_backbone(tmp_path: Path) -> None:
    """It computes the same."""
    made = shaken(torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None))
    torch.save(made.state_dict(), tmp_path / "w.pth")
    spec = "torchvision:ssdlite320_mobilenet_v3_large@COCO_V1/backbone"  # whose form it has, with its reduced tail
    found = opened(spec, model=str(tmp_path / "w.pth"))
    assert rebuild(found.state.architecture).state_dict().keys() == found.state.weights.keys()
    image = torch.rand(1, 3, 320, 320)
    with torch.no_grad():
        ours, theirs = found.model(image), made.eval().backbone(image)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("torchvision:lraspp_mobilenet_v3_large", "3,64,64"),
        ("torchvision:r3d_18", "3,4,32,32"),
        ("torchvision:quantized_resnet18", "3,64,64"),
        ("timm:resnet18/layer1", "64,16,16"),
    ],
)
def test_other_networks_are_pruned_and_come_back(tmp_path: Path, spec: str, shape: str) -> None:
    ran = program.greg(tmp_path, "prune", spec, "--input-shape", shape, "--ratios", "0.5", "-o", "p.pt", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["self_check"]["passed"]
    assert ran.json["params"]["after"] < ran.json["params"]["before"]
    network = greg_compress.load(tmp_path / "p.pt")
    assert sum(p.numel() for p in network.parameters()) == ran.json["params"]["after"]
    assert network(torch.rand(2, *map(int, shape.split(",")))) is not None
