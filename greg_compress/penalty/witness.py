"""What became of the filters' norms while lambda grew: a few figures at a few iterations, for pictures.

At about 40 iterations of a phase, at most 49, the spread of every group's norms: their standard deviation over their
mean, the paper's Figure 1, row 1. At up to five of them the norms themselves (row 2, and Figure 2): of at most 64
groups, and of each at most 512 units, evenly spread. An iteration is the number of steps done, and its lambda the one
that pulled last; all figures have four digits.

The iterations depend on what a run cannot change when it goes on: a longer --stabilize adds some, and where they
become too many, every other one after GReg-2's picking (GReg-1: of all) is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from greg_compress.penalty.schedule import GrowthSchedule

GROWING, PUSHING, SPARE = 16, 24, 8
"""Iterations that are looked at: until GReg-2 picks, until tau, and how many more before some are dropped. GReg-1 has
all of them while pushing."""
SNAPSHOTS = 5
MOST_GROUPS, MOST_UNITS = 64, 512
NUMBER, NAMED = 9, 64
"""Bytes that a number takes in a file, and a name with its lists."""


class Witness:
    """Looks at the norms now and then; it changes nothing and draws nothing at random.

    Args:
        norms: gives the norms of each group, shape (units,); it may wait for the device.
        units: how many a group has, by its name, in order of execution.
    """

    def __init__(
        self, norms: Callable[[], Mapping[str, Tensor]], units: Mapping[str, int], schedule: GrowthSchedule
    ) -> None:
        self._norms = norms
        self._units = dict(units)
        self._picked = schedule.picking.updates * schedule.update_every if schedule.picking else 0
        """The iteration at which GReg-2 picks."""
        pushing = PUSHING if self._picked else GROWING + PUSHING
        self._most = (GROWING if self._picked else 0) + pushing + SPARE
        self._growing_step = math.ceil(self._picked / GROWING)
        self._step = math.ceil(((schedule.updates - 1) * schedule.update_every + 1) / pushing)
        halves = {self._growing_step * GROWING // 2, self._picked, self._picked + self._step * pushing // 2}
        quarters = {part * self._step * pushing // 4 for part in range(4)}
        self._snapshots_at = {0, *halves} if self._picked else quarters
        self._iterations: list[int] = []
        self._lambdas: list[float] = []
        self._spread: dict[str, list[float]] = {name: [] for name in self._units}
        self._snapshots: list[dict[str, Any]] = []

    def look(self, iteration: int, strength: float) -> None:
        """Write down the norms after so many steps, if this is one of the iterations at which it is done."""
        since = iteration - self._picked
        if since % self._step == 0 if since >= 0 else iteration % self._growing_step == 0:
            self._take(iteration, strength)
            if len(self._iterations) > self._most:
                self._thin_out()

    def _take(self, iteration: int, strength: float) -> None:
        norms = self._norms()
        self._iterations.append(iteration)
        self._lambdas.append(_rounded(strength))
        for name, spread in self._spread.items():
            spread.append(_spread(norms[name]))
        if iteration in self._snapshots_at:
            self._snapshots.append(_snapshot(iteration, strength, norms))

    def _thin_out(self) -> None:
        """Drop every other look since the picking."""
        self._step *= 2
        kept = [at for at, k in enumerate(self._iterations) if k < self._picked or (k - self._picked) % self._step == 0]
        self._iterations = [self._iterations[at] for at in kept]
        self._lambdas = [self._lambdas[at] for at in kept]
        self._spread = {name: [spread[at] for at in kept] for name, spread in self._spread.items()}

    def record(self, iteration: int, strength: float) -> dict[str, Any]:
        """All that was seen until the end of a phase after so many steps, which is looked at as well: JSON values."""
        norms = self._norms()
        seen = self.state_dict()
        return {
            **{name: seen[name] for name in ("picked", "units")},
            "iterations": [*self._iterations, iteration],
            "lambda": [*self._lambdas, _rounded(strength)],
            "spread": {name: [*spread, _spread(norms[name])] for name, spread in self._spread.items()},
            "snapshots": [*self._snapshots, _snapshot(iteration, strength, norms)],
        }

    @property
    def most_bytes(self) -> int:
        """What this may take in a file at most."""
        sizes = list(self._units.values())
        norms = sum(min(MOST_UNITS, sizes[at]) for at in evenly(len(sizes), MOST_GROUPS))
        names = sum(len(name) + NAMED for name in self._units)
        return NUMBER * ((self._most + 1) * (len(sizes) + 2) + SNAPSHOTS * norms) + names

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`record` gives but the end, and how the looks go on."""
        return {
            "picked": self._picked or None,
            "units": self._units,
            "step": self._step,
            "iterations": self._iterations,
            "lambda": self._lambdas,
            "spread": self._spread,
            "snapshots": self._snapshots,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ValueError: it is one of other groups, or its figures do not belong together.
        """
        looks, columns = len(state["iterations"]), [state["lambda"], *state["spread"].values()]
        if not (state["units"] == self._units and list(state["spread"]) == list(self._units)):
            raise ValueError("norms of other groups")
        if not all(len(column) == looks for column in columns):
            raise ValueError("norms at other iterations")
        numbers = [state["step"], *state["iterations"]]
        if not all(type(number) is int and number >= 0 for number in numbers) or not state["step"]:
            raise ValueError("norms at impossible iterations")
        self._step = state["step"]
        self._iterations, self._lambdas = list(state["iterations"]), list(state["lambda"])
        self._spread = {name: list(column) for name, column in state["spread"].items()}
        self._snapshots = list(state["snapshots"])


def _spread(norms: Tensor) -> float:
    """Standard deviation (of all units, not of a sample) over mean."""
    return _rounded(float(norms.std(correction=0) / norms.mean().clamp(min=torch.finfo(norms.dtype).tiny)))


def _snapshot(iteration: int, strength: float, norms: Mapping[str, Tensor]) -> dict[str, Any]:
    names = list(norms)
    chosen = {names[at]: norms[names[at]].tolist() for at in evenly(len(names), MOST_GROUPS)}
    units = {name: [_rounded(all_[unit]) for unit in evenly(len(all_), MOST_UNITS)] for name, all_ in chosen.items()}
    return {"iteration": iteration, "lambda": _rounded(strength), "norms": units}


def evenly(count: int, most: int) -> list[int]:
    """All of so many positions, or as many as there may be, evenly spread: the units whose norms are written down."""
    return [at * count // most for at in range(most)] if count > most else list(range(count))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
