"""Everything that can go wrong in a way that a user can do something about.

GregError (exit 1: run time)
├── RequestError (2: the request is wrong by itself or for this network)
├── CheckFailed (3: a gate or check failed, or nothing can be pruned)
├── InputError (4: an input cannot be used)
│   └── TraceError (the network does not run on labels)
├── Lost (1: another process of the run is gone)
└── Interrupted (130 SIGINT, 143 SIGTERM)

A message is one line: what, where, and what to do next. Only `cli.boundary` turns errors into text
and exit codes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


class GregError(Exception):
    """A run-time failure: memory, a full disk, an unwritable target, NaN."""

    exit_code = 1


class RequestError(GregError):
    """Flags, ratios or data that are wrong by themselves or for this network."""

    exit_code = 2


FEW = 9
"""Names that are all said where none is near."""


def nearest(name: str, known: Collection[str]) -> str:
    """What may have been meant, as the end of a message; capitals and a leading dash or two do not count.

    Of few names all are said where none is near, of many those that are the least far; of none nothing.
    """
    plain = {each.lower().lstrip("-"): each for each in known}
    meant = name.lower().lstrip("-")
    near = [meant] if meant in plain else get_close_matches(meant, plain, 3, 0.5)
    if not near and len(known) <= FEW:
        return f"; known: {', '.join(known)}" if known else ""
    return "; nearest: " + ", ".join(plain[each] for each in near or get_close_matches(meant, plain, 3, 0))


def unknown(
    what: str, name: str, known: Collection[str], elsewhere: Mapping[str, Collection[str]] | None = None
) -> RequestError:
    """The error for a name that is not there.

    Args:
        elsewhere: what other places know; a name that is theirs is said to be.
    """
    places = [place for place, names in (elsewhere or {}).items() if name in names]
    return RequestError(f"{what}; it belongs to {', '.join(places)}" if places else what + nearest(name, known))


class CheckFailed(GregError):
    """A gate or check failed, or nothing can be pruned; `report` is what --json still prints."""

    exit_code = 3

    def __init__(self, message: str, report: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report = report


class InputError(GregError):
    """An input that is missing, truncated, too new, of the wrong stage or not ours."""

    exit_code = 4


class TraceError(InputError):
    """The network cannot be run on labels, or cannot run with this input at all."""


class Lost(GregError):
    """Another process of this run cannot be reached any more; `hint` says how to go on."""

    def __init__(self, hint: str) -> None:
        super().__init__(f"the connection to another process of this run broke; {hint}")
        self.hint = hint


class Interrupted(GregError):
    """SIGINT or SIGTERM arrived; `hint` says what was saved and how to go on.

    `agreed` is whether all processes of the run stop at the same step.
    """

    def __init__(self, signal_number: int, hint: str = "", agreed: bool = False) -> None:
        super().__init__("interrupted" + (f"; {hint}" if hint else ""))
        self.agreed = agreed
        self.number = signal_number
        self.exit_code = 128 + signal_number


@contextmanager
def input_fault(what: str) -> Iterator[None]:
    """Whatever breaks in here is the fault of an input: a user's own network, or a damaged file.

    Raises:
        InputError: `what`, and the first line of what was raised. Our own errors pass, and what no input is guilty of.
    """
    try:
        yield
    except GregError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error) or is_lost_connection(error):
            raise
        raise InputError(f"{what} ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line that it says."""
    text = _said(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def _said(error: BaseException) -> str:
    """A user's own exception may fail to say anything."""
    try:
        return str(error)
    except Exception:
        return ""


def is_out_of_memory(error: BaseException) -> bool:
    """torch raises its own class on a device, and a RuntimeError on the CPU."""
    said = _said(error)
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or "can't allocate memory" in said
        or "not enough memory" in said
    )


def is_lost_connection(error: BaseException) -> bool:
    """torch's backends raise RuntimeErrors that name themselves."""
    return isinstance(error, RuntimeError) and any(name in _said(error) for name in ("/gloo/", "NCCL", "TCPStore"))
