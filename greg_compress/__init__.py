"""greg: drive a trained network's unimportant filters to zero, remove them for good, and prove it."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: str | PathLike[str], arch: str | None = None, allow_pickle: bool = False) -> nn.Module:
    """Return the network in a state file, in eval mode: same outputs bit for bit as where it was made.

    Args:
        path: a state file of any stage.
        arch: `FILE.py:CALLABLE`, for a network of your own whose file has moved or changed.
        allow_pickle: for a network that was a pickled module once; this runs whatever code the pickle holds.

    Raises:
        greg_compress.errors.GregError: the file cannot be used; the message says why.
    """
    from greg_compress.options.network import ModelOptions
    from greg_compress.sources.specs import parse_architecture
    from greg_compress.state.models import open_model

    named = parse_architecture(arch) if arch else None
    return open_model(ModelOptions(str(path), named, allow_pickle=allow_pickle)).model
