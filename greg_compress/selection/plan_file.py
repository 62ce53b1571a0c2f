"""A plan file as it is read: plain JSON whose every value is checked. No torch: a broken file answers at once.

    {"format": "greg-plan", "version": 1, "groups": [{"name", "channels", "kept", "removed"}, ...]}

with all groups of a network in order of execution. `removed` holds positions within the group; null, or left out,
leaves it to L1 norm when the plan is used.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greg_compress.errors import InputError, first_line, nearest
from greg_compress.small_files import parsed, read_small

FORMAT = "greg-plan"
VERSION = 1
LARGEST_FILE = 2**22
"""Bytes of a plan file: enough for 500,000 units."""
MOST_CHANNELS = 2**31


@dataclass(frozen=True)
class PlannedGroup:
    """What a plan file says of one group."""

    name: str
    channels: int
    kept: int
    removed: tuple[int, ...] | None = None
    """Positions within the group, ascending; None where they are not decided."""


@dataclass(frozen=True)
class PlanFile:
    """A plan file that is sound in itself; whether it fits a network is another question."""

    path: str
    sha256: str
    groups: tuple[PlannedGroup, ...]


def read_plan(path: str) -> PlanFile:
    """Read `path`.

    Raises:
        InputError: missing, no JSON, no plan, of a newer version, or with a value that cannot be.
    """
    content = _content(path)
    try:
        data = parsed(content)
    except ValueError as error:
        raise InputError(f"{path} is no plan file: it is no JSON ({first_line(error)})") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(f"{path} is no plan file; greg analyze MODEL --ratios R --plan-out FILE writes one")
    version = data.get("version")
    if type(version) is not int or version < 1:
        raise InputError(f"{path} is damaged: its version is no number from 1 on")
    if version > VERSION:
        raise InputError(f"{path} has format version {version}, this greg reads {VERSION}; install a newer greg")
    groups = data.get("groups")
    if not isinstance(groups, list):
        raise InputError(f"{path} is damaged: its groups are no list")
    _refuse_surplus(data, ("format", "version", "groups"), path, "it")
    found = tuple(_group(entry, number, path) for number, entry in enumerate(groups))
    for name, times in Counter(group.name for group in found).items():
        if times > 1:
            raise InputError(f"{path} is damaged: it names group {name} twice")
    return PlanFile(path, hashlib.sha256(content).hexdigest(), found)


def _content(path: str) -> bytes:
    if not path:
        raise InputError("--plan names no file")
    try:
        return read_small(Path(path), LARGEST_FILE)
    except InputError as error:
        raise InputError(f"--plan {error}; greg analyze MODEL --ratios R --plan-out FILE writes one") from error


def _group(entry: Any, number: int, path: str) -> PlannedGroup:
    def fault(what: str) -> InputError:
        return InputError(f"{path} is damaged: {where} {what}")

    where = f"group {number}"
    if not isinstance(entry, dict):
        raise fault("is no object")
    name, channels, kept, removed = (entry.get(key) for key in ("name", "channels", "kept", "removed"))
    if type(name) is not str or not name:
        raise fault("has no name")
    where = f"group {name}"
    _refuse_surplus(entry, ("name", "channels", "kept", "removed"), path, where)
    if type(channels) is not int or not 0 < channels < MOST_CHANNELS:
        raise fault("has no number of channels")
    if type(kept) is not int or not 0 < kept <= channels:
        raise fault(f"does not keep between 1 and its {channels} units")
    if removed is None:
        return PlannedGroup(name, channels, kept)
    if not isinstance(removed, list) or not all(type(unit) is int and 0 <= unit < channels for unit in removed):
        raise fault(f"does not remove a list of units from 0 to {channels - 1}")
    if len(set(removed)) < len(removed):
        raise fault("removes a unit twice")
    if len(removed) != channels - kept:
        raise fault(f"removes {len(removed)} of {channels} units, but keeps {kept}; null instead leaves it to L1 norm")
    return PlannedGroup(name, channels, kept, tuple(sorted(removed)))


def _refuse_surplus(entry: dict[str, Any], known: Sequence[str], path: str, where: str) -> None:
    """A misspelt key would mean something else in silence."""
    if (surplus := next((key for key in entry if key not in known), None)) is not None:
        raise InputError(f"{path} is damaged: {where} has a surplus {surplus[:40]!r}{nearest(surplus[:40], known)}")
