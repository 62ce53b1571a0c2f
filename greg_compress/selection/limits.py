"""What a group may lose: capped by --max-ratio, in steps of --align."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from greg_compress.wiring.groups import Group, Wiring, unit_rows


@dataclass(frozen=True)
class Limits:
    """The bounds of one group."""

    channels: int
    """Units."""
    most: int
    """Units that it may lose; one always stays."""
    step: int | None = 1
    """Kept units come in multiples of this; None for a group that no step can align, which loses nothing."""

    def aligned(self, kept: int) -> int:
        """The nearest multiple of the step (half rounds up), within the bounds; all where there are fewer."""
        if self.step is None:
            return self.channels
        nearest = max(self.step, (2 * kept + self.step) // (2 * self.step) * self.step)
        if nearest < self.channels - self.most:
            nearest += self.step
        return min(nearest, self.channels)


def limits_of(group: Group, wiring: Wiring, align: int | None, max_ratio: Decimal | None) -> Limits:
    """The bounds that `align` (channels) and `max_ratio` (a share of its units) set to a group."""
    most = group.channels - 1 if max_ratio is None else min(group.channels - 1, int(max_ratio * group.channels))
    return Limits(group.channels, most, _step(group, wiring, align) if align else 1)


def _step(group: Group, wiring: Wiring, align: int) -> int | None:
    """The units whose channels in the group's first source are the least multiple of `align`.

    A unit may be several channels: equal offsets of a grouped convolution or of the halves of a chunk.
    """
    rows = unit_rows(group, wiring.filters(group.sources[0])[1])
    each = rows[rows >= 0].bincount(minlength=group.channels)
    if bool((each != each[0]).any()):
        return None
    return align // math.gcd(align, int(each[0]))
