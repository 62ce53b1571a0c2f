"""OUT.partial is written beside the loop, which waits for no disk."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from greg_compress.state import files
from greg_compress.state.format import State


class Saver:
    """Writes one state after another to a file, in a thread of its own; as a context it ends with the last write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()

    def save(self, state: State) -> None:
        """Copy a state and write it later; of its tensors the weights must be nobody else's.

        Raises:
            GregError: the write before this one failed.
        """
        self.wait()
        # No daemon: also a process that ends by an error writes the file to its end.
        self._writing = threading.Thread(target=self._write, args=(replace(state, run=copied(state.run)),))
        self._writing.start()

    def save_now(self, state: State) -> None:
        """Write a state before anything else happens; whether the write before it failed does not matter then.

        Raises:
            GregError: the disk is full or the target unwritable; what was there stays.
        """
        self.settle()
        files.save(state, self._path, replace=True)

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            GregError: the last write failed; what was there stays.
        """
        if (failure := self.settle()) is not None:
            raise failure

    def settle(self) -> BaseException | None:
        """As :meth:`wait`, but return what failed."""
        if self._writing is not None:
            self._writing.join()
        self._writing, failure, self._failure = None, self._failure, None
        return failure

    def _write(self, state: State) -> None:
        try:
            files.save(state, self._path, replace=True)
        except BaseException as error:  # the loop's thread raises it
            self._failure = error


def copied(value: Any) -> Any:
    """Containers and tensors anew, on the CPU: the next step writes into those of the loop."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(item) for item in value]
    return value


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; a sum says so in a tenth of the time, unless it overflows."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
