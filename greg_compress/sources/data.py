"""Data sets: how they are read, how many classes they have, how their pixels are normalised and augmented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from greg_compress.errors import InputError
from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Samples
from greg_compress.sources.specs import DataSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Dataset:
    """A data set. A folder of photographs fits itself to the network's input; see :meth:`at`."""

    name: str
    classes: int | None
    """None if it does not say."""
    train: Samples
    test: Samples
    normalization: Normalization
    input_shape: Shape | None
    """(C, H, W); None while images of any size can be made."""
    fitted: Callable[[Shape], tuple[Samples, Samples, Normalization]] | None = None
    """For those of any size: training and test images of a shape, and their normalisation."""

    def at(self, input_shape: Shape) -> Dataset:
        """The data set with images of a shape, if it can make them; else as it is."""
        if self.fitted is None:
            return self
        train, test, normalization = self.fitted(input_shape)
        return replace(self, train=train, test=test, normalization=normalization, input_shape=input_shape, fitted=None)


def load_data(spec: DataSpec, download: bool = False, workers: int | None = None) -> Dataset:
    """Read a data set, or find the files that it will be read from.

    Args:
        workers: processes that read images, where they are not held in memory; None for up to 4.

    Raises:
        InputError: its files are missing or damaged, or it holds no images.
        RequestError: workers for a data set that is held in memory.
    """
    from greg_compress.sources import in_files, in_memory  # they need each other's words

    if spec.is_file:
        data = in_files.from_callable(spec, workers)
    elif spec.kind == "imagefolder":
        data = in_files.image_folder(spec, workers)
    else:
        data = in_memory.load(spec, download, workers)
    for part, what in ((data.train, "training"), (data.test, "test")):
        if not len(part):
            raise InputError(f"{data.name} holds no {what} images")
    return data
