"""Specs as text: `torchvision:NAME`, `FILE.py:CALLABLE`, `digits`, `fashion-mnist:ROOT`.

No torch here: what is wrong with the text alone is said at once.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from greg_compress.errors import InputError, RequestError

ArchArg = bool | int | float | str


@dataclass(frozen=True)
class Architecture:
    """Where a network comes from: everything that is needed to build it again."""

    spec: str
    kwargs: dict[str, ArchArg] = field(default_factory=dict)
    sha256: str | None = None
    """Digest of FILE.py; None for a library's network."""

    def check(self) -> None:
        """Raise ValueError unless the fields are what they say; a state file may hold anything."""
        texts = (self.spec, "" if self.sha256 is None else self.sha256)
        if not all(isinstance(text, str) and "\0" not in text and len(text) < 4096 for text in texts):
            raise ValueError("impossible architecture")
        if not isinstance(self.kwargs, dict) or not all(isinstance(key, str) for key in self.kwargs):
            raise ValueError("impossible arguments of the architecture")

    @property
    def source(self) -> str:
        """`torchvision`, or the path of a FILE.py."""
        return self.spec.rpartition(":")[0]

    @property
    def name(self) -> str:
        return self.spec.rpartition(":")[2]


def is_architecture(text: str) -> bool:
    """Whether a MODEL argument is a spec rather than a file's path."""
    source, colon, name = text.rpartition(":")
    return bool(colon and name) and (source == "torchvision" or source.endswith(".py"))


def parse_architecture(text: str, arguments: Sequence[str] = ()) -> Architecture:
    """Read an architecture spec and its `key=value` arguments.

    Raises:
        RequestError: neither of the two kinds, or an argument without `=`.
        InputError: FILE.py is missing.
    """
    if not is_architecture(text):
        raise RequestError(f"{text!r} is no architecture; write torchvision:NAME or FILE.py:CALLABLE")
    architecture = Architecture(text, dict(_argument(argument) for argument in arguments))
    if architecture.source != "torchvision" and not Path(architecture.source).is_file():
        raise InputError(f"{architecture.source} is not a file; it should define {architecture.name}")
    return architecture


def _argument(text: str) -> tuple[str, ArchArg]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise RequestError(f"--arch-arg {text}: write key=value, like num_classes=100")
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        parsed = value
    if not isinstance(parsed, (bool, int, float, str)):
        raise RequestError(f"--arch-arg {text}: the value must be a number, true/false or a word")
    return key, parsed


def parse_input_shape(text: str) -> tuple[int, ...]:
    """Read `C,H,W`.

    Raises:
        RequestError: not positive integers.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 8 and int(part) > 0 for part in parts):
        raise RequestError(f"--input-shape {text}: write positive numbers like 3,224,224")
    return tuple(int(part) for part in parts)


@dataclass(frozen=True)
class DataSpec:
    """A data set's kind, and the folder that holds it."""

    kind: str
    root: str | None

    def __str__(self) -> str:
        return self.kind if self.root is None else f"{self.kind}:{self.root}"


def parse_data(text: str) -> DataSpec:
    """Read `digits` or `fashion-mnist[:ROOT]` (ROOT is ./data when left out).

    Raises:
        RequestError: an unknown kind.
    """
    kind, _, root = text.partition(":")
    if kind == "digits" and not root:
        return DataSpec(kind, None)
    if kind == "fashion-mnist":
        return DataSpec(kind, root or "data")
    raise RequestError(f"--data {text}: unknown; write digits or fashion-mnist:ROOT")
