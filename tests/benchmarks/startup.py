"""How long `greg --help` takes, as a ratio to importing what any Typer program imports; limit 3."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

GREG = [sys.executable, "-m", "greg_compress", "--help"]
BARE = [sys.executable, "-c", "import typer, rich.console"]


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


ratios = [seconds(GREG) / seconds(BARE) for _ in range(20)]
print(f"greg --help / import typer, rich.console: median {statistics.median(ratios):.2f} (limit 3)")
