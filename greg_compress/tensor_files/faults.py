"""What goes wrong in a file, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greg_compress.errors import InputError, first_line, is_out_of_memory


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever breaks in here is the fault of the file.

    Raises:
        InputError: it is no ordinary file, cannot be read or is damaged. A lack of memory passes.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError("it is no ordinary file")
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except InputError as error:
        raise InputError(f"{path} is damaged or no file of tensors: {error}; nothing in it was run") from error
    except Exception as error:
        # What damaged bytes can do to a reader has no common type.
        if is_out_of_memory(error):
            raise
        raise InputError(f"{path} is damaged or truncated ({first_line(error)}); nothing in it was run") from error
