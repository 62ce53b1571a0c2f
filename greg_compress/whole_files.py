"""Files are written whole or not at all, and a result never takes the place of an older one unasked.

No torch here: an output that exists is said before anything is loaded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greg_compress.errors import GregError, InputError, RequestError
from greg_compress.options import Output


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`, which takes its place when the block ends well.

    Raises:
        GregError: the target cannot be written. Nothing is left behind on any failure.
    """
    temporary = _temporary(target)
    try:
        yield temporary
        _make_durable(temporary)
        os.replace(temporary, target)
    except OSError as error:
        reason = error.strerror or error
        raise GregError(f"{target} could not be written ({reason}); nothing was left there") from error
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(target: Path) -> Path:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
    except OSError as error:
        reason = error.strerror or error
        raise GregError(f"{target} cannot be written ({reason}); choose another -o") from error
    return Path(name)


def _make_durable(path: Path) -> None:
    """Flush to disk, with the permissions that an ordinary new file would have (mkstemp gives 0600)."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def require_free(output: Output) -> None:
    """Refuse an output that exists or that unfinished work is waiting for, and one that cannot be written.

    Raises:
        RequestError: OUT or OUT.partial exists and neither --force nor --resume says what to do.
        GregError: the folder is missing or not writable.
    """
    if output.path.is_dir():
        raise RequestError(f"{output.path} is a directory; name a file with -o")
    if output.path.exists() and not (output.force or output.resume):
        raise RequestError(f"{output.path} exists; add --force to replace it, or choose another -o")
    if output.partial.exists() and not (output.force or output.resume):
        raise RequestError(f"{output.partial} holds unfinished work; add --resume to go on, or --force to begin anew")
    _temporary(output.path).unlink()


def require_file(path: Path) -> None:
    """Refuse an input that is not there.

    Raises:
        InputError: missing, or a directory.
    """
    if path.is_dir():
        raise InputError(f"{path} is a directory, not a state file")
    if not path.exists():
        raise InputError(f"{path} does not exist")


def require_free_folder(folder: Path, force: bool) -> None:
    """Make a folder for several outputs, refusing one that holds something already.

    Raises:
        RequestError: it is a file, or not empty and not forced.
        GregError: it cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise RequestError(f"{folder} is not empty; add --force to replace the files in it, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GregError(f"{folder} cannot be made ({error.strerror})") from error
