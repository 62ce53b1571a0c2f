"""A recipe's file, from what it is to say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from greg_compress.errors import RequestError
from greg_compress.recipes.recipe import PLACE, Option

HEAD = "# sha256 of what follows, as it was written: "


def written(
    comment: str,
    values: Mapping[str, Option],
    steps: Mapping[str, Mapping[str, Option]],
    results: Mapping[str, str],
) -> str:
    """Return the TOML of a recipe.

    Args:
        comment: a line at the top.
        values: what steps put in by its name in braces.
        steps: `command` and options of each.
        results: name -> figure.
    """
    tables = [("[values]", values), *((f"[steps.{name}]", step) for name, step in steps.items())]
    tables += [("[[results]]", {"name": name, "figure": figure}) for name, figure in results.items()]
    blocks = [
        f"{head}\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in body.items()) for head, body in tables
    ]
    body = "\n".join(blocks)
    return f"# {comment}\n{HEAD}{_digest(body)}\n\n{body}"


def is_untouched(text: str) -> bool:
    """Whether a recipe still says what :func:`written` made it say."""
    head, _, body = text.partition("\n\n")
    return head.endswith(f"\n{HEAD}{_digest(body)}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
