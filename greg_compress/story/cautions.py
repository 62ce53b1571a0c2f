"""What a reader should not miss: said by the files, or by how they hang together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from greg_compress.story.chains import Chain, told_by
from greg_compress.story.checks import checks
from greg_compress.story.documents import File, Kind
from greg_compress.story.measures import NAMES
from greg_compress.story.values import at, entries, interval, number, text

MOST_NAMED = 12


@dataclass(frozen=True)
class Caution:
    """One warning."""

    what: str
    """Two or three words."""
    said: str
    items: list[tuple[str, str]] = field(default_factory=list)
    """Of a longer one: names, and what holds for each."""


def cautions(chain: Chain) -> list[Caution]:
    """All of them, the gravest first."""
    return [
        *_strangers(chain),
        *_failed(chain),
        *_untrained(chain),
        *_unfinished(chain),
        *_timing(chain),
        *_unaligned(chain),
        *_unchecked(chain),
        *_frozen(chain),
    ]


def _strangers(chain: Chain) -> Iterator[Caution]:
    if len(chain.parts) > 1:
        items = [(f"run {number}", ", ".join(file.name for file in part)) for number, part in enumerate(chain.parts, 1)]
        what = "no digest connects them, so that figures below may be of different networks"
        yield Caution("Files of several runs", f"These files do not belong to one chain: {what}.", items)


def _failed(chain: Chain) -> Iterator[Caution]:
    for check in checks(chain):
        if check.passed is False:
            yield Caution("Check failed", f"{check.what}: {check.said} ({check.by}).")
    for file in chain.files:
        if file.said.get("passed") is False:
            yield Caution("Command failed", f"{text(file.said, 'reason') or 'a check failed'} ({file.name}).")


def _untrained(chain: Chain) -> Iterator[Caution]:
    made = [(file, entry) for file in chain.tellers for entry in told_by(file)]
    made += [(file, file.said["made_by"]) for file in chain.files if at(file.said, "made_by") is not None]
    for file, entry in made:
        if at(entry, "input", "untrained") is True:
            name = text(entry, "input", "model") or "what it read"
            yield Caution("No trained weights", f"{entry.get('command')}: {name} had no trained weights ({file.name}).")


def _unfinished(chain: Chain) -> Iterator[Caution]:
    for file in chain.files:
        if file.state is not None and file.state.run is not None:
            done = number(file.state.run, "loop", "iteration")
            after = "" if done is None else f", after {done:,} iterations"
            yield Caution("Unfinished", f"{file.name} holds unfinished work{after}.")
    for file in chain.of(Kind.UNFINISHED):
        yield Caution("Unfinished", f"greg run has not finished the step {text(file.said, 'step')} ({file.name}).")


def _timing(chain: Chain) -> Iterator[Caution]:
    for file in chain.of(Kind.EXPORTED):
        noisy = [
            f"{name} varies by {100 * (number(file.said, key, 'cov') or 0):.1f} %"
            for key, name in NAMES.items()
            if at(file.said, key, "noisy") is True
        ]
        if noisy:
            sure = "the intervals say what can be claimed; a quiet machine says more"
            yield Caution("Noisy timing", f"{file.name}: {' and '.join(noisy)}; {sure}.")
        yield from _no_faster(file)
    for file in chain.of(Kind.COMPRESSED):
        if file.said.get("noisy") is True:
            yield Caution("Noisy timing", f"{file.name}: a quieter machine says more.")
        if at(file.said, "target", "met") is False:
            missed = text(file.said, "target", "text") or "what was asked for in time"
            yield Caution("Target missed", f"The exported file misses {missed} ({file.name}).")


def _no_faster(file: File) -> Iterator[Caution]:
    sure = interval(file.said, "speedup_interval")
    if sure is not None and sure[0] <= 1 <= sure[1]:
        ends = f"{sure[0]:.2f}x to {sure[1]:.2f}x"
        yield Caution("No faster, as far as measured", f"The speedup lies within {ends} ({file.name}).")


def _unaligned(chain: Chain) -> Iterator[Caution]:
    for file in chain.of(Kind.EXPORTED):
        if (hint := text(file.said, "alignment", "hint")) is not None:
            yield Caution("Unaligned layers", f"{hint} ({file.name}).")


def _unchecked(chain: Chain) -> Iterator[Caution]:
    for entry in chain.history:
        names = at(entry, "metrics", "self_check", "unchecked")
        if isinstance(names, list) and names:
            said = (
                "Of these layers masked and sliced outputs cannot be compared: a normalisation over channels follows."
            )
            yield Caution("Not checkable", said, _named([str(name) for name in names]))


def _frozen(chain: Chain) -> Iterator[Caution]:
    for file in chain.of(Kind.ANALYZED):
        reasons: dict[str, list[str]] = {}
        for layer in entries(file.said, "layers"):
            if (reason := text(layer, "reason")) is not None:
                reasons.setdefault(reason, []).append(text(layer, "name") or "?")
        if reasons:
            items = [(", ".join(_short(names)), reason) for reason, names in reasons.items()]
            yield Caution("Layers that stay", f"These keep all their channels, or some of them ({file.name}):", items)


def _named(names: list[Any]) -> list[tuple[str, str]]:
    return [(name, "") for name in _short(names)]


def _short(names: list[str]) -> list[str]:
    more = len(names) - MOST_NAMED
    return [*names[:MOST_NAMED], *([f"{more} more"] if more > 0 else [])]
