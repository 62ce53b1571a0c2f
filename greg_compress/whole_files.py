"""Files are written whole or not at all, and a result never takes the place of an older one unasked.

No torch here: an output that exists is said before anything is loaded.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from greg_compress.errors import GregError, InputError, RequestError
from greg_compress.options.network import Output
from greg_compress.processes.place import place

_coming: ContextVar[frozenset[Path] | None] = ContextVar("coming", default=None)
"""In a rehearsal, the files that will be there when it comes to it."""


class Held(RequestError):
    """Another greg holds an output."""


@contextmanager
def rehearsal(coming: Iterable[Path]) -> Iterator[None]:
    """Options are only parsed in here: these files count as there, and outputs are neither looked at nor locked."""
    token = _coming.set(frozenset(coming))
    try:
        yield
    finally:
        _coming.reset(token)


@contextmanager
def written_whole(target: Path, *, replace: bool) -> Iterator[Path]:
    """Give a temporary path beside `target`, which takes its place when the block ends well.

    Args:
        replace: whether a file that is there by then gives way.

    Raises:
        RequestError: a file has appeared there meanwhile.
        GregError: the target cannot be written. Nothing is left behind on any failure.
    """
    target = Path(os.path.realpath(target))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        _create(temporary, target)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        _publish(temporary, target, replace)
        _keep_name(target)
    except OSError as error:
        stays = "the older file stays" if target.exists() else "nothing was left there"
        raise GregError(f"{target} could not be written ({error.strerror or error}); {stays}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _create(temporary: Path, target: Path) -> None:
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise GregError(f"{target} cannot be written ({error.strerror or error}); choose another name") from error


def _publish(temporary: Path, target: Path, replace: bool) -> None:
    if not replace:
        try:
            target.hardlink_to(temporary)  # unlike a rename, this refuses a file that is there
            return
        except FileExistsError:
            raise RequestError(f"{target} has appeared meanwhile and was left alone; choose another name") from None
        except OSError:
            pass  # a file system without hard links
    os.replace(temporary, target)


def _keep_name(target: Path) -> None:
    """Have the folder written as well: after a power cut the new name might be gone, though not the bytes."""
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows no such thing
            raise GregError(f"{target} may not survive a power cut ({error.strerror})") from error
    finally:
        os.close(descriptor)


def _sweep(target: Path) -> None:
    """Remove what a killed greg left behind while it wrote a file; nobody else writes it now."""
    target = Path(os.path.realpath(target))
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.tmp")
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if leftover.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink()


@contextmanager
def claimed(output: Output) -> Iterator[None]:
    """Hold an output against every other greg, by a locked file beside it; of several processes the first one does.

    What a killed run left there half written is removed.

    Raises:
        Held: another one does.
        GregError: the folder is missing or not writable.
    """
    if _coming.get() is not None or not place().first:
        yield
        return
    target = Path(os.path.realpath(output.path))
    lock = target.with_name(f".{target.name}.lock")
    descriptor, alone = _locked(lock, output.path)
    try:
        if alone:
            _sweep(output.path)
            _sweep(output.partial)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)  # after a crash the file stays, but not the lock on it


def _locked(lock: Path, target: Path) -> tuple[int, bool]:
    """The open lock, and whether the file system has locks."""
    while True:
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise GregError(f"{target} cannot be written ({error.strerror}); choose another name") from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, no worker inherits it
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            raise Held(f"another greg is writing {target}; wait for it, or choose another name") from None
        except OSError:
            return descriptor, False
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor, True
        os.close(descriptor)  # it was removed between opening and locking: there is a new one


def require_free(output: Output, *, resumable: bool) -> None:
    """Refuse an output that exists, that another greg is writing or that unfinished work is waiting for, and one that
    cannot be written.

    Raises:
        RequestError: OUT or OUT.partial exists and neither --force nor --resume says what to do.
        GregError: the folder is missing or not writable.
    """
    if _coming.get() is not None:
        return
    _require_ordinary(output)
    with claimed(output):
        _require_free(output, resumable)


def _require_ordinary(output: Output) -> None:
    for special in (output.path, output.partial):
        try:
            ordinary = special.is_file() or not special.exists()
        except OSError as error:
            raise GregError(f"{special} cannot be written ({error.strerror}); choose another name") from error
        if not ordinary:
            raise RequestError(f"{special} is no ordinary file; choose another name")


def _require_free(output: Output, resumable: bool) -> None:
    path, partial = output.path, output.partial
    if os.path.lexists(path) and not (output.force or output.resume):
        raise RequestError(f"{path} exists; add --force to replace it, or choose another name")
    if resumable and os.path.lexists(partial) and not (output.force or output.resume):
        raise RequestError(f"{partial} holds unfinished work; add --resume to go on, or --force to begin anew")


def require_file(path: Path) -> None:
    """Refuse an input that is not there.

    Raises:
        InputError: missing, a directory, or nothing that ends (a pipe, a device).
    """
    if path in (_coming.get() or ()):
        return
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory, not a state file")
        if not path.exists():
            specs = f"torchvision:{path.name}, timm:{path.name} or FILE.py:CALLABLE"
            hint = "" if path.suffix else f"; an architecture is {specs}"
            raise InputError(f"{path} does not exist{hint}")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if not path.is_file():
        raise InputError(f"{path} is no ordinary file")


def require_apart(out: Path, inputs: Iterable[str], option: str = "-o") -> None:
    """Refuse an output that is one of the inputs, also with --force.

    Raises:
        RequestError: it is.
    """
    where = os.path.realpath(out)
    for name in inputs:
        if where == os.path.realpath(name):
            raise RequestError(f"{option} {out} is an input of this command, {name}; choose another name")


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
        raise GregError(f"{folder} cannot be made ({error.strerror}); name another folder") from error
