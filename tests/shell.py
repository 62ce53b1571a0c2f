"""A shell in which `greg` answers at once: the program is forked from a process that has loaded torch already."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests import program

CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    server.sendall(json.dumps([os.getcwd(), sys.argv[1:]]).encode() + b"\\n")
    code, out, err = json.loads(server.makefile().readline())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


class Shell:
    """bash in a folder, with `greg`, `python3` and `torchrun` of these tests; `torchrun` starts one process only."""

    def __init__(self, folder: Path, edit: Callable[[list[str]], list[str]]) -> None:
        """`edit` makes of the words of a command those that are run."""
        self.folder, self._edit = folder, edit
        self.typed: list[list[str]] = []
        self._tools = folder / ".tools"
        self._tools.mkdir()
        address = str(self._tools / "socket")
        (self._tools / "client.py").write_text(CLIENT.format(address=os.path.relpath(address, folder)))
        python, client = shlex.quote(sys.executable), shlex.quote(str(self._tools / "client.py"))
        self._tool("greg", f'cd {shlex.quote(str(folder))} && exec {python} -I {client} "$@"')
        self._tool("python3", f'exec {python} "$@"')
        self._tool("torchrun", 'while [ "$1" != greg_compress ]; do shift; done; shift; exec greg "$@"')
        self._server = socket.socket(socket.AF_UNIX)
        here = Path.cwd()
        os.chdir(folder)  # a socket's address has no more than 108 characters
        self._server.bind(os.path.relpath(address, folder))
        os.chdir(here)
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _tool(self, name: str, line: str) -> None:
        (self._tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (self._tools / name).chmod(0o755)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as line:
            folder, words = json.loads(line.readline())
            self.typed.append(words)
            ran = program.greg(Path(folder), *self._edit(words))
            line.write(json.dumps([ran.code, ran.out, ran.err]) + "\n")

    def run(self, lines: str) -> subprocess.CompletedProcess[str]:
        """All lines as one script that ends at the first command that fails."""
        environment = {**os.environ, "PATH": f"{self._tools}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        bash = [str(shutil.which("bash")), "-euo", "pipefail", "-c", lines]
        return subprocess.run(
            bash, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=1800
        )

    def close(self) -> None:
        self._server.close()
