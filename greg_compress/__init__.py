"""greg: drive a trained network's unimportant filters to zero, remove them for good, and prove it."""

from __future__ import annotations

import os
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any

from greg_compress.errors import GregError

if TYPE_CHECKING:
    from torch import nn

    from greg_compress.api.network import Network
    from greg_compress.api.penalty import Penalty
else:
    _LAZY = {"Network": "greg_compress.api.network", "Penalty": "greg_compress.api.penalty"}
    """What needs torch, and so comes when it is asked for: the command line imports this package, too."""

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LAZY[name]), name)


# Since 1.32 onnxruntime tells its makers over the network how it is used. Nobody who runs greg has asked for that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["GregError", "Network", "Penalty", "__version__", "load"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
