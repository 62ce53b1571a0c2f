"""What a network is compressed to, in one command."""

from __future__ import annotations

from dataclasses import dataclass

from greg_compress.errors import RequestError
from greg_compress.options.limits import require_between
from greg_compress.options.penalty import Method, Preset


@dataclass(frozen=True)
class Wish:
    """How the stages of the chain run, and what the exported file must be."""

    data: str
    """As it was typed."""
    method: Method = Method.GREG_1
    preset: Preset = Preset.QUICK
    epochs: float = 5.0
    """Of fine-tuning."""
    scale: float = 1.0
    """What all lengths are multiplied with."""
    batch_size: int | None = None
    seed: int = 0
    threads: int | None = None
    batch: int | None = None
    """Threads of the runtime and samples of a run, wherever time is measured."""
    max_drop: float | None = None
    """Points of top-1 that the exported file may be below the dense network."""
    max_latency: str | None = None
    """As it was typed."""

    def __post_init__(self) -> None:
        require_between("epochs", self.epochs, 0, 1e6)
        require_between("scale", self.scale, 0, 1e6)
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise RequestError(f"--max-drop {self.max_drop}: write points of top-1, from 0 to 100")
