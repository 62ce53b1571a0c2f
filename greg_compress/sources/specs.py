"""Specs as text: `torchvision:NAME[@WEIGHTS]`, `FILE.py:CALLABLE`, `digits`, `cifar10:ROOT`.

No torch here: what is wrong with the text alone is said at once.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from greg_compress.errors import InputError, RequestError

ArchArg = bool | int | float | str
TORCHVISION, PICKLE = "torchvision", "pickle"
OFFICIAL_ONLY = {"weights", "weights_backbone", "pretrained", "pretrained_backbone", "progress"}
"""Arguments by which torchvision would fetch and unpickle a file."""


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
        if not all(isinstance(text, str) and text.isprintable() and len(text) < 4096 for text in texts):
            raise ValueError("impossible architecture")
        known = self.source in (TORCHVISION, PICKLE) or self.source.endswith(".py")
        if not known or not self.name or (self.source != TORCHVISION and self.sha256 is None):
            raise ValueError(f"{self.spec!r} is no architecture")
        arguments = self.kwargs if isinstance(self.kwargs, dict) else {"": None}
        if not all(
            isinstance(key, str) and key.isidentifier() and isinstance(value, ArchArg)
            for key, value in arguments.items()
        ) or (self.source == TORCHVISION and arguments.keys() & OFFICIAL_ONLY):
            raise ValueError("impossible arguments of the architecture")

    @property
    def source(self) -> str:
        """`torchvision`, the path of a FILE.py, or `pickle`."""
        return self._parts[0]

    @property
    def name(self) -> str:
        """The network's name or callable; the file of a pickled module."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str, str]:
        found = self.spec.partition(":") if self.spec.startswith(f"{PICKLE}:") else self.spec.rpartition(":")
        return found[0], found[2]

    @property
    def has_weights(self) -> bool:
        """Whether it names official weights."""
        return self.source == TORCHVISION and "@" in self.name


def is_architecture(text: str) -> bool:
    """Whether a MODEL argument is a spec rather than a file's path."""
    source, colon, name = text.rpartition(":")
    return bool(colon and name) and (source == TORCHVISION or source.endswith(".py"))


def parse_architecture(text: str, arguments: Sequence[str] = ()) -> Architecture:
    """Read an architecture spec and its `key=value` arguments.

    Raises:
        RequestError: neither of the two kinds, or an argument without `=`.
        InputError: FILE.py is missing.
    """
    if not is_architecture(text):
        raise RequestError(f"{text!r} is no architecture; write torchvision:NAME or FILE.py:CALLABLE")
    architecture = Architecture(text, dict(_argument(argument) for argument in arguments))
    if architecture.source != TORCHVISION:
        if not Path(architecture.source).is_file():
            raise InputError(f"{architecture.source} is not a file; it should define {architecture.name}")
    elif forbidden := sorted(architecture.kwargs.keys() & OFFICIAL_ONLY):
        raise RequestError(f"--arch-arg {forbidden[0]}: write torchvision:NAME@WEIGHTS for official weights")
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
    """A data set's kind and the folder that holds it, or a FILE.py and what it defines."""

    kind: str
    root: str | None

    @property
    def is_file(self) -> bool:
        return self.kind not in DATA_KINDS

    def __str__(self) -> str:
        return self.kind if self.root is None else f"{self.kind}:{self.root}"


DATA_KINDS = {"digits": None, "fashion-mnist": "data", "cifar10": "data", "cifar100": "data", "imagefolder": ""}
"""Kind -> where its files lie when the spec does not say: None for nowhere, empty for no default."""


def parse_data(text: str) -> DataSpec:
    """Read `digits`, `fashion-mnist[:ROOT]`, `cifar10[:ROOT]`, `cifar100[:ROOT]` (ROOT is ./data when left out),
    `imagefolder:ROOT` or `FILE.py:CALLABLE`.

    Raises:
        RequestError: an unknown kind.
        InputError: FILE.py is missing.
    """
    kind, _, root = text.partition(":")
    if kind in DATA_KINDS:
        default = DATA_KINDS[kind]
        if default is None and not root:
            return DataSpec(kind, None)
        if default is not None and (root or default):
            return DataSpec(kind, root or default)
    source, colon, name = text.rpartition(":")
    if colon and name and source.endswith(".py"):
        if not Path(source).is_file():
            raise InputError(f"{source} is not a file; it should define {name}")
        return DataSpec(source, name)
    raise RequestError(
        f"--data {text}: unknown; write digits, fashion-mnist:ROOT, cifar10:ROOT, cifar100:ROOT, imagefolder:ROOT or"
        " FILE.py:CALLABLE"
    )
