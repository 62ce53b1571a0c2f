"""A recipe's file, from what it is to say."""

from __future__ import annotations

import json
from collections.abc import Mapping

from greg_compress.errors import RequestError
from greg_compress.recipes.recipe import PLACE, Option


def written(
    comment: str,
    values: Mapping[str, Option],
    steps: Mapping[str, Mapping[str, Option]],
    results: Mapping[str, str],
) -> str:
    """Return the TOML of a recipe.

    Args:
        comment: stands at the top, a line each.
        values: what steps put in by its name in braces.
        steps: `command` and options of each.
        results: name -> figure.
    """
    tables = [("[values]", values), *((f"[steps.{name}]", step) for name, step in steps.items())]
    tables += [("[[results]]", {"name": name, "figure": figure}) for name, figure in results.items()]
    blocks = ["".join(f"# {line}\n" for line in comment.splitlines())]
    blocks += [
        f"{head}\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in body.items()) for head, body in tables
    ]
    return "\n".join(blocks)


def require_plain(text: str) -> None:
    """Raise RequestError for a text that a recipe would not take as it stands."""
    if (place := PLACE.search(text)) is not None:
        raise RequestError(f"{text[:200]}: {place[0]} has a meaning in recipes; choose a name without braces")
    if not text.isprintable():
        raise RequestError(f"{text[:200]!r} cannot be written in a recipe; choose a name that can be printed")


def _toml(value: Option) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # the same escapes, as long as all of it can be printed
    return json.dumps(value)
