"""Run what is missing of a recipe. Several may run the same one in the same folder; each takes what no other holds."""

from __future__ import annotations

import time
from collections.abc import Callable

from greg_compress.errors import GregError, Interrupted, RequestError
from greg_compress.options.network import Output
from greg_compress.recipes import figures, records
from greg_compress.recipes.expand import Grid, Task
from greg_compress.recipes.records import Result
from greg_compress.reporting import Reporter
from greg_compress.whole_files import Held, claimed

Typed = Callable[[list[str]], Result]
"""Runs the words after `greg`, and returns the command's result."""
LOOK_AGAIN = 0.5
"""Seconds between two looks at what another one holds."""


def run(grid: Grid, typed: Typed, ui: Reporter, *, force: bool = False, anew: bool = False) -> dict[str, Result]:
    """Run every task that is not finished; return what each returned, by stem.

    Args:
        force: whether tasks that were made by another command line are done anew.
        anew: whether all are.

    Raises:
        RequestError: one was made by another command line, and not forced.
        GregError: what a command raised, with the task's name before it.
    """
    prepare(grid, force or anew)
    done: dict[str, Result] = {}
    waiting = False
    while len(done) < len(grid.tasks):
        ready = [task for stem, task in grid.tasks.items() if stem not in done and _stems(task) <= done.keys()]
        ran = next((True for task in ready if _passed(task, grid, typed, ui, done, force, anew)), False)
        if not ran:
            if not waiting:
                ui.note("the steps that are left are another greg's; waiting for it")
            waiting = True
            time.sleep(LOOK_AGAIN)
    _save(grid)
    return done


def _stems(task: Task) -> set[str]:
    return {read.stem for read in task.reads.values()}


def prepare(grid: Grid, force: bool) -> None:
    """Make the folder, unless it holds what other command lines made; forced, these give way when it comes to them.

    Raises:
        RequestError: it does, or is a file.
        GregError: it cannot be made.
    """
    folder = grid.folder
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; name a folder with -o")
    if not force:
        records.require_same(grid)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GregError(f"{folder} cannot be made ({error.strerror}); name another -o") from error


def _passed(
    task: Task, grid: Grid, typed: Typed, ui: Reporter, done: dict[str, Result], force: bool, anew: bool
) -> bool:
    """Whether a task is done now, by us or by another one before; False if another one holds it."""
    if not anew and (result := records.finished(task, grid.folder)) is not None:
        done[task.stem] = result
        return True
    try:
        with claimed(Output(records.path_of(task, grid.folder))):
            result = None if anew else records.finished(task, grid.folder)  # it may have been finished meanwhile
            done[task.stem] = result or _done(task, grid, typed, ui, force, anew)
    except Held:
        return False
    _save(grid)
    return True


def _done(task: Task, grid: Grid, typed: Typed, ui: Reporter, force: bool, anew: bool) -> Result:
    """Run a task."""
    record = None if anew else records.read(task, grid.folder)
    begun = record is not None and record.key == task.key
    words = [*task.typed(grid.folder), *_how(task, begun, force or anew or record is not None)]
    records.write(task, grid.folder, None)
    ui.note(f"{task.stem}: {task.line(grid.folder)}")
    try:
        result = typed(words)
    except Interrupted:
        raise
    except GregError as error:
        error.args = (f"{task.stem}: {error}",)
        raise
    records.write(task, grid.folder, result)
    return result


def _how(task: Task, begun: bool, replace: bool) -> list[str]:
    """How a command treats what it finds: what this very task began goes on, or is written over."""
    if task.file is None:
        return []
    resumes = task.words.resumable and (begun or not replace)
    return ["--resume"] * resumes + ["--force"] * replace


def _save(grid: Grid) -> None:
    """Write results.json of all that is finished; the last one to write has seen everything."""
    path = grid.folder / records.RESULTS
    while True:
        try:
            with claimed(Output(path)):
                known = {stem: records.finished(task, grid.folder) for stem, task in grid.tasks.items()}
                done = {stem: result for stem, result in known.items() if result is not None}
                return records.save(path, figures.document(grid, done))
        except Held:
            time.sleep(0.05)
