"""Which signals stop a command. No torch here."""

from __future__ import annotations

import signal


def stops() -> list[signal.Signals]:
    """SIGINT and SIGTERM; SIGHUP, with which a terminal closes, unless `nohup` or the like lets it pass."""
    hears_hangups = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *[signal.SIGHUP] * hears_hangups]
