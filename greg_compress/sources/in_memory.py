"""Data sets that are held in memory: one uint8 tensor of images and one of labels for each part."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy
import torch
from torch import Tensor

from greg_compress.errors import InputError, RequestError, first_line
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Part
from greg_compress.sources.specs import DataSpec
from greg_compress.tensor_files.arrays import read_arrays, read_idx

CIFAR = {
    # kind: (folder, training files, test files, key of the labels, mean, std)
    "cifar10": ("cifar-10-batches-py", [f"data_batch_{n}" for n in range(1, 6)], ["test_batch"], "labels",
                (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ("cifar-100-python", ["train"], ["test"], "fine_labels",
                 (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}  # fmt: skip


def load(spec: DataSpec, download: bool, workers: int | None) -> Dataset:
    """`digits`, `fashion-mnist`, `cifar10` or `cifar100`.

    Raises:
        InputError: its files are missing or damaged.
        RequestError: workers, for which there is nothing to do.
    """
    if workers is not None:
        raise RequestError(f"--workers would have no effect: {spec} is held in memory")
    if spec.kind == "digits":
        return _digits()
    return _fashion_mnist(spec, download) if spec.kind == "fashion-mnist" else _cifar(spec, download)


def _digits() -> Dataset:
    """The UCI optical digits (Alpaydin & Kaynak, 1998; CC BY 4.0): 1,797 images of 8x8, values 0 to 16.

    Every fifth image is for testing.
    """
    with files("greg_compress.sources").joinpath("digits.npz").open("rb") as file:
        arrays = numpy.load(file, allow_pickle=False)
        whole = Part(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]).long(), padding=1)
    positions = torch.arange(len(whole))
    return Dataset(
        name="digits",
        classes=10,
        train=whole.select(positions[positions % 5 != 4]),
        test=whole.select(positions[positions % 5 == 4]),
        normalization=Normalization(1 / 16, (0.3058,), (0.3764,)),
        input_shape=(1, 8, 8),
    )


def _fashion_mnist(spec: DataSpec, download: bool) -> Dataset:
    """Fashion-MNIST (Xiao et al., 2017): 60,000 and 10,000 images of 28x28."""
    assert spec.root is not None
    where = "FashionMNIST/raw"
    if download:
        from torchvision.datasets import FashionMNIST

        _parts(spec, lambda train: FashionMNIST(spec.root, train, download=True), where, download)

    def part(train: bool) -> Part:
        stem = Path(str(spec.root), where, "train" if train else "t10k")
        images, labels = (read_idx(Path(f"{stem}-{name}-ubyte")) for name in ("images-idx3", "labels-idx1"))
        return _checked(images.unsqueeze(1), labels, 10, (1, 28, 28), padding=2)

    train, test = _parts(spec, part, where, download)
    return Dataset(str(spec), 10, train, test, Normalization(1 / 255, (0.2860,), (0.3530,)), (1, 28, 28))


def _cifar(spec: DataSpec, download: bool) -> Dataset:
    """CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 50,000 and 10,000 images of 32x32 in colour.

    torchvision would unpickle the files, and so run what they say; it only downloads them here.
    """
    assert spec.root is not None
    folder, train_files, test_files, key, mean, std = CIFAR[spec.kind]
    classes = int(spec.kind.removeprefix("cifar"))
    if download:
        from torchvision.datasets import CIFAR10, CIFAR100

        _parts(
            spec, lambda train: {10: CIFAR10, 100: CIFAR100}[classes](spec.root, train, download=True), folder, download
        )

    def part(train: bool) -> Part:
        batches = [read_arrays(Path(str(spec.root), folder, name)) for name in (train_files if train else test_files)]
        images = torch.cat([batch["data"].view(-1, 3, 32, 32) for batch in batches])
        labels = torch.tensor([label for batch in batches for label in batch[key]])
        return _checked(images, labels, classes, (3, 32, 32), padding=4)

    train, test = _parts(spec, part, folder, download)
    return Dataset(str(spec), classes, train, test, Normalization(1 / 255, mean, std), (3, 32, 32))


def _parts(spec: DataSpec, part: Callable[[bool], Part], where: str, download: bool) -> tuple[Part, Part]:
    try:
        return part(True), part(False)
    except Exception as error:
        # torchvision's readers assert, index and unpack: damaged files can raise anything.
        said = str(error) if isinstance(error, InputError) else first_line(error)
        raise InputError(
            f"{spec.kind} cannot be read below {spec.root} ({said}); put torchvision's {where} files there"
            + ("" if download else ", or add --download")
        ) from error


def _checked(images: Tensor, labels: Tensor, classes: int, shape: tuple[int, ...], padding: int) -> Part:
    if images.shape[1:] != shape or images.dtype != torch.uint8 or labels.shape != (len(images),) or not len(images):
        raise ValueError(f"{tuple(images.shape)} images with {tuple(labels.shape)} labels")
    if labels.is_floating_point() or not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"a label outside 0 to {classes - 1}")
    return Part(images, labels.long(), padding, flips=True)
