"""Which files belong together: those that a digest connects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greg_compress.deploy.metadata import HISTORY, history_digest
from greg_compress.state.format import State
from greg_compress.story.documents import File, Kind
from greg_compress.story.values import at, text

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Chain:
    """Files, and how they hang together."""

    files: Sequence[File]
    parts: Sequence[Sequence[File]]
    """Those that digests connect; files that name no digest at all stand in none."""

    @property
    def main(self) -> File | None:
        """The state that tells the longest story; of equals the first."""
        states = [file for file in self.files if file.state is not None]
        return max(states, key=lambda file: len(told_by(file)), default=None)

    @property
    def state(self) -> State | None:
        return None if self.main is None else self.main.state

    @property
    def history(self) -> list[Entry]:
        """Of the main state."""
        return [] if self.main is None else told_by(self.main)

    @property
    def tellers(self) -> list[File]:
        """States whose history is not the beginning of another one's; the main one first."""
        states = sorted((file for file in self.files if file.state), key=lambda file: -len(told_by(file)))
        found: list[File] = []
        for file in states:
            own = told_by(file)
            if own and not any(told_by(other)[: len(own)] == own for other in found):
                found.append(file)
        return found

    def of(self, *kinds: Kind) -> list[File]:
        return [file for file in self.files if file.kind in kinds]

    def connected(self, file: File) -> bool:
        """Whether a file belongs to the main state's run, as far as anything tells; all do where there is no state."""
        return self.main is None or not any(file in part and self.main not in part for part in self.parts)


def chained(files: Sequence[File]) -> Chain:
    """Find what belongs together."""
    parts: list[tuple[set[str], list[File]]] = []
    for file in files:
        keys = set(_digests(file))
        if not keys:
            continue
        touched = [part for part in parts if part[0] & keys]
        parts = [part for part in parts if not part[0] & keys]
        together = [each for part in touched for each in part[1]]
        parts.append((keys.union(*(part[0] for part in touched)), [*together, file]))
    return Chain(files, [[file for file in files if file in part] for _, part in parts])


def told_by(file: File) -> list[Entry]:
    """A state's history, and the command whose work is unfinished."""
    if file.state is None:
        return []
    run = file.state.run
    begun = (
        [] if run is None else [{**run, "input": {"model": at(run, "options", "model"), "sha256": at(run, "digest")}}]
    )
    return [*file.state.history, *begun]


def _digests(file: File) -> Iterator[str]:
    """Of the file itself, of what it was made of, and of what it speaks of."""
    if file.state is not None:
        yield file.sha256
        if file.state.history:
            yield _history(history_digest(file.state.history))
        for entry in told_by(file):
            yield from _read_by(entry)
    elif file.kind is Kind.ONNX:
        yield file.sha256
        if (known := text(file.said, HISTORY)) is not None:
            yield _history(known)
    elif file.kind in (Kind.EXPORTED, Kind.PROGRAM, Kind.EVALUATED):
        if (made := text(file.said, "identity", "sha256")) is not None:
            yield made
        yield from _read_by(at(file.said, "made_by"))


def _read_by(entry: Any) -> Iterator[str]:
    for keys in (("input", "sha256"), ("options", "teacher_sha256"), ("options", "plan", "sha256")):
        if (found := text(entry, *keys)) is not None:
            yield found


def _history(digest: str) -> str:
    return f"history {digest}"
