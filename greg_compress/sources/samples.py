"""Images with labels, in memory or read one by one, and the batches that they come in.

Randomness is a function of the position: whoever asks for augmented batches hands in `draw`, which gives the
random generator of a position. In memory one generator serves a batch, else one serves an image, so that the
number of worker processes changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from greg_compress.errors import GregError, InputError, first_line

LONGEST_WAIT = 600
"""Seconds for one batch; a worker without shared memory waits for ever and says nothing."""
STOPPING = (signal.SIGINT, signal.SIGTERM)
Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W), uint8 or floating-point, and labels int64 (N,)."""
Draw = Callable[[int], torch.Generator]


@dataclass(frozen=True)
class Share:
    """One of `count` parts of every batch, as equal as they come."""

    number: int = 0
    count: int = 1

    def of(self, size: int) -> slice:
        return slice(self.number * size // self.count, (self.number + 1) * size // self.count)


WHOLE = Share()


class Samples(Protocol):
    """Images with labels."""

    at_once: ClassVar[int]
    """How many are evaluated in one batch: photographs take a thousand times the memory of digits."""

    def __len__(self) -> int: ...

    def select(self, indices: Tensor) -> Samples: ...

    def on(self, device: torch.device) -> Samples:
        """The same, prepared for training on a device."""

    def batches(
        self, order: Tensor, size: int, first: int = 0, draw: Draw | None = None, share: Share = WHOLE
    ) -> Iterator[Batch]:
        """Batches of `size` images in `order`, from batch `first` on; augmented if `draw` is given.

        Of each batch only a share is made, the same images that the whole batch would hold there. Labels stay on the
        CPU.
        """


def evenly(samples: Samples, count: int) -> Samples:
    """`count` images at equal distances: the same in every run, and of all classes of a folder, which lists its images
    class by class."""
    return samples.select(torch.arange(count) * len(samples) // count)


@dataclass(frozen=True)
class Part:
    """Images in memory, uint8 of shape (N, C, H, W), and labels, int64 of shape (N,)."""

    at_once: ClassVar[int] = 500
    images: Tensor
    labels: Tensor
    padding: int = 0
    """Pixels of zero padding around a training image before a random crop of the old size."""
    flips: bool = False
    """Whether a mirrored image still shows its class."""

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> Part:
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def on(self, device: torch.device) -> Part:
        return replace(self, images=self.images.to(device))

    def batches(
        self, order: Tensor, size: int, first: int = 0, draw: Draw | None = None, share: Share = WHOLE
    ) -> Iterator[Batch]:
        device = self.images.device
        for index, chosen in enumerate(order[first * size :].split(size), start=first):
            mine = share.of(len(chosen))
            images = self.images[chosen[mine].to(device, non_blocking=True)]
            if draw is not None:
                height, width = images.shape[2:]
                rows, columns = windows(len(chosen), height, width, self.padding, self.flips, draw(index))
                images = augment(images, self.padding, rows[mine], columns[mine])
            yield images, self.labels[chosen[mine]]


def windows(
    count: int, height: int, width: int, padding: int, flips: bool, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows (N, H) and columns (N, W) that random crops of padded images take, half of them mirrored."""
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=random)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    if flips:
        mirrored = torch.rand(count, 1, generator=random) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    return rows, columns


def augment(images: Tensor, padding: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Pad with zeros and take the window of each image, (N, C, H, W)."""
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    rows, columns = (index.to(images.device, non_blocking=True) for index in (rows, columns))
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    # Indices around the channel slice put it last: (N, H, W, C), the memory of channels_last.
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Items:
    """Images that a dataset reads one by one, in worker processes.

    Args:
        read: index and whether it is for training -> image tensor (C, H, W) and label.
        name: index -> what an error calls the image.
        workers: processes; 0 reads in this one.
    """

    at_once: ClassVar[int] = 50
    read: Callable[[int, bool], tuple[Tensor, int]]
    name: Callable[[int], str]
    indices: Tensor
    workers: int
    pinned: bool = False
    """Whether batches lie in memory that a CUDA device copies from while the processor goes on."""

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, indices: Tensor) -> Items:
        return replace(self, indices=self.indices[indices])

    def on(self, device: torch.device) -> Items:
        return replace(self, pinned=device.type == "cuda")

    def batches(
        self, order: Tensor, size: int, first: int = 0, draw: Draw | None = None, share: Share = WHOLE
    ) -> Iterator[Batch]:
        chosen = list(enumerate(self.indices[order].tolist()))
        whole = [chosen[start : start + size] for start in range(first * size, len(chosen), size)]
        chunks = [batch[share.of(len(batch))] for batch in whole]
        reading = self._read(chunks, draw)
        try:
            for found in reading:
                if isinstance(found, Unreadable):
                    raise InputError(str(found))
                yield found
        except RuntimeError as error:
            raise GregError(f"reading images failed ({first_line(error)}); try fewer --workers") from error
        finally:
            # Left to its destructor, a loader whose workers a signal ended would print a traceback.
            if shut_down := getattr(reading, "_shutdown_workers", None):
                with contextlib.suppress(RuntimeError):
                    shut_down()

    def _read(self, chunks: list[list[tuple[int, int]]], draw: Draw | None) -> Iterator[Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores, as asked for
            loader: DataLoader[Any] = DataLoader(
                _Reader(self, draw),  # type: ignore[arg-type]
                batch_sampler=chunks,
                num_workers=min(self.workers, len(chunks)),
                collate_fn=_collated,
                worker_init_fn=_leave_signals,
                timeout=LONGEST_WAIT if self.workers else 0,
                pin_memory=self.pinned,
                generator=torch.Generator(),  # the global one would go on from another place after a resume
                multiprocessing_context="fork" if self.workers else None,  # a user's FILE.py cannot be pickled
            )
            with _signals_wait():
                return iter(loader)


class Unreadable(str):
    """What is wrong with an image. An exception would come out of a worker with its whole traceback."""


@dataclass(frozen=True)
class _Reader:
    items: Items
    draw: Draw | None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | Unreadable:
        position, index = key
        before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
        try:
            # Of an evaluation, too: a user's own images may be drawn anew each time, and a resume must see the same.
            generator = torch.Generator().manual_seed(position) if self.draw is None else self.draw(position)
            torch.set_rng_state(generator.get_state())  # transforms draw from the global generators
            random.seed(generator.initial_seed())
            numpy.random.seed(generator.initial_seed() % 2**32)
            return _checked(*self.items.read(index, self.draw is not None))
        except BaseException as error:  # whatever ends a worker leaves the others waiting
            return Unreadable(f"{self.items.name(index)} cannot be read ({first_line(error)})")
        finally:
            torch.set_rng_state(before[0])
            random.setstate(before[1])
            numpy.random.set_state(before[2])


def _checked(image: Any, label: Any) -> tuple[Tensor, int]:
    if not isinstance(image, Tensor) or image.dim() != 3:
        raise TypeError(f"it is a {type(image).__name__}, not a tensor (C, H, W); add a transform")
    plain = image.layout == torch.strided and image.device.type == "cpu"
    if not plain or not (image.is_floating_point() or image.dtype == torch.uint8):
        raise TypeError("images are floating-point or bytes, in memory")
    if int(label) != label or not 0 <= label < 2**31:
        raise ValueError(f"{label} is no label")
    return image.detach(), int(label)


def _collated(samples: Sequence[tuple[Tensor, int] | Unreadable]) -> Batch | Unreadable:
    for sample in samples:
        if isinstance(sample, Unreadable):
            return sample
    images, labels = zip(*samples, strict=True)
    kinds = sorted({f"{tuple(image.shape)} {image.dtype}" for image in images})
    if len(kinds) > 1:
        return Unreadable(f"images of different shapes or types stand in one data set: {' and '.join(kinds)}")
    return torch.stack(images), torch.tensor(labels)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Until a worker decides for itself what they mean, it would take them as this process does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the one that trains decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def default_workers() -> int:
    return min(4, os.cpu_count() or 1)
