"""The one place where errors become text and exit codes.

0 done; 1 run time; 2 the request is wrong; 3 a check failed; 4 an input cannot be used; 130 and 143
interrupted. Errors are one line on stderr. Only a bug of ours keeps its traceback.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import Exit, TyperException

from greg_compress.errors import GregError, Interrupted


class Boundary(TyperGroup):
    """A Typer group whose `main` ends every way with the right exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _listen()
        kwargs["standalone_mode"] = False  # typer would print errors its own way
        sys.exit(_exit_code(lambda: super(Boundary, self).main(*args, **kwargs)))


def _listen() -> None:
    """Hear Ctrl-C and SIGTERM, also where a script's `&` has told the shell to ignore them."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def _exit_code(run: Callable[[], Any]) -> int:
    try:
        code = run()
    except TyperException as error:
        return _say(f"{error.format_message()} (see --help)", 2)
    except Exit as exit_:
        return exit_.exit_code
    except GregError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}", 1)
    except Exception as error:
        if _out_of_memory(error):
            return _say("out of memory; try a smaller --batch-size or network", 1)
        traceback.print_exc()
        return _say(f"internal error, please report it with the lines above ({type(error).__name__})", 1)
    if code == 130:
        _say("interrupted", 130)
    return code if isinstance(code, int) else 0


def _out_of_memory(error: Exception) -> bool:
    """torch raises its own class on a device, and a RuntimeError on the CPU."""
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or ("can't allocate memory" in str(error) or "not enough memory" in str(error))
    )


def _say(text: str, code: int) -> int:
    print("greg: " + " ".join(text.split()), file=sys.stderr)
    return code
