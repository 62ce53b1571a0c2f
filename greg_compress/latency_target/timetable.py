"""What was measured on this machine, kept between runs beside the user's other caches."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

import onnxruntime

from greg_compress.deploy.identity import processor
from greg_compress.errors import GregError, InputError
from greg_compress.latency_target.layers import Form
from greg_compress.latency_target.probes import time_forms
from greg_compress.latency_target.surface import Point, Surface, points
from greg_compress.small_files import parsed, read_small
from greg_compress.whole_files import written_whole

LARGEST_FILE = 2**24
"""Bytes of a cache: enough for 10,000 layers."""


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/greg`, or what stands for it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "greg"


class Timetable:
    """Times of layers for one processor, runtime, number of threads and batch size."""

    def __init__(self, threads: int, batch: int, measure: Callable[..., list[float]] | None = None) -> None:
        self._threads, self._batch, self._measure = threads, batch, measure or time_forms
        identity = [processor(), platform.machine(), onnxruntime.__version__, threads, batch]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        self.path = cache_folder() / f"layers-{digest}.json"
        self._known = _read(self.path)
        self.measured = 0
        """Layers that were not known."""

    def missing(self, form: Form, reads: bool, makes: bool) -> bool:
        """Whether something of a layer is still to be measured."""
        known = self._known.get(_key(form), {})
        return any(_at(point) not in known for point in points(form, reads, makes))

    def surface(self, form: Form, reads: bool, makes: bool) -> Surface:
        """The times of a layer of which one side may shrink, or both; measured where they are not known."""
        wanted = points(form, reads, makes)
        known = self._known.setdefault(_key(form), {})
        missing = [point for point in wanted if _at(point) not in known]
        if missing:
            self.measured += 1
            # Of one moment: widths are compared with each other.
            times = self._measure([form.at(*point) for point in wanted], self._threads, self._batch)
            known.update(zip(map(_at, wanted), times, strict=True))
        return Surface(form, {point: known[_at(point)] for point in wanted})

    def keep(self) -> None:
        """Write down what is known; a folder that cannot be written costs the next run its time, not this one."""
        with suppress(OSError, GregError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(self.path, replace=True) as path:
                path.write_text(json.dumps(self._known))


def _key(form: Form) -> str:
    return json.dumps(astuple(form))


def _at(point: Point) -> str:
    return f"{point[0]},{point[1]}"


def _read(path: Path) -> dict[str, dict[str, float]]:
    """What was kept; nothing where it cannot be read."""
    with suppress(InputError, ValueError, TypeError, AttributeError):
        found = parsed(read_small(path, LARGEST_FILE))
        if all(type(time) is float and 0 <= time < 1e9 for times in found.values() for time in times.values()):
            return {str(key): dict(times) for key, times in found.items()}
    return {}


def surfaces(table: Timetable, sides: Sequence[tuple[Form, bool, bool]], tell: Callable[[str], None]) -> list[Surface]:
    """The surface of each layer, which sides of it may shrink being given; tells before what takes a while."""
    new = {form for form, *free in sides if table.missing(form, *free)}
    if new:
        tell(f"measuring {len(new)} layers at a few widths each, once for this machine ({table.path})")
    found = [table.surface(*each) for each in sides]
    if new:
        table.keep()
    return found
