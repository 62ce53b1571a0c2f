"""What was proved, and what was not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from greg_compress.story.chains import Chain
from greg_compress.story.documents import Kind
from greg_compress.story.measures import CUTS
from greg_compress.story.values import at, entries, number, text


@dataclass(frozen=True)
class Check:
    """Something that was proved, or was not."""

    what: str
    passed: bool | None
    said: str
    by: str


def checks(chain: Chain) -> list[Check]:
    """The cut's self-check, the file's parity with PyTorch, and the gates."""
    found = []
    by = chain.main.name if chain.main else ""
    cuts = [(entry.get("metrics"), by) for entry in chain.history if entry.get("command") in CUTS]
    cuts += [] if cuts else [(file.said, file.name) for file in chain.of(Kind.PRUNED)]
    for said, source in cuts:
        error = number(said, "self_check", "max_rel_error")
        if error is not None:
            what = "The cut network computes what the masked one does (float64)"
            found.append(Check(what, _passed(said, "self_check"), f"largest difference {error:.1e}", source))
    for file in chain.of(Kind.EXPORTED, Kind.PROGRAM):
        made = "ONNX file" if file.kind is Kind.EXPORTED else "program"
        for key, what in (("parity", f"The {made} computes what PyTorch does"), ("light_parity", "So does its fp16")):
            error = number(file.said, key, "max_rel_error")
            if error is not None:
                said = f"largest difference {error:.1e} of the largest output"
                found.append(Check(what, _passed(file.said, key), said, file.name))
        for gate in entries(file.said, "gates"):
            name = text(gate, "gate") or "a gate"
            found.append(Check(name, _passed(gate), text(gate, "text") or "", file.name))
    return found


def _passed(value: Any, *keys: str) -> bool | None:
    found = at(value, *keys, "passed")
    return found if isinstance(found, bool) else None
