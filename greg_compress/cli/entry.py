"""The command line itself, and how its commands print."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from typer import Typer

from greg_compress.cli.boundary import Boundary
from greg_compress.cli.seat import Rehearsed, current
from greg_compress.errors import RequestError
from greg_compress.processes.place import place
from greg_compress.reporting import Reporter

# Typer guesses the shell from the names of running processes, and fails in a job, a container or a build: it is named.
os.environ.setdefault("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
app = Typer(
    cls=Boundary,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@contextmanager
def printed(as_json: bool, kind: str, together: bool = False) -> Iterator[tuple[Callable[..., None], Reporter]]:
    """How a command prints its result and speaks while it works; loaded only now, so that --help is quick.

    With the result it may give what comes next (see :mod:`.afterwards`), which only people are told.

    Of several processes the first one speaks, in the commands that run `together`.
    """
    here = place()
    if not (together or here.alone):
        raise RequestError("this command runs in one process; start it without torchrun")
    seat = current()
    if seat is not None and seat.rehearses:
        raise Rehearsed
    from greg_compress.cli import results
    from greg_compress.cli.terminal import Terminal

    if seat is not None:
        yield lambda result, _next=None: seat.take(results.finite(result)), Terminal()
        return
    with results.printed(as_json, getattr(results, kind)) as print_result:
        yield (print_result, Terminal()) if here.first else (lambda *_: None, Reporter())
