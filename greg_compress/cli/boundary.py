"""The one place where errors become text and exit codes.

0 done; 1 run time; 2 the request is wrong; 3 a check failed; 4 an input cannot be used; 129, 130 and 143
interrupted. Errors are one line on stderr. A bug of ours leaves its traceback in a file, which the line names.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from typer.core import TyperGroup
from typer.exceptions import TyperException

from greg_compress.cli import crash, usage
from greg_compress.cli.words import printable
from greg_compress.errors import GregError, Interrupted, Lost, first_line, is_out_of_memory
from greg_compress.processes.place import Place, place
from greg_compress.processes.stops import stops

ANSI = re.compile(r"\x1b\[[0-9;]*m")
LONGEST_LINE = 2000
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EPIPE)
COMPLETES = "_GREG_COMPLETE"
"""Where a shell says that it only asks for completion, with typer's protocol."""
AGAIN = 2.0
"""Seconds in which a signal ends a command, unless what it raises is lost."""


class Boundary(TyperGroup):
    """A Typer group whose `main` ends every way with the right exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if COMPLETES in os.environ:
            return super().main(*args, **kwargs)  # a shell asks what could stand here; it ends by itself
        kwargs["standalone_mode"] = False  # typer would print errors its own way
        _open_streams()
        _require_folder()
        if "WORLD_SIZE" in os.environ:
            # torch warns from C++ about what is meant so (DistributedDataParallel looks for unused parameters)
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        heard = Heard()
        try:
            heard.listen()
            outcome = self._ended(heard, *args, **kwargs)
            _say(outcome.text)
            heard.no_more()
            code = outcome.code
        except Signalled:  # before the command began, or after its end
            heard.caught()
            heard.no_more()
            code = 128 + (heard.number or signal.SIGINT)
            _say("interrupted")
        sys.exit(code)

    def _ended(self, heard: Heard, *args: Any, **kwargs: Any) -> Outcome:
        with _threads_watched() as crashes:
            outcome = _outcome(lambda: super(Boundary, self).main(*args, **kwargs), heard, self.commands)
        if crashes:
            outcome = Outcome(outcome.code or 1, "; ".join([outcome.text, *crashes][not outcome.text :]), outcome.error)
        try:
            here = place()
        except GregError:
            here = Place()  # which is what the outcome says
        if here.alone:
            return outcome
        heard.nothing()
        return _together(here, outcome)


class Outcome(NamedTuple):
    """How a command ended: exit code, what there is to say, and the error behind it."""

    code: int
    text: str = ""
    error: BaseException | None = None


def _together(here: Place, own: Outcome) -> Outcome:
    """The end of several processes: as the first one says that has to say something."""
    from greg_compress.processes import ending

    patience = 0.0
    if isinstance(own.error, Lost):
        patience = ending.SEARCH
    elif not here.first and (own.error is None or (isinstance(own.error, Interrupted) and own.error.agreed)):
        patience = ending.LONGEST_SAVE  # the first process still writes
    try:
        met = ending.join(here)
    except (RuntimeError, ValueError) as error:
        return own if own.code else Outcome(1, f"the other processes cannot be reached ({first_line(error)})")
    if isinstance(own.error, Lost):
        met.suspect()
    found = met.agreed(ending.End(own.code, own.text, here.rank), patience)
    line = found.line(here, own.text)
    if isinstance(own.error, Lost) and line not in ("", own.text):
        return Outcome(found.code, f"{line}; {own.error.hint}")
    both = all(text.startswith(crash.INTERNAL) for text in (own.text, found.text))  # each has its own file
    if here.first and own.code and (own.code, own.text) != (found.code, found.text) and not both:
        _say(own.text)
    return Outcome(found.code, line)


@contextlib.contextmanager
def _threads_watched() -> Iterator[list[str]]:
    """What there is to say of exceptions that nobody catches in threads."""
    crashes: list[str] = []

    def crashed(thread: threading.ExceptHookArgs) -> None:
        if thread.exc_value is not None:
            crashes.append(crash.reported(thread.exc_value))

    before, threading.excepthook = threading.excepthook, crashed
    try:
        yield crashes
    finally:
        threading.excepthook = before


def _open_streams() -> None:
    """A script may close stdout or stderr (`>&-`); what would go there goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (open for as long as we run)


def _require_folder() -> None:
    """Where the current folder is gone, libraries end the process in ways of their own."""
    try:
        Path.cwd()
    except OSError as error:
        _say(f"the current folder cannot be used ({error.strerror}); go to another one")
        sys.exit(1)


class Signalled(BaseException):
    """Unwinds the stack; no `except Exception` on the way takes it for an ordinary error."""


class Heard:
    """Remembers which signal arrived, also where a library turns what it raises into an error of its own.

    Hears Ctrl-C even where a script's `&` has told the shell to ignore it.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in stops():
                signal.signal(number, self._hear)

    def no_more(self) -> None:
        """What comes while Python shuts down ends it; nobody is there to catch what a handler raises."""
        if threading.current_thread() is threading.main_thread():
            for number in stops():
                signal.signal(number, signal.SIG_DFL)

    def nothing(self) -> None:
        """Signals change nothing any more: how it ends is said already."""
        for number in stops():
            signal.signal(number, signal.SIG_IGN)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        # What is raised in a destructor or a callback of the import system is lost: it is raised once more.
        signal.signal(signal.SIGALRM, self._hear_again)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
        raise Signalled

    def _hear_again(self, _number: int, _frame: FrameType | None) -> None:
        raise Signalled

    def caught(self) -> None:
        """What was raised has arrived."""
        if self.number is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _outcome(run: Callable[[], Any], heard: Heard, commands: Mapping[str, Any]) -> Outcome:
    try:
        code = run()
    except BaseException as error:  # a user's own file can raise anything
        heard.caught()
        if isinstance(error, SystemExit) and not error.code and _raised_in(error) == "typer.completion":
            return Outcome(0)  # --show-completion and --install-completion end so
        if isinstance(error, TyperException):
            return Outcome(2, usage.explained(error, commands), error)
        if heard.number is not None:
            return Outcome(128 + heard.number, "; ".join(["interrupted", *getattr(error, "__notes__", ())]), error)
        if isinstance(error, GregError):
            return Outcome(error.exit_code, str(error), error)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return Outcome(2, f"{str(error.filename)[:80]}... is longer than the name of any file can be", error)
        return Outcome(1, _unexpected(error), error)
    if code == 128 + signal.SIGINT and heard.number is None:
        return Outcome(1, "stopped early by KeyboardInterrupt, which a file of yours raised")
    return Outcome(code if isinstance(code, int) else 0)


def _raised_in(error: BaseException) -> str:
    """The module that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))


def _unexpected(error: BaseException) -> str:
    if isinstance(error, OSError):
        said = error.strerror or str(error)
        if error.filename is None and error.errno in UNWRITABLE:
            return f"the output cannot be written ({said})"
        return f"{error.filename}: {said}" if error.filename else said
    if is_out_of_memory(error):
        return "out of memory; try a smaller --batch-size or network"
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):  # the library's way
        return "the output was closed before all of it was written"
    if not isinstance(error, Exception):
        return f"stopped early by {type(error).__name__}, which a file of yours raised"
    return crash.reported(error)


def _say(text: str) -> None:
    line = " ".join(ANSI.sub("", text).split())
    line = line if len(line) < LONGEST_LINE else line[:LONGEST_LINE] + "..."
    line = printable(line)
    if line:
        with contextlib.suppress(OSError):  # a full or closed stderr changes nothing about what happened
            print(f"greg: {line}", file=sys.stderr, flush=True)
