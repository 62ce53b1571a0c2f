"""A plan says which units go: for every group that loses some, how many are kept, and once decided which.

Plain data: it prints, goes into a state file as JSON values, and can be replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Protocol

import torch
from torch import Tensor

from greg_compress.errors import InputError, input_fault
from greg_compress.selection.amounts import percent
from greg_compress.wiring.groups import Group, Wiring


@dataclass(frozen=True)
class Share:
    """What happens to one group."""

    channels: int
    kept: int
    removed: tuple[int, ...] | None = None
    """Positions within the group, ascending; None until decided."""


class Met(Protocol):
    """How a target was met."""

    def __str__(self) -> str: ...
    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Solution:
    """The ratio that was found for a target, and what it reaches."""

    option: str
    """--target-macs or --target-params."""
    target: Decimal
    reached: float
    """Both as shares of the dense network."""
    ratio: Decimal
    ahead: int = 0
    """Groups that lose a step more than the ratio says."""

    def __str__(self) -> str:
        more = f", and a step more of {self.ahead} group{'s' * (self.ahead > 1)}," if self.ahead else ""
        return f"{self.option} {percent(self.target)}: ratio {self.ratio}{more} leaves {percent(self.reached)}"

    def to_json(self) -> dict[str, Any]:
        """Percentages, but for the ratio."""
        return {
            "option": self.option,
            "percent": 100 * float(self.target),
            "reached": 100 * self.reached,
            "ratio": float(self.ratio),
            "ahead": self.ahead,
        }


@dataclass(frozen=True)
class Plan:
    """Group name -> share, for the groups that lose units, in order of execution."""

    shares: Mapping[str, Share]
    asked: Plan | None = None
    """The plan before --align rounded it; None where nothing was to be rounded."""
    solution: Met | None = None
    """How a target was met; None where there was none."""

    def decide(self, scores: Mapping[str, Tensor]) -> Plan:
        """Pick the units with the least scores; of equals the first goes first (stable)."""
        decided = {}
        for name, share in self.shares.items():
            order = torch.sort(scores[name], stable=True).indices
            picked = sorted(order[: share.channels - share.kept].tolist())
            decided[name] = replace(share, removed=tuple(picked))
        return replace(self, shares=decided, asked=self.asked and self.asked.decide(scores))

    def removed_units(self, wiring: Wiring) -> Tensor:
        """The classes (labels) of all units that go, int64 of shape (removed,)."""
        groups = {group.name: group for group in wiring.groups}
        parts = [groups[name].units[list(share.removed)] for name, share in self.shares.items() if share.removed]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def units(self, wiring: Wiring) -> Tensor:
        """The classes of all units of the groups that lose some, kept ones included."""
        parts = [group.units for group in wiring.groups if group.name in self.shares]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def differs_from(self, other: Plan) -> int:
        """How many units this plan removes that `other`, of the same counts, keeps."""
        return sum(
            len(set(share.removed or ()) - set(other.shares[name].removed or ())) for name, share in self.shares.items()
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many units every group that loses some keeps."""
        return {name: share.kept for name, share in self.shares.items()}

    def kept_in(self, group: Group) -> int:
        """How many units of `group` are kept."""
        return self.shares[group.name].kept if group.name in self.shares else group.channels

    def to_json(self) -> dict[str, Any]:
        """The shares, and where they were rounded what they were before."""
        asked = {} if self.asked is None else self.asked.counts
        return {
            name: {
                "channels": share.channels,
                "kept": share.kept,
                "removed": None if share.removed is None else list(share.removed),
                **({} if self.asked is None else {"asked": asked.get(name, share.channels)}),
            }
            for name, share in self.shares.items()
        }


def picks_from_json(data: Mapping[str, Any] | None, wiring: Wiring) -> Plan:
    """Read a decided plan back, against the network that it was made for.

    Raises:
        InputError: it is empty or undecided, or does not fit the network.
    """
    groups = {group.name: group for group in wiring.groups}
    if not data:
        raise InputError("the state is damaged: it holds no picks")
    with input_fault("the state's picks are damaged"):
        shares = {name: _share(name, entry, groups) for name, entry in data.items()}
        before = {name: Share(entry["channels"], entry["asked"]) for name, entry in data.items() if "asked" in entry}
    if not all(type(share.kept) is int and 0 < share.kept <= share.channels for share in before.values()):
        raise InputError("the state's picks are damaged: it asked for units that are not there")
    return Plan(shares, asked=Plan(before) if before else None)


def _share(name: str, entry: Mapping[str, Any], groups: Mapping[str, Group]) -> Share:
    channels, kept, removed = entry["channels"], entry["kept"], entry["removed"]
    if name not in groups or groups[name].channels != channels or groups[name].frozen:
        raise InputError(f"the picks do not fit the network: group {name!r} of {channels} free units is not there")
    if not (
        type(kept) is type(channels) is int
        and len(set(removed)) == len(removed) == channels - kept
        and 0 < kept < channels
        and all(type(unit) is int and 0 <= unit < channels for unit in removed)
    ):
        raise InputError(f"the picks for group {name!r} do not leave {kept} of {channels} units")
    return Share(channels, kept, tuple(removed))
