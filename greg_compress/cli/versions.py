"""The versions that decide what a command does, read from what is installed; nothing of it is imported."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from greg_compress import __version__

PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime")


def versions() -> Iterator[tuple[str, str]]:
    """Name and version, ours first."""
    yield "greg", __version__
    yield "python", platform.python_version()
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "is not installed"
