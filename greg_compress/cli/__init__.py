"""The command line. Nothing here imports torch before a command really begins.

:mod:`.commands` parses into frozen options, calls one stage and prints its result; :mod:`.chains` runs several of
these commands; :mod:`.boundary` turns errors into one line and an exit code; :mod:`.terminal` shows progress on stderr
and results on stdout.
"""

from greg_compress.cli import chains, commands
from greg_compress.cli.entry import app

__all__ = ["app", "chains", "commands"]
