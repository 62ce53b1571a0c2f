"""Print docs/commands.md, as the program describes itself: python -m tests.commands_reference > docs/commands.md"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from greg_compress.cli import app

HEAD = """# Every command and option

Written by the program, and compared with it by a test: `python -m tests.commands_reference > docs/commands.md`.
Every command has `-h`, too. An unknown option is an error, and so is one that would have no effect.
"""
FACTS = re.compile(
    r" *\[(?:default: (?P<default>\([^()]*\)|[^;\]]*))?;? ?(?P<range>[^;\]]*<[^;\]]*)?;? ?(?P<required>required)?\]$"
)
"""How a help text ends: with a default, a range, and whether the option is required."""


def reference(group: Any) -> str:
    """The page of a Typer group: Markdown that depends on no terminal."""
    return "\n".join([HEAD, *_lines(group)])


def _lines(group: Any) -> Iterator[str]:
    with group.make_context("greg", [], resilient_parsing=True) as top:
        yield from _table(group, top)
        for name, command in group.commands.items():
            with command.make_context(name, [], parent=top, resilient_parsing=True) as context:
                arguments = [each for each in command.get_params(context) if each.param_type_name == "argument"]
                usage = " ".join([context.command_path, "[OPTIONS]", *map(_metavar, arguments)])
                yield f"## greg {name}\n\n{_paragraph(command.help)}\n\n```text\n{usage}\n```\n"
                yield from _table(command, context)


def _metavar(argument: Any) -> str:
    bare = str(argument.metavar or argument.name.upper()).strip("[]")
    return bare if argument.required else f"[{bare}]"


def _table(command: Any, context: Any) -> Iterator[str]:
    """A row for each argument and option but the one for help."""
    yield "| | default | |\n|---|---|---|"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        words, text = record
        facts = FACTS.search(text)
        said = facts.groupdict() if facts else {}
        shown = _metavar(parameter) if parameter.param_type_name == "argument" else words
        default = said.get("default") or said.get("required") or ""
        what = text[: facts.start()] if facts else text
        yield _row(f"`{shown}`", re.sub(r"^\((.*)\)$", r"\1", default), f"{what} {said.get('range') or ''}")
    yield ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.strip().replace("|", r"\|") for cell in cells) + " |"


def _paragraph(text: str | None) -> str:
    return "\n".join(line.strip() for line in (text or "").strip().splitlines())


if __name__ == "__main__":
    print(reference(get_command(app)), end="")
