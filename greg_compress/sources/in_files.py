"""Data sets whose images are read one by one: folders of photographs, and a user's own datasets."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2
from torchvision.transforms.functional import pil_to_tensor

from greg_compress.errors import InputError, RequestError, first_line, input_fault
from greg_compress.sources import user_files
from greg_compress.sources.dataset import Dataset, Shape
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Items, Samples, default_workers
from greg_compress.sources.specs import DataSpec

IMAGENET = {
    3: Normalization(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    1: Normalization(1 / 255, (0.449,), (0.226,)),
}
"""By channels; that of grey images is the mean of the colours'."""
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What is read, whatever a file calls itself: of others, Pillow would hand PostScript to a program that runs it."""
MOST_PIXELS = 89_478_485
"""Of an image, 256 MiB in colour; a PNG file of 200 KB can hold 10^9."""
CENTRE = 0.875
"""Share of a test image's shorter side that is kept: 224 of 256."""


def image_folder(spec: DataSpec, workers: int | None) -> Dataset:
    """ROOT/train/CLASS/IMAGE and ROOT/val/CLASS/IMAGE, with the augmentation of ImageNet (He et al., 2016).

    Raises:
        InputError: a folder is missing or empty, or the two name other classes.
    """
    train, val = (_folder(Path(str(spec.root), name)) for name in ("train", "val"))
    if train.classes != val.classes:
        other = sorted(set(train.classes) ^ set(val.classes))[0]
        raise InputError(f"{spec}: class {other!r} stands in one of train and val only")
    reading = default_workers() if workers is None else workers

    def fitted(shape: Shape) -> tuple[Samples, Samples, Normalization]:
        """Photographs as the network takes them."""
        if len(shape) != 3 or shape[0] not in IMAGENET:
            wanted = "x".join(map(str, shape))
            raise RequestError(f"{spec} gives images of 1 or 3 channels, but the network takes {wanted}")
        return _images(train, shape, reading), _images(val, shape, reading), IMAGENET[shape[0]]

    return Dataset(str(spec), len(train.classes), *fitted((3, 224, 224)), None, fitted)


@dataclass(frozen=True)
class _Folder:
    """Images by class."""

    classes: list[str]
    samples: list[tuple[str, int]]
    """Path and class of each image, in the order of torchvision's ImageFolder."""


def _folder(path: Path) -> _Folder:
    try:
        classes = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
        by_class = [_images_below(path / name) for name in classes]
    except OSError as error:
        raise InputError(
            f"imagefolder: {path} cannot be used ({first_line(error)}); images lie in {path}/CLASS/"
        ) from error
    if not classes or not all(by_class):
        empty = path if not classes else path / classes[by_class.index([])]
        raise InputError(f"imagefolder: {path} cannot be used (no images lie below {empty})")
    return _Folder(classes, [(image, label) for label, found in enumerate(by_class) for image in found])


def _images_below(folder: Path) -> list[str]:
    """Images by their endings. Each folder once: links may lead round in circles, and to so many paths that no walk
    ends."""
    found: list[tuple[str, str]] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [(root, name) for name in names if name.lower().endswith(IMG_EXTENSIONS)]
    return [f"{root}/{name}" for root, name in sorted(found)]


def _opened(path: str, mode: str) -> Image.Image:
    """Raises OSError or ValueError for what is no image that can be read in bounded memory."""
    if not Path(path).is_file():
        raise OSError("it is no ordinary file")  # a pipe would be waited for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # which is an error here
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width}x{image.height} are more than {MOST_PIXELS:,} pixels")
            return image.convert(mode)


def _images(folder: _Folder, shape: Shape, workers: int) -> Items:
    """uint8 images (C, H, W): a random part and its mirror image for training, the centre for testing."""
    channels, *size = shape
    training = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()])
    centre = v2.Compose([v2.Resize(round(max(size) / CENTRE)), v2.CenterCrop(size)])

    def read(index: int, train: bool) -> tuple[Tensor, int]:
        path, label = folder.samples[index]
        whole = _opened(path, "RGB" if channels == 3 else "L")
        return pil_to_tensor((training if train else centre)(whole)), label

    return Items(read, lambda index: folder.samples[index][0], torch.arange(len(folder.samples)), workers)


def from_callable(spec: DataSpec, workers: int | None) -> Dataset:
    """FILE.py:CALLABLE, which returns (train, test): two datasets with a length and items (image, label).

    Images are tensors (C, H, W) of one shape: floating-point as the network reads them, or uint8, which are divided
    by 255. How many classes there are, an attribute `classes` of the first dataset says. What it augments, it does
    in its items; in training they draw from the generators of torch, numpy and Python, seeded by image and epoch.

    Raises:
        InputError: FILE.py breaks, or returns something else.
    """
    path = Path(spec.kind)
    make, _ = user_files.named(path, str(spec.root))
    with input_fault(f"{spec} cannot be built"):
        made = make()
        if not isinstance(made, (tuple, list)) or len(made) != 2:
            raise InputError(f"{spec} must return two datasets, (train, test)")
        train, test = made
        lengths = [len(train), len(test)]
        named = getattr(train, "classes", None)
        classes = named if named is None or isinstance(named, int) else len(named)
    if not lengths[0]:
        raise InputError(f"{spec} holds no training images")
    reading = default_workers() if workers is None else workers
    parts = [
        Items(partial(_item, dataset), _numbered(spec, name), torch.arange(length), reading)
        for dataset, name, length in zip((train, test), ("training", "test"), lengths, strict=True)
    ]
    first = replace(parts[0], indices=torch.arange(1), workers=0)
    ((image, _),) = first.batches(torch.arange(1), 1)
    shape = tuple(image.shape[1:])
    scale = 1.0 if image.is_floating_point() else 1 / 255
    normalization = Normalization(scale, (0.0,) * shape[0], (1.0,) * shape[0])
    return Dataset(str(spec), classes, parts[0], parts[1], normalization, shape)


def _item(dataset: Any, index: int, _train: bool) -> tuple[Tensor, int]:
    image, label = dataset[index]
    return image, label


def _numbered(spec: DataSpec, name: str) -> Callable[[int], str]:
    return lambda index: f"{name} image {index} of {spec}"
