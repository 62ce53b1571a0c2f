"""Data sets, whole in memory: one uint8 tensor of images and one of labels for each part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy
import torch
from torch import Tensor

from greg_compress.errors import InputError, first_line
from greg_compress.sources.specs import DataSpec


@dataclass(frozen=True)
class Part:
    """Images, uint8 of shape (N, C, H, W), and labels, int64 of shape (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> Part:
        return Part(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Normalization:
    """A network reads (pixel * scale - mean) / std, each per channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, C, H, W) to float32."""
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return images.float().mul_(self.scale).sub_(mean).div_(std)

    def to_json(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


@dataclass(frozen=True)
class Dataset:
    """A data set, how its pixels are normalised and how its training images are augmented."""

    name: str
    classes: int
    train: Part
    test: Part
    normalization: Normalization
    padding: int
    """Pixels of zero padding around a training image before a random crop of the old size."""
    flips: bool
    """Whether a mirrored image still shows its class."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train.images.shape[1:])


def load_data(spec: DataSpec, download: bool = False) -> Dataset:
    """Load a data set into memory.

    Raises:
        InputError: its files are missing or damaged.
    """
    return _digits() if spec.kind == "digits" else _fashion_mnist(spec, download)


def _digits() -> Dataset:
    """The UCI optical digits (Alpaydin & Kaynak, 1998; CC BY 4.0): 1,797 images of 8x8, values 0 to 16.

    Every fifth image is for testing.
    """
    with files("greg_compress.sources").joinpath("digits.npz").open("rb") as file:
        arrays = numpy.load(file, allow_pickle=False)
        whole = Part(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]).long())
    positions = torch.arange(len(whole))
    return Dataset(
        name="digits",
        classes=10,
        train=whole.select(positions[positions % 5 != 4]),
        test=whole.select(positions[positions % 5 == 4]),
        normalization=Normalization(1 / 16, (0.3058,), (0.3764,)),
        padding=1,
        flips=False,
    )


def _checked(images: Tensor, labels: Tensor) -> Part:
    if images.shape[1:] != (28, 28) or len(images) != len(labels) or not len(images):
        raise ValueError(f"{tuple(images.shape)} images with {len(labels)} labels")
    if not 0 <= int(labels.min()) <= int(labels.max()) < 10:
        raise ValueError("a label outside 0 to 9")
    return Part(images.unsqueeze(1), labels)


def _fashion_mnist(spec: DataSpec, download: bool) -> Dataset:
    """Fashion-MNIST (Xiao et al., 2017): 60,000 and 10,000 images of 28x28."""
    from torchvision.datasets import FashionMNIST

    assert spec.root is not None
    try:
        parts = [FashionMNIST(spec.root, train=train, download=download) for train in (True, False)]
        train, test = (_checked(part.data, part.targets) for part in parts)
    except Exception as error:
        # torchvision's reader asserts, indexes and unpacks: damaged files can raise anything.
        raise InputError(
            f"Fashion-MNIST cannot be read below {spec.root} ({first_line(error)});"
            " put torchvision's FashionMNIST/raw files there, or add --download"
        ) from error
    return Dataset(
        name=str(spec),
        classes=10,
        train=train,
        test=test,
        normalization=Normalization(1 / 255, (0.2860,), (0.3530,)),
        padding=2,
        flips=True,
    )
