"""Words that a caller gives as texts."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from greg_compress.errors import RequestError

Word = TypeVar("Word", bound=StrEnum)


def one_of(kind: type[Word], name: str, text: str) -> Word:
    """The member of `kind` that a text names.

    Raises:
        RequestError: none; the message lists them.
    """
    try:
        return kind(text)
    except ValueError:
        raise RequestError(f"{name} {str(text)[:40]!r}: write {', '.join(kind)}") from None
