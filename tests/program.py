"""The real program in processes of its own, forked from one that has loaded torch already: seconds become tenths."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import Ran

LOADED = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "thop", "rich.progress", "greg_compress.cli")
STAGES = ("train", "analyze", "regularize", "prune", "finetune", "evaluate", "export")
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [*LOADED, *(f"greg_compress.{stage}" for stage in STAGES), "tests.program", "tests.warm"]
)


def _main(
    folder: str, words: list[str], outputs: tuple[str, str], most_bytes: int | None, environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    for number, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.chdir(folder)
    os.setpgrp()  # as a shell or a batch system would
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    sys.argv = ["greg", *words]
    from greg_compress.cli import app

    app()


@dataclass
class Running:
    """A command that was started."""

    process: Any
    outputs: tuple[Path, Path]
    started: float = field(default_factory=time.monotonic)

    @property
    def err(self) -> str:
        return self.outputs[1].read_text()

    def wait_for(self, text: str, path: Path | None = None) -> None:
        """Until a text stands on stderr, or a file exists."""
        while self.process.is_alive() and text not in self.err and not (path is not None and path.exists()):
            assert time.monotonic() - self.started < 120
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        while self.process.is_alive() and not self._listens():
            time.sleep(0.005)
        os.kill(self.process.pid, number)

    def signal_group(self, number: int) -> None:
        """To the program and all its workers at once, as a terminal or a batch system does."""
        while self.process.is_alive() and not self._listens():
            time.sleep(0.005)
        os.killpg(self.process.pid, number)

    def _listens(self) -> bool:
        """Whether the program hears SIGTERM yet; before that it is Python that starts, not greg."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return True
        caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")), -1)
        return bool(caught & 1 << (signal.SIGTERM - 1))

    def finish(self) -> Ran:
        self.process.join(120)
        assert not self.process.is_alive()
        out, err = (path.read_text() for path in self.outputs)
        for path in self.outputs:
            path.unlink()
        code = self.process.exitcode
        self.process.close()
        return Ran(code, out, err)


def start(
    folder: Path, *words: object, most_bytes: int | None = None, environment: dict[str, str] | None = None
) -> Running:
    outputs = tuple(Path(tempfile.mkstemp(prefix="greg-test-")[1]) for _ in range(2))
    process = context.Process(
        target=_main,
        args=(str(folder), list(map(str, words)), tuple(map(str, outputs)), most_bytes, environment or {}),
    )
    process.start()
    return Running(process, (outputs[0], outputs[1]))


def greg(folder: Path, *words: object, most_bytes: int | None = None) -> Ran:
    return start(folder, *words, most_bytes=most_bytes).finish()


def start_together(folder: Path, size: int, *words: object) -> list[Running]:
    """The same command as so many processes, with the environment that torchrun gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(size)}
    return [
        start(folder, *words, environment=where | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(size)
    ]
