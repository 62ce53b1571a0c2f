"""Data sets in the formats that they are published in, written here; randomness that no worker changes."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from greg_compress.errors import InputError, RequestError
from greg_compress.sources.data import load_data
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.samples import Items, Part
from greg_compress.sources.specs import parse_data
from greg_compress.training.batches import Batches
from greg_compress.training.randomness import generator
from tests import program
from tests.conftest import RESNET, Ran

Greg = Callable[..., Ran]


def python_2_pickle(images: numpy.ndarray[Any, Any], **lists: list[int]) -> bytes:
    """Byte for byte what Python 2 and numpy 1 wrote for the CIFAR files: protocol 2, byte strings for all text."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)

    shape = b"".join(map(number, images.shape))
    dtype = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR(K\x01("
        + shape + b"t" + dtype + b"\x89" + text(images.tobytes()) + b"tb"
    )  # fmt: skip
    entries = text(b"data") + array
    for name, values in lists.items():
        entries += text(name.encode()) + b"](" + b"".join(map(number, values)) + b"e"
    return b"\x80\x02}(" + entries + text(b"batch_label") + text(b"training batch 1 of 5") + b"u."


def write_cifar(root: Path, kind: str, each: int = 12, modern: bool = False) -> numpy.ndarray[Any, Any]:
    """The folder as it unpacks from the archive; return the test images (N, 3072)."""
    classes = int(kind.removeprefix("cifar"))
    folder = root / {10: "cifar-10-batches-py", 100: "cifar-100-python"}[classes]
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"] if classes == 10 else ["train", "test"]
    random = numpy.random.default_rng(0)
    images = numpy.zeros((0, 3072), dtype=numpy.uint8)
    for name in names:
        images = random.integers(0, 256, (each, 3072), dtype=numpy.uint8)
        labels = [index % classes for index in range(each)]
        lists = {"labels": labels} if classes == 10 else {"fine_labels": labels, "coarse_labels": [0] * each}
        (folder / name).write_bytes(
            pickle.dumps({"data": images, **lists}, protocol=2) if modern else python_2_pickle(images, **lists)
        )
    return images


def test_the_writer_of_cifar_files_writes_what_pickle_reads() -> None:
    """The oracle's own check: numpy reads the same array from it."""
    images = numpy.arange(6144, dtype=numpy.uint8).reshape(2, 3072)
    found = pickle.loads(python_2_pickle(images, labels=[3, 4]), encoding="latin1")
    assert (found["data"] == images).all()
    assert found["labels"] == [3, 4]


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize(("kind", "train"), [("cifar10", 60), ("cifar100", 12)])
def test_cifar(tmp_path: Path, kind: str, train: int, modern: bool) -> None:
    images = write_cifar(tmp_path, kind, modern=modern)
    data = load_data(parse_data(f"{kind}:{tmp_path}"))
    assert isinstance(data.train, Part)
    assert isinstance(data.test, Part)
    assert (len(data.train), len(data.test)) == (train, 12)
    assert (data.classes, data.input_shape) == (int(kind.removeprefix("cifar")), (3, 32, 32))
    assert (data.train.padding, data.train.flips) == (4, True)
    assert torch.equal(data.test.images, torch.from_numpy(images).view(-1, 3, 32, 32))
    assert data.test.labels.tolist() == [index % int(kind.removeprefix("cifar")) for index in range(12)]


def test_cifar_files_that_lie(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10")
    first = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    whole = first.read_bytes()

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    short = numpy.zeros((2, 100), dtype=numpy.uint8)
    for content, said in (
        (whole[:2000], "data_batch_1 is damaged"),
        (pickle.dumps(Bomb()), "data_batch_1 is damaged"),
        (pickle.dumps({"data": Bomb(), "labels": [1]}, 2), "cannot be read"),
        (python_2_pickle(short, labels=[0, 1]), "cannot be read"),
        (python_2_pickle(numpy.zeros((2, 3072), dtype=numpy.uint8), labels=[0, 10]), "a label outside 0 to 9"),
        (python_2_pickle(numpy.zeros((2, 3072), dtype=numpy.uint8), labels=[0]), "images with"),
        (b"", "data_batch_1 is damaged"),
    ):
        first.write_bytes(content)
        with pytest.raises(InputError, match=said):
            load_data(parse_data(f"cifar10:{tmp_path}"))
    assert not (tmp_path / "ran").exists()
    first.unlink()
    with pytest.raises(InputError, match=r"data_batch_1 cannot be read .No such file.*or add --download"):
        load_data(parse_data(f"cifar10:{tmp_path}"))


def write_folder(root: Path, each: int = 6, classes: tuple[str, ...] = ("cat", "dog", "eel")) -> None:
    """Photographs of several sizes and modes: each class has a colour of its own."""
    random = numpy.random.default_rng(1)
    for part in ("train", "val"):
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for number in range(each):
                pixels = random.integers(0, 60, (20 + 5 * number, 30, 3), dtype=numpy.uint8)
                pixels[:, :, label % 3] += 150
                image = Image.fromarray(pixels)
                image = image.convert("L") if number == 4 else image.convert("RGBA") if number == 5 else image
                image.save(root / part / name / f"{number}.{'png' if number % 2 else 'jpeg'}" if number != 5
                           else root / part / name / "5.png")  # fmt: skip


def all_of(batches: Batches, epoch: int) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches.epoch(epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_a_folder_of_photographs(tmp_path: Path) -> None:
    write_folder(tmp_path)
    data = load_data(parse_data(f"imagefolder:{tmp_path}"), workers=0)
    assert (data.classes, data.input_shape, len(data.train)) == (3, None, 18)
    fitted = data.at((3, 16, 16))
    assert fitted.input_shape == (3, 16, 16)
    ((images, labels),) = fitted.test.batches(torch.arange(18), 18)
    assert images.dtype == torch.uint8
    assert images.shape == (18, 3, 16, 16)
    assert labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    coloured = torch.arange(18) % 6 != 4
    assert images.float().mean((2, 3)).argmax(1)[coloured].equal(labels[coloured])
    grey = data.at((1, 16, 12))
    ((images, _),) = grey.test.batches(torch.arange(4), 4)
    assert images.shape == (4, 1, 16, 12)
    with pytest.raises(RequestError, match="gives images of 1 or 3 channels"):
        data.at((4, 16, 16))


def test_a_test_image_is_the_centre_of_the_whole(tmp_path: Path) -> None:
    """224 of 256, as everyone evaluates ImageNet."""
    write_folder(tmp_path, each=1)
    pixels = numpy.zeros((256, 300, 3), dtype=numpy.uint8)
    pixels[16:240, 38:262] = 200  # the centre, 224 x 224
    Image.fromarray(pixels).save(tmp_path / "val" / "cat" / "a.png")
    data = load_data(parse_data(f"imagefolder:{tmp_path}"), workers=0).at((3, 224, 224))
    ((images, _),) = data.test.batches(torch.arange(2), 2)
    assert sorted(image.min().item() for image in images)[-1] == 200


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(tmp_path: Path, workers: int) -> None:
    write_folder(tmp_path)

    def batches(count: int) -> Batches:
        data = load_data(parse_data(f"imagefolder:{tmp_path}"), workers=count).at((3, 16, 16))
        return Batches(data.train, data.normalization, 4, seed=5)

    alone, many = all_of(batches(0), 2), all_of(batches(workers), 2)
    assert torch.equal(alone[0], many[0])
    assert torch.equal(alone[1], many[1])
    later = list(batches(workers).epoch(2, first=2))  # a resumed epoch
    assert torch.equal(later[0][0], alone[0][8:12])
    assert not torch.equal(alone[0], all_of(batches(0), 3)[0])


def test_reading_leaves_the_global_generators_alone(tmp_path: Path) -> None:
    write_folder(tmp_path)
    data = load_data(parse_data(f"imagefolder:{tmp_path}"), workers=0).at((3, 16, 16))
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    list(data.train.batches(torch.arange(4), 2, draw=lambda position: generator(0, "augment", 0, position)))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named(tmp_path: Path, workers: int) -> None:
    write_folder(tmp_path)
    bad = tmp_path / "val" / "dog" / "0.jpeg"
    bad.write_bytes(bad.read_bytes()[:300])
    data = load_data(parse_data(f"imagefolder:{tmp_path}"), workers=workers).at((3, 16, 16))
    with pytest.raises(InputError, match=r"val/dog/0\.jpeg cannot be read"):
        list(data.test.batches(torch.arange(18), 4))


def test_folders_that_do_not_match(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "val" / "eel").rename(tmp_path / "val" / "owl")
    with pytest.raises(InputError, match="class 'eel' stands in one of train and val only"):
        load_data(parse_data(f"imagefolder:{tmp_path}"))
    for path in (tmp_path / "train" / "cat").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="train cannot be used"):
        load_data(parse_data(f"imagefolder:{tmp_path}"))


def own(folder: Path, body: str, **keywords: Any) -> Dataset:
    (folder / "d.py").write_text(f"import numpy, torch, random\nfrom torch.utils.data import TensorDataset\n{body}")
    return load_data(parse_data(f"{folder}/d.py:make"), **keywords)


def test_a_users_own_datasets(tmp_path: Path) -> None:
    body = """
class Augmented(TensorDataset):
    classes = "abc"
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image + torch.rand(()) + random.random() + numpy.random.rand(), label
def make():
    labels = torch.arange(9) % 3
    return Augmented(torch.zeros(9, 2, 4, 5), labels), TensorDataset(torch.ones(3, 2, 4, 5), labels[:3])
"""
    data = own(tmp_path, body, workers=2)
    assert (data.classes, data.input_shape, len(data.train), len(data.test)) == (3, (2, 4, 5), 9, 3)
    assert data.normalization.scale == 1.0
    assert own(tmp_path, body.replace('"abc"', "7"), workers=0).classes == 7
    same, again = (all_of(Batches(data.train, data.normalization, 3, seed=1), 0)[0] for _ in range(2))
    alone = own(tmp_path, body, workers=0)
    assert torch.equal(same, again)
    assert torch.equal(same, all_of(Batches(alone.train, alone.normalization, 3, seed=1), 0)[0])
    assert same.unique().numel() == 9
    bytes_ = own(
        tmp_path,
        "def make():\n    d = TensorDataset(torch.full((2, 1, 4, 4), 255).byte(), torch.zeros(2))\n    return d, d",
    )
    assert bytes_.normalization.scale == 1 / 255
    assert bytes_.classes is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def make(): return 1", "must return two datasets, .train, test"),
        ("def make(): return [], []", "holds no training images"),
        ("def make(): return [(torch.zeros(1, 4, 4), 0)], []", "holds no test images"),
        ("def make(): return [('a.png', 0)] * 2, [1]", "training image 0 of .* is a str, not a tensor"),
        ("def make(): return [(torch.zeros(1, 4, 4).long(), 0)] * 2, [1]", "images are floating-point or bytes"),
        ("def make(): return [(torch.zeros(1, 4, 4).to_sparse(), 0)] * 2, [1]", "images are floating-point or bytes"),
        ("def make(): return [(torch.zeros(1, 4, 4), -1)] * 2, [1]", "-1 is no label"),
        ("def make(): return [(torch.zeros(1, 4, 4), 1.5)] * 2, [1]", "1.5 is no label"),
        ("def make(): return [(torch.zeros(1, 4, 4), 2**70)] * 2, [1]", "is no label"),
        (
            "class D(list):\n    classes = 7.5\ndef make(): return D([(torch.zeros(1, 4, 4), 1)]), [1]",
            "cannot be built .TypeError",
        ),
        (
            "class Dumb(Exception):\n    def __str__(self): raise KeyError\ndef make(): raise Dumb",
            "cannot be built .Dumb",
        ),
        ("def make(): return [1], [1]", "training image 0 of .* cannot be read .TypeError"),
        ("def make(): 1/0", "cannot be built .ZeroDivisionError"),
        ("1/0", "cannot be run .ZeroDivisionError"),
        ("from os import system as make", "does not define a callable 'make' itself"),
    ],
)
def test_own_datasets_that_are_none(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        own(tmp_path, body)


def test_items_that_would_stop_a_worker_do_not(tmp_path: Path) -> None:
    body = """
class D:
    def __len__(self): return 4
    def __getitem__(self, index):
        if index == 3: raise KeyboardInterrupt
        return torch.zeros(1, 4, 4, requires_grad=True) * 1, 0
def make(): return D(), D()
"""
    data = own(tmp_path, body, workers=2)
    assert len(list(data.test.batches(torch.arange(3), 1))) == 3
    with pytest.raises(InputError, match=r"test image 3 of .* cannot be read .KeyboardInterrupt"):
        list(data.test.batches(torch.arange(4), 1))


def test_images_of_different_shapes_are_refused(tmp_path: Path) -> None:
    data = own(tmp_path, "def make():\n    d = [(torch.zeros(1, 4, 4), 0), (torch.zeros(1, 4, 5), 0)]\n    return d, d")
    with pytest.raises(InputError, match="images of different shapes or types"):
        list(data.test.batches(torch.arange(2), 2))


def test_workers_for_data_in_memory_have_nothing_to_do() -> None:
    with pytest.raises(RequestError, match="--workers would have no effect: digits is held in memory"):
        load_data(parse_data("digits"), workers=2)


def test_items_are_selected_by_their_own_numbers() -> None:
    items = Items(lambda index, _: (torch.full((1, 1, 1), float(index)), index), str, torch.arange(10), 0)
    chosen = items.select(torch.tensor([7, 3, 5])).select(torch.tensor([2, 0]))
    ((images, labels),) = chosen.batches(torch.arange(2), 2)
    assert labels.tolist() == [5, 7] == images.flatten().tolist()


def test_photographs_through_the_chain(tmp_path: Path) -> None:
    """Trained, regularized, cut and fine-tuned on them; class count and normalisation stand in the state."""
    write_folder(tmp_path / "photos")
    data = ("--data", "imagefolder:photos", "--batch-size", "6", "--workers", "2", "--json")
    arch = ("--arch", f"{RESNET}:resnet20", "--arch-arg", "width=4", "--arch-arg", "num_classes=3",
            "--input-shape", "3,16,16")  # fmt: skip
    trained = program.greg(tmp_path, "train", *arch, *data, "--epochs", "12", "--lr", "0.05", "-o", "base.pt")
    assert trained.code == 0, trained.err
    assert trained.json["top1_after"] > 60  # a colour for each class; chance is 33
    state = torch.load(tmp_path / "base.pt", weights_only=True)
    assert state["classes"] == 3
    assert state["normalization"]["mean"] == [0.485, 0.456, 0.406]
    assert state["data"] == "imagefolder:photos"
    for words in (
        ("regularize", "base.pt", "--ratios", "0.5", "--method", "greg-2", "--ceiling", "0.1", "--delta", "0.05",
         "--pick-ceiling", "0.01", "--pick-delta", "0.005", "--stabilize", "2", *data, "-o", "reg.pt"),
        ("prune", "reg.pt", "-o", "pruned.pt"),
        ("finetune", "pruned.pt", "--teacher", "base.pt", "--iterations", "3", *data, "-o", "final.pt"),
        ("evaluate", "final.pt", "--data", "imagefolder:photos"),
    ):  # fmt: skip
        ran = program.greg(tmp_path, *words)
        assert ran.code == 0, ran.err
    wrong = program.greg(tmp_path, "evaluate", "final.pt", "--data", "digits")
    assert (wrong.code, wrong.out) == (2, "")
