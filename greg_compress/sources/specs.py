"""Specs as text: `torchvision:NAME[@WEIGHTS][/PART]`, `timm:NAME[/PART]`, `FILE.py:CALLABLE`, `digits`, `cifar10:ROOT`.

No torch here: what is wrong with the text alone is said at once.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from greg_compress.errors import InputError, RequestError, unknown

ArchArg = bool | int | float | str
TORCHVISION, TIMM, PICKLE = "torchvision", "timm", "pickle"
LIBRARIES = (TORCHVISION, TIMM)
FETCHING = {
    TORCHVISION: re.compile("weights|weights_backbone|pretrained|pretrained_backbone|progress"),
    TIMM: re.compile("pretrained.*|checkpoint_path|cache_dir"),
}
"""Arguments by which a library would fetch or read a file, and unpickle it."""


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
        known = self.source in (*LIBRARIES, PICKLE) or self.source.endswith(".py")
        if not known or not self.name or (self.source not in LIBRARIES and self.sha256 is None):
            raise ValueError(f"{self.spec!r} is no architecture")
        arguments = self.kwargs if isinstance(self.kwargs, dict) else {"": None}
        if (
            not all(
                isinstance(key, str) and key.isidentifier() and isinstance(value, ArchArg)
                for key, value in arguments.items()
            )
            or self.fetching()
        ):
            raise ValueError("impossible arguments of the architecture")

    @property
    def source(self) -> str:
        """`torchvision`, `timm`, the path of a FILE.py, or `pickle`."""
        return self._parts[0]

    @property
    def name(self) -> str:
        """The network's name (and weights) or callable; the file of a pickled module."""
        return self._parts[1]

    @property
    def part(self) -> str:
        """The submodule of a library's network that is the network here; empty for all of it."""
        return self._parts[2]

    @property
    def _parts(self) -> tuple[str, str, str]:
        source, _, name = self.spec.partition(":")
        if source in LIBRARIES:
            whole, _, part = name.partition("/")
            return (source, whole, part) if part else (source, name, "")
        if source != PICKLE:
            source, _, name = self.spec.rpartition(":")
        return source, name, ""

    def fetching(self) -> list[str]:
        """Those of the arguments by which a library would fetch or read a file."""
        pattern = FETCHING.get(self.source)
        return [key for key in self.kwargs if pattern and pattern.fullmatch(key)]

    @property
    def has_weights(self) -> bool:
        """Whether it names official weights."""
        return self.source == TORCHVISION and "@" in self.name


def is_onnx(name: str) -> bool:
    """Whether a MODEL is an ONNX file: by its name, since nothing at the beginning of such a file tells it."""
    return Path(name).suffix.lower() == ".onnx"


def is_architecture(text: str) -> bool:
    """Whether a MODEL argument is a spec rather than a file's path."""
    named = Architecture(text)
    return bool(named.name) and (named.source in LIBRARIES or named.source.endswith(".py"))


def refuse_misspelt(text: str) -> None:
    """Refuse what is nearly an architecture.

    Raises:
        RequestError: it lacks a name, or names almost a library.
    """
    source, colon, name = text.partition(":")
    if not name and (source in LIBRARIES or source.endswith(".py")):
        raise RequestError(f"{text} names no network; write {source}:{'NAME' if source in LIBRARIES else 'CALLABLE'}")
    if colon and get_close_matches(source.lower(), LIBRARIES, 1):
        raise unknown(f"{text} is no architecture", source, LIBRARIES)


def parse_architecture(text: str, arguments: Sequence[str] = ()) -> Architecture:
    """Read an architecture spec and its `key=value` arguments.

    Raises:
        RequestError: none of the three kinds, an argument without `=`, or one that would make a library fetch weights.
        InputError: FILE.py is missing.
    """
    if not is_architecture(text):
        refuse_misspelt(text)
        raise RequestError(f"{text!r} is no architecture; write torchvision:NAME, timm:NAME or FILE.py:CALLABLE")
    architecture = Architecture(text, dict(_argument(argument) for argument in arguments))
    if architecture.source not in LIBRARIES and not Path(architecture.source).is_file():
        raise InputError(f"{architecture.source} is not a file; it should define {architecture.name}")
    if fetching := architecture.fetching():
        other = f"timm's weights are never fetched; {OWN_FILE} timm:NAME"
        official = "write torchvision:NAME@WEIGHTS for official weights"
        raise RequestError(f"--arch-arg {fetching[0]}: {official if architecture.source == TORCHVISION else other}")
    if architecture.source == TIMM:
        _require_plain(architecture)
    return architecture


OWN_FILE = "download their file yourself and give it as MODEL, with --arch"


def _require_plain(architecture: Architecture) -> None:
    """Refuse what timm's own names can say about weights. To leave a tag out without a word would build a network
    without the weights that its user believes to have."""
    whole = architecture.spec.removeprefix(f"{TIMM}:")
    if ":" in whole:
        raise RequestError(f"{architecture.spec} names files that timm would fetch or read; {OWN_FILE} timm:NAME")
    name, dot, tag = architecture.name.partition(".")
    if dot:
        raise RequestError(
            f"{architecture.spec}: the tag {tag!r} only names weights, which are never fetched; write timm:{name}, or"
            f" {OWN_FILE} timm:{name}"
        )


TRUTH = {"true": True, "false": False}
"""As JSON and TOML write them; Python's own spelling is read, too."""


def _argument(text: str) -> tuple[str, ArchArg]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise RequestError(f"--arch-arg {text}: write key=value, like num_classes=100")
    try:
        parsed = TRUTH[value] if value in TRUTH else ast.literal_eval(value)
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
    if kind in DATA_KINDS:
        how = "has no ROOT; write digits" if root else "needs its folder; write imagefolder:ROOT"
        raise RequestError(f"--data {text}: {kind} {how}")
    if text.endswith(".py"):
        raise RequestError(f"--data {text}: say what it defines, {text}:CALLABLE")
    raise unknown(f"--data {text[:80]}: unknown", kind[:80], [*DATA_KINDS, "FILE.py:CALLABLE"])
