"""What code a recipe may run: whoever runs one has looked at its folder, at best, and not at all of Python's library.

`arch = ".../shutil.py:rmtree"` with `arch-arg = "path=..."` would be a network, too, until it has returned.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from greg_compress.errors import RequestError
from greg_compress.recipes.expand import Grid, Task

MAY_NAME_CODE = ("model", "arch", "data", "baseline", "teacher")
PICKLE = "allow-pickle"
NOBODYS = re.compile(r"(site|dist)-packages|python[\d.]+|\..+")
"""Folders of what was installed, not written, by the user."""


def require_known(grid: Grid, named: Collection[str], allow_pickle: bool) -> None:
    """Refuse code that a recipe takes from anywhere.

    Args:
        named: what the command line itself gives as values of the recipe; that may run.

    Raises:
        RequestError: a FILE.py lies neither below the current directory nor beside the recipe nor in `sample_models`,
            a step opens a pickled network without `allow_pickle`, or no step does with it.
    """
    pickles = False
    for task in grid.tasks.values():
        where = f"{grid.recipe.path}: step {task.step.name}"
        for source in _sources(task):
            if not any(value == source or value.startswith(f"{source}:") for value in named):
                _require_near(Path(source), grid.recipe.path.parent, where)
        if task.options.get(PICKLE) == [str(True)]:
            pickles = True
            if not allow_pickle:
                raise RequestError(f"{where} unpickles a network, which runs its code; add --{PICKLE} if you trust it")
    if allow_pickle and not pickles:
        raise RequestError(f"--{PICKLE} would have no effect: no step of {grid.recipe.path} unpickles a network")


def _sources(task: Task) -> Iterator[str]:
    """The FILE.py of every FILE.py:CALLABLE."""
    for key in MAY_NAME_CODE:
        for text in task.options.get(key, ()):
            if (source := text.rpartition(":")[0]).endswith(".py"):
                yield source


def _require_near(path: Path, beside: Path, where: str) -> None:
    spec = importlib.util.find_spec("sample_models")
    ours = [Path(folder).resolve() for folder in (spec.submodule_search_locations or [] if spec else [])]
    whole = path.resolve()
    if any(whole.is_relative_to(folder) for folder in ours):
        return
    for folder in (Path.cwd(), beside.resolve()):
        if whole.is_relative_to(folder) and not any(map(NOBODYS.fullmatch, whole.relative_to(folder).parts)):
            return
    raise RequestError(
        f"{where} runs code of {path}, which lies neither below the current directory nor beside the recipe; give it"
        " with --set if you trust it"
    )
