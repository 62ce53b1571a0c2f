"""What exported files of ours say of the network beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from greg_compress.contents.contents import normalization
from greg_compress.deploy.metadata import OURS


def said(entries: Mapping[str, str]) -> dict[str, Any]:
    """Our entries without what they all begin with; none where greg did not make the file."""
    return {name.removeprefix(OURS): _value(text) for name, text in entries.items() if name.startswith(OURS)}


def told(said: Mapping[str, Any]) -> dict[str, Any]:
    """The network that was exported, in words for all kinds of files.

    Raises:
        ValueError: that is not what it says.
    """
    kept = {str(name): int(left) for name, left in dict(said.get("ratios") or {}).items()}
    return {
        "classes": said.get("classes"),
        "normalization": normalization(said if "mean" in said else None),
        "preprocessing": said.get("preprocessing"),
        "groups_cut": len(kept),
        "kept": kept or None,
        "history_sha256": said.get("history"),
    }


def _value(text: str) -> Any:
    """What a text says; versions and digests are no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
