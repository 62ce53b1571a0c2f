"""From a data spec to a data set."""

from __future__ import annotations

from greg_compress.errors import InputError
from greg_compress.sources import in_memory
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.specs import DataSpec


def load_data(spec: DataSpec, download: bool = False, workers: int | None = None) -> Dataset:
    """Read a data set, or find the files that it will be read from.

    Args:
        workers: processes that read images, where they are not held in memory; None for up to 4.

    Raises:
        InputError: its files are missing or damaged, or it holds no images.
        RequestError: workers for a data set that is held in memory.
    """
    if spec.is_file or spec.kind == "imagefolder":
        from greg_compress.sources import in_files  # torchvision's transforms take a second

        data = (in_files.from_callable if spec.is_file else in_files.image_folder)(spec, workers)
    else:
        data = in_memory.load(spec, download, workers)
    for part, what in ((data.train, "training"), (data.test, "test")):
        if not len(part):
            raise InputError(f"{data.name} holds no {what} images")
    return data
