"""Which criterion scores units, as it is typed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from greg_compress.errors import unknown


class Kind(StrEnum):
    """What `criteria` can measure."""

    L1 = "l1"
    MAX = "max"
    RANDOM = "random"
    OBD = "obd"
    TAYLOR = "taylor"


@dataclass(frozen=True)
class Criterion:
    """A kind, and for `random` the seed of its draw."""

    kind: Kind = Kind.L1
    seed: int = 0

    @property
    def needs_images(self) -> bool:
        """Whether it is measured on the loss of images, and so in units of loss."""
        return self.kind in (Kind.OBD, Kind.TAYLOR)

    def __str__(self) -> str:
        return f"{self.kind}:{self.seed}" if self.kind is Kind.RANDOM else str(self.kind)


L1 = Criterion()


def parse_criterion(text: str) -> Criterion:
    """`l1`, `max`, `obd`, `taylor`, `random` or `random:SEED`.

    Raises:
        RequestError: anything else.
    """
    found = re.fullmatch(r"random(?::(\d{1,9}))?", text, re.ASCII)
    if found:
        return Criterion(Kind.RANDOM, int(found[1] or 0))
    try:
        return Criterion(Kind(text))
    except ValueError:
        raise unknown(f"--criterion {text[:40]}: unknown", text[:40], [*Kind, "random:SEED"]) from None
