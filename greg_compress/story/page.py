"""The story as one HTML page that fetches nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from greg_compress.story.told import Story

TEMPLATE = "page.html.j2"
WAYS: dict[str, Callable[[Any], str]] = {
    "count": lambda value: f"{value:,}",
    "ms": lambda value: f"{value:.3f}",
    "percent": lambda value: f"{value:.2f} %",
    "share": lambda value: f"{100 * value:.1f} %",
    "times": lambda value: f"{value:.2f}x",
    "plain": lambda value: f"{value:.6g}",
}
"""How figures are written."""


def page(story: Story) -> str:
    """Fill the template."""
    environment = Environment(
        loader=PackageLoader("greg_compress.story", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_readable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["written"] = lambda value, how: WAYS[how](value)
    environment.filters["drawn"] = lambda drawing: Markup(drawing.svg)  # an XML writer wrote it
    return environment.get_template(TEMPLATE).render(story=story)


def _readable(value: Any) -> Any:
    """Names as their author likes, but for what HTML forbids or what would turn the order of letters around."""
    if type(value) is not str:  # Markup is ours
        return value
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in value
    )
