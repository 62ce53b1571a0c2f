"""What tells one training command from another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.training import TrainingOptions
from greg_compress.sources.dataset import Dataset
from greg_compress.state.format import State
from greg_compress.state.models import Opened
from greg_compress.training.loop import Regularizer, Settings
from greg_compress.training.objective import Objective, cross_entropy

RECORDS = ("log", "norms")
"""Metrics of the history that no command shows, for pictures."""


class Phase(Protocol):
    """A regularizer with the length of its run, and what it leaves behind."""

    iterations: int

    @property
    def regularizer(self) -> Regularizer: ...

    def conclude(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the finished state holds of it (fields of a state), and figures for the result."""

    @property
    def most_recorded(self) -> int:
        """Bytes that its record may take."""

    def record(self) -> dict[str, Any]:
        """At the end of the run: what the history alone keeps, as JSON values under names of :data:`RECORDS`."""


@dataclass(frozen=True)
class Job:
    """What tells one training command from another."""

    command: str
    stage: str
    """Of the result."""
    output: Output
    options: TrainingOptions
    recorded: dict[str, Any]
    """Everything on the command line that decides the result, as JSON values."""
    model: ModelOptions
    open: Callable[[Dataset], Opened]
    """Open the network to start from; called unless the run is resumed."""
    begin: Callable[[Opened, Dataset], None] = lambda *_: None
    """What is decided once, about a network and data that fit it; called unless the run is resumed."""
    phase: Callable[[nn.Module, State, int, int | None], Phase] | None = None
    """From network, state, steps per epoch and, with a budget, the iterations allowed: what regularizes the run."""
    regularizer: Callable[[nn.Module, State], Regularizer | None] = lambda *_: None
    """From network and state: what acts on gradients where no phase does; how long the run is, it does not say."""
    budget: float | None = None
    """Seconds for the whole run."""
    objective: Callable[[State, Dataset, Settings], Objective] = lambda *_: cross_entropy
