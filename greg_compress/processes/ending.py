"""How several processes end together: with one exit code, one line, and no process left waiting for a dead one.

Beside the training's own connections each process keeps one to the store that torchrun (or the first process) holds.
A thread counts a pulse there. Whoever fails writes how it ends; nobody leaves before all have read it. When a process
dies, the others see its connections break or its pulse stop.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from greg_compress.processes.place import Place

BEAT = 1.0
SILENT, SUSPECT = 30.0, 5.0
"""Seconds without a pulse after which a process counts as dead: by itself, and once a connection has broken."""
GRACE, LATEST = 10.0, 30.0
"""Seconds in which a process ends by itself after another one failed, and until the last one has."""
SEARCH, LONGEST_SAVE = 15.0, 3600.0
"""Seconds to wait for who it was that died, and for the first process to write the result."""
LONGEST_START = timedelta(minutes=10)


@dataclass(frozen=True)
class End:
    """How the run ends, in every process."""

    code: int
    text: str = ""
    rank: int = 0
    """Whose words these are."""
    speaker: int = 0
    """Who says them."""

    def line(self, place: Place, own: str = "") -> str:
        """What this process has to say, where it would have said `own`."""
        if place.rank != self.speaker or not self.text:
            return ""
        return self.text if self.rank == self.speaker or self.text == own else f"process {self.rank}: {self.text}"


NOBODY = End(1, "process 0 died, and the store with it", 1, 1)


class Ending:
    """One process's part in the common end."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.store, _, _ = next(rendezvous("env://", place.rank, place.size, timeout=LONGEST_START))
        self._own = self.store.clone()
        """A connection of the watching thread's own: calls on one wait for each other."""
        self._suspected = False
        self._leaving = threading.Event()
        self._seen: dict[int, tuple[int, float]] = {}
        self._beat()
        threading.Thread(target=self._watched, daemon=True).start()

    def agreed(self, own: End, patience: float) -> End:
        """Wait until all processes are at their end, and return how they end: as the first that says it.

        Args:
            patience: seconds to wait for the words of another process before saying one's own.
        """
        with contextlib.suppress(Exception):
            if dist.is_initialized():
                dist.destroy_process_group()  # what the others wait for fails at once
        try:
            found = self._said(patience)
            if found is None:
                self.store.compare_set("end", "", json.dumps(asdict(own)))
                found = self._said(0)
        except (RuntimeError, ValueError):
            found = NOBODY
        self._leave()
        return found or own

    def suspect(self) -> None:
        """A connection broke: whoever has no pulse any more is dead."""
        self._suspected = True
        with contextlib.suppress(RuntimeError):
            self.store.set("suspect", "1")

    def _said(self, patience: float, store: Store | None = None) -> End | None:
        """How the run ends, as soon as somebody has said so."""
        store = store or self.store
        until = time.monotonic() + patience
        while not store.check(["end"]):
            if time.monotonic() >= until:
                return None
            time.sleep(0.05)
        return End(**json.loads(store.get("end")))

    def _leave(self) -> None:
        """The store may be the first process's, which therefore goes last."""
        self._leaving.set()
        with contextlib.suppress(RuntimeError):
            gone = self.store.add("gone", 1)
            until = time.monotonic() + (2 * BEAT if self._suspected else LATEST)
            while self._place.first and gone < self._place.size and time.monotonic() < until:
                time.sleep(0.05)
                gone = self.store.add("gone", 0)

    def _beat(self) -> None:
        self._own.add(f"pulse/{self._place.rank}", 1)

    def _watched(self) -> None:
        while not self._leaving.wait(BEAT):
            try:
                self._beat()
                end = self._said(0, self._own)
                if end is None:
                    self._feel_pulses()
            except RuntimeError:
                end = NOBODY
            if end is not None:
                self._end_by_force(end)
                return

    def _feel_pulses(self) -> None:
        """The first process watches all others, and they watch it."""
        now = time.monotonic()
        silent = SUSPECT if self._own.check(["suspect"]) else SILENT
        for rank in range(1, self._place.size) if self._place.first else [0]:
            count = self._own.add(f"pulse/{rank}", 0)
            if self._seen.get(rank, (0, now))[0] != count:
                self._seen[rank] = (count, now)
            elif count and now - self._seen[rank][1] > silent:
                end = End(1, f"process {rank} died or does not answer", self._place.rank, self._place.rank)
                self._own.compare_set("end", "", json.dumps(asdict(end)))

    def _end_by_force(self, end: End) -> None:
        """A process that waits for a dead one inside a library hears nothing: it is ended here."""
        if end.code == 0 or self._leaving.wait(GRACE if self._place.first else GRACE / 4):
            return  # only the first process may have something to save
        with contextlib.suppress(RuntimeError):
            self._own.add("gone", 1)
        if line := end.line(self._place):
            print(f"greg: {line}", file=sys.stderr, flush=True)
        os._exit(end.code)


_joined: Ending | None = None


def join(place: Place) -> Ending:
    """Meet the other processes, once."""
    global _joined
    _joined = _joined or Ending(place)
    return _joined
