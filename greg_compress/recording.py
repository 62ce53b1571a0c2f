"""Options as plain JSON values, for the history and for the check that a resumed run is the same one."""

from __future__ import annotations

from dataclasses import fields
from decimal import Decimal
from enum import StrEnum
from typing import Any

from greg_compress.options.criterion import Criterion
from greg_compress.selection.plan_file import PlanFile
from greg_compress.selection.ratios import Ratios
from greg_compress.sources.specs import Architecture, DataSpec

WITHOUT_EFFECT = {"save_every", "download", "allow_pickle", "workers", "log", "timing"}
"""Options that do not decide the result."""


def recorded(*groups: Any) -> dict[str, Any]:
    """Flatten option values into one dictionary of JSON values."""
    flat: dict[str, Any] = {}
    for group in groups:
        for field in fields(group):
            if field.name not in WITHOUT_EFFECT:
                flat[field.name] = _plain(getattr(group, field.name))
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, Architecture):
        return {"spec": value.spec, "kwargs": value.kwargs}
    if isinstance(value, Ratios):
        return value.text
    if isinstance(value, PlanFile):
        return {"path": value.path, "sha256": value.sha256}
    if isinstance(value, (Criterion, DataSpec, Decimal)):
        return str(value)
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
