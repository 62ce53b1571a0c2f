"""The one place where errors become text and exit codes.

0 done; 1 run time; 2 the request is wrong; 3 a check failed; 4 an input cannot be used; 130 and 143
interrupted. Errors are one line on stderr. Only a bug of ours keeps its traceback.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import TyperException

from greg_compress.errors import GregError, is_out_of_memory

ANSI = re.compile(r"\x1b\[[0-9;]*m")
LONGEST_LINE = 2000


class Boundary(TyperGroup):
    """A Typer group whose `main` ends every way with the right exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False  # typer would print errors its own way
        _open_streams()
        heard = Heard()
        code = _exit_code(lambda: super(Boundary, self).main(*args, **kwargs), heard)
        heard.no_more()
        sys.exit(code)


def _open_streams() -> None:
    """A script may close stdout or stderr (`>&-`); what would go there goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (open for as long as we run)


class Signalled(BaseException):
    """Unwinds the stack; no `except Exception` on the way takes it for an ordinary error."""


class Heard:
    """Remembers which signal arrived, also where a library turns what it raises into an error of its own.

    Hears Ctrl-C even where a script's `&` has told the shell to ignore it.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._hear)

    def no_more(self) -> None:
        """What comes while Python shuts down ends it; nobody is there to catch what a handler raises."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        raise Signalled


def _exit_code(run: Callable[[], Any], heard: Heard) -> int:
    try:
        code = run()
    except GregError as error:
        if heard.number is None:
            return _say(str(error), error.exit_code)
    except TyperException as error:
        return _say(f"{error.format_message()} (see --help)", 2)
    except BaseException as error:  # a user's own file can raise anything
        if heard.number is None:
            return _unexpected(error)
    else:
        return code if isinstance(code, int) else 0
    return _say("interrupted", 128 + heard.number)


def _unexpected(error: BaseException) -> int:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}", 1)
    if is_out_of_memory(error):
        return _say("out of memory; try a smaller --batch-size or network", 1)
    if not isinstance(error, Exception):
        return _say(f"stopped early by {type(error).__name__}: the output was closed, or a file of yours raised it", 1)
    traceback.print_exception(error)
    return _say(f"internal error, please report it with the lines above ({type(error).__name__})", 1)


def _say(text: str, code: int) -> int:
    line = " ".join(ANSI.sub("", text).split())
    line = line if len(line) < LONGEST_LINE else line[:LONGEST_LINE] + "..."
    line = "".join(letter if letter.isprintable() else "?" for letter in line)  # a file may name tensors as it likes
    with contextlib.suppress(OSError):  # a full or closed stderr changes nothing about what happened
        print(f"greg: {line}", file=sys.stderr, flush=True)
    return code
