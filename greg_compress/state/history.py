"""History: each command that made a state, so that it can be repeated and trusted."""

from __future__ import annotations

import platform
import time
from typing import Any

import torch

from greg_compress import __version__


def entry(
    command: str,
    options: dict[str, Any],
    metrics: dict[str, Any],
    *,
    model: str | None = None,
    digest: str | None = None,
    untrained: bool = False,
    seconds: float | None = None,
) -> dict[str, Any]:
    """One line of history; everything that a clock decides is under one key."""
    return {
        "command": command,
        "options": options,
        "metrics": metrics,
        "input": {"model": model, "sha256": digest, "untrained": untrained},
        "versions": {"greg": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "clock": {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seconds": seconds},
    }
