"""The time of one layer for any number of channels, from a few that were measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

import numpy

from greg_compress.latency_target.layers import Form, Integers

Floats = numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float64]]
Point = tuple[int, int]
"""Channels that a layer reads, and that it makes."""
BLOCK = 16
"""No kernel of onnxruntime's asks for more; what numbers have in common with it is measured, not assumed."""
OF_A_KIND, OF_ALL = 12, 6
FLOORS = 60


def widths(channels: int, blocks: bool = True) -> list[int]:
    """Numbers of channels to measure: of every divisor of BLOCK that they may share with it, up to a dozen.

    A matrix product knows no `blocks`, and a few will do.
    """
    if not blocks:
        return sorted({max(1, channels * part // OF_ALL) for part in range(1, OF_ALL + 1)})
    found = {channels}
    for shared in (16, 8, 4, 2, 1):
        alike = numpy.arange(shared, channels + 1, shared)
        alike = alike[numpy.gcd(alike, BLOCK) == shared]
        count = min(len(alike), OF_A_KIND if shared == BLOCK else OF_A_KIND // 2)
        if count:
            found.update(alike[numpy.linspace(0, len(alike) - 1, count).round().astype(int)].tolist())
    return sorted(found)


def points(form: Form, reads: bool, makes: bool) -> list[Point]:
    """What to measure of a layer of which one side may shrink, or both."""
    blocks = bool(form.kernel)
    found = {(form.reads, form.makes)}
    if reads:
        found |= {(count, form.makes) for count in widths(form.reads, blocks)}
    if makes:
        found |= {(form.reads, count) for count in widths(form.makes, blocks)}
    if reads and makes:
        found |= set(product(_few(form.reads, blocks), _few(form.makes, blocks)))
    return sorted(found)


def _few(channels: int, blocks: bool) -> Iterable[int]:
    """About a half and a quarter, among what is measured along that side, in whole blocks if there are any."""
    whole = blocks and channels >= 4 * BLOCK
    known = [count for count in widths(channels, blocks) if count % BLOCK == 0 or not whole]
    return {min(known, key=lambda count: abs(count - channels / parts)) for parts in (2, 4)}


class Surface:
    """Milliseconds of one layer: a + (t - a) * f(reads) * g(makes), where t is what it takes whole.

    f and g come from what was measured along either side; a, what a call costs however small it is, from what was
    measured where both sides are smaller.
    """

    def __init__(self, form: Form, times: Mapping[Point, float]) -> None:
        self._whole = times[form.reads, form.makes]
        blocks = bool(form.kernel)
        self._reads = _Curve({read: time for (read, made), time in times.items() if made == form.makes}, blocks)
        self._makes = _Curve({made: time for (read, made), time in times.items() if read == form.reads}, blocks)
        both = {point: time for point, time in times.items() if point[0] < form.reads and point[1] < form.makes}
        self._floor = self._fitted(both)

    def at(self, reads: Integers, makes: Integers) -> Floats:
        return self._product(self._reads.at(reads), self._makes.at(makes), self._floor)

    def _product(self, read: Floats, made: Floats, floor: float) -> Floats:
        rest = max(self._whole - floor, 1e-9)
        return numpy.asarray(floor + (read - floor).clip(0) * (made - floor).clip(0) / rest)

    def _fitted(self, both: Mapping[Point, float]) -> float:
        if not both:
            return 0.0
        reads, makes = (numpy.array(side) for side in zip(*both, strict=True))
        wanted = numpy.log(numpy.array(list(both.values())).clip(1e-6))
        read, made = self._reads.at(reads), self._makes.at(makes)
        # No call costs more than the least that was measured, also where both sides were larger.
        floors = numpy.linspace(0, min(self._reads.least, self._makes.least), FLOORS, endpoint=False)
        errors = [
            numpy.square(numpy.log(self._product(read, made, floor).clip(1e-6)) - wanted).sum() for floor in floors
        ]
        return float(floors[int(numpy.argmin(errors))])


class _Curve:
    """Times along one side: linear between those numbers that share as much with BLOCK, if there are blocks."""

    def __init__(self, times: Mapping[int, float], blocks: bool) -> None:
        known = numpy.array(sorted(times))
        value = numpy.array([times[count] for count in known])
        shared = numpy.gcd(known, BLOCK)
        kinds: Iterable[int] = numpy.unique(shared).tolist() if blocks else ()
        self._kinds = {int(kind): (known[shared == kind], value[shared == kind]) for kind in kinds}
        self._all = known, value

    @property
    def least(self) -> float:
        return float(self._all[1].min())

    def at(self, counts: Integers) -> Floats:
        counts = numpy.asarray(counts)
        shared, found = numpy.gcd(counts, BLOCK), numpy.empty(counts.shape)
        for kind in numpy.unique(shared):
            mine = shared == kind
            found[mine] = numpy.interp(counts[mine], *self._kinds.get(int(kind), self._all))
        return found
