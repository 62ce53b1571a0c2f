"""The page's pictures, each with what it shows in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from greg_compress.errors import input_fault
from greg_compress.figures.inline import inline
from greg_compress.figures.kept import Kept, Layer
from greg_compress.figures.latency import LOOKS, Latencies, Runs
from greg_compress.figures.page import Picture
from greg_compress.options.plotting import Figure
from greg_compress.story.chains import Chain
from greg_compress.story.documents import Kind
from greg_compress.story.measures import Timing
from greg_compress.story.pictures import pictures
from greg_compress.story.values import at, entries, number, text

MOST_LAYERS = 4000
WORDS = {
    Figure.ACCURACY: (
        "Accuracy and loss over the chain",
        "Above: top-1 of the training images over the iterations of all commands together, of held-out ones where there"
        " are any, and diamonds for the test images before and after each command. Below: the training loss.",
    ),
    Figure.KEPT: (
        "Channels kept of each layer",
        "Each bar is a group of channels that go together: all of it, and what is kept.",
    ),
    Figure.PENALTY: (
        "The growing penalty",
        "Left: the penalty λ. Right: how many times larger kept filters are than picked ones, in the layer where it is"
        " least.",
    ),
    Figure.SEPARATION: (
        "Filters separate as λ grows",
        "Standard deviation of each layer's filter norms over their mean (the paper's Figure 1): the further the norms"
        " are apart, the larger.",
    ),
    Figure.NORMS: (
        "Filter norms of one layer",
        "Each point is a filter, the largest first; from panel to panel the penalty grows.",
    ),
}
NO_STATE = "no state file is among the files"


@dataclass(frozen=True)
class Drawing:
    """A picture that can stand in the page."""

    svg: str
    title: str
    caption: str


@dataclass(frozen=True)
class Share:
    """What is kept of a group."""

    name: str
    channels: int
    kept: int
    asked: int | None
    """Before it was rounded."""


@dataclass(frozen=True)
class Plan:
    """What is kept of all groups; of single weights instead of channels where there is no shape to cut."""

    unit: str
    shares: Sequence[Share]
    by: str

    @property
    def totals(self) -> tuple[int, int]:
        return sum(share.kept for share in self.shares), sum(share.channels for share in self.shares)


def drawings(chain: Chain) -> tuple[dict[Figure, Drawing], dict[Figure, str]]:
    """What the main state's log can draw, and why the rest cannot be drawn."""
    if chain.main is None or chain.state is None:
        missing = dict.fromkeys(Figure, NO_STATE)
        found: dict[Figure, Picture] = {}
    else:
        with input_fault(f"{chain.main.name} is damaged"):
            found, missing = pictures(chain.state, None)
    if Figure.KEPT not in found and (plan := planned(chain)) is not None and plan.unit == "channels":
        found[Figure.KEPT] = Kept([Layer(share.name, share.channels, share.kept) for share in plan.shares])
        missing.pop(Figure.KEPT, None)
    return {name: _drawing(str(name), picture, *WORDS[name]) for name, picture in found.items()}, missing


def latencies(timings: Sequence[Timing]) -> list[Drawing | None]:
    """The distribution of each `greg export`'s timed runs; None where its document has none."""
    return [_latency(f"latency{number}", timing) for number, timing in enumerate(timings)]


def _latency(name: str, timing: Timing) -> Drawing | None:
    files = [
        Runs(row.name, row.quantiles, float(p50), row.sure)
        for row in timing.rows
        if row.quantiles and (p50 := number(row.said, "p50_ms")) is not None
    ]
    if not files:
        return None
    caption = "The share of the timed runs that were done within a time; the slowest 2.5 % lie further right."
    return _drawing(name, Latencies(files[: len(LOOKS)]), "Distribution of the timed runs", caption)


def _drawing(name: str, picture: Picture, title: str, caption: str) -> Drawing:
    return Drawing(inline(picture, f"figure-{name}", f"{title}. {caption}"), title, caption)


def planned(chain: Chain) -> Plan | None:
    """Group by group what is kept: a state's plan, or what `greg prune` printed."""
    if chain.main is not None and chain.state is not None and chain.state.plan:
        return _plan(chain.state.plan, chain.main.name)
    for file in chain.of(Kind.PRUNED):
        groups = {text(group, "name") or "?": group for group in entries(file.said, "groups")}
        return _plan(groups, file.name)
    return None


def _plan(plan: Mapping[str, object], by: str) -> Plan | None:
    """None where it is damaged or empty."""
    unit = "weights" if any(at(share, "weights") is not None for share in plan.values()) else "channels"
    shares = []
    for name, share in list(plan.items())[:MOST_LAYERS]:
        all_of, kept, asked = (_count(share, key) for key in (unit, "kept", "asked"))
        if all_of is not None and kept is not None:
            shares.append(Share(text({"": name}, "") or "?", all_of, kept, asked))
    return Plan(unit, shares, by) if shares else None


def _count(value: object, key: str) -> int | None:
    found = number(value, key)
    return found if isinstance(found, int) and found >= 0 else None
