"""The program. Until the command line listens itself, Ctrl-C ends it without a traceback."""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    from greg_compress.cli import app

    app(prog_name="greg")


if __name__ == "__main__":
    main()
