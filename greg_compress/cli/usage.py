"""What is wrong with a line that was typed, in our words: the library's own say neither the value nor the command."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from typer.exceptions import TyperException

from greg_compress.errors import nearest, unknown

NUMBERS = {"int_parsing": "a whole number", "int_from_float": "a whole number", "float_parsing": "a number"}
BOUNDS = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}


def explained(error: TyperException, commands: Mapping[str, Any]) -> str:
    """One line: which command, which word, and what would be right.

    Args:
        commands: the program's, by name.
    """
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "greg"
    said = error.format_message()
    match type(error).__name__:  # the library does not export its classes
        case "NoSuchOption":
            return _no_such_option(getattr(error, "option_name", ""), path, context, commands)
        case "BadOptionUsage":
            return _bad_use(getattr(error, "option_name", ""), said, commands)
        case "MissingParameter":
            return f"{path} lacks {_described(getattr(error, 'param', None))}" + _see(path)
        case "BadParameter":
            return _bad_value(error, said)
    if found := re.search(r"No such command '(.*?)'\.", said, re.DOTALL):
        return str(unknown(f"greg has no command {found[1]!r}", found[1], commands)) + _see(path)
    if found := re.search(r"extra argument.*? \((.*)\)", said, re.DOTALL):
        return f"{path} has no use for {found[1]}; put what holds spaces into quotes" + _see(path)
    if said.startswith("Missing command"):
        return f"say which command: {', '.join(commands)}" + _see(path)
    return said.rstrip(".") + _see(path)


def _see(path: str) -> str:
    return f" (see {path} --help)"


def _no_such_option(name: str, path: str, context: Any, commands: Mapping[str, Any]) -> str:
    own = _options(context.command.params) if context is not None else []
    elsewhere = {f"greg {other}": _options(command.params) for other, command in commands.items()}
    if name.startswith("--"):
        return str(unknown(f"{path} has no option {name}", name, own, elsewhere)) + _see(path)
    return f"{path} has no option {name}" + _see(path)


def _bad_use(option: str, said: str, commands: Mapping[str, Any]) -> str:
    if "not take" in said:
        return f"{option} is a switch and takes no value; leave it out, or write {option} alone"
    found = {_described(each) for command in commands.values() for each in command.params if option in each.opts}
    return f"{option} lacks its value" + (f"; {found.pop()}" if len(found) == 1 else "")  # not the same everywhere


def _options(parameters: Iterable[Any]) -> list[str]:
    return [name for parameter in parameters for name in parameter.opts if name.startswith("--")]


def _described(parameter: Any) -> str:
    """An option or argument as it stands in the help."""
    name = min(parameter.opts, key=len) if parameter.param_type_name == "option" else ""
    metavar = parameter.metavar or parameter.name.upper()
    return f"{name} {metavar}: {parameter.help or ''}".strip().rstrip(".: ")


def _bad_value(error: TyperException, said: str) -> str:
    """A value that is no such number, beyond a bound, or none of those that there are."""
    parameter: Any = getattr(error, "param", None)
    option = max(parameter.opts, key=len) if parameter is not None else "this"
    if found := re.search(r"'(.*)' is not one of '(.*)'", getattr(error, "message", ""), re.DOTALL):
        known = found[2].split("', '")
        return f"{option} {found[1][:80]}: unknown{nearest(found[1][:80], known)}"
    faults: list[Any] = getattr(error.__cause__, "errors", list)()  # the library checks numbers by another one
    fault = faults[0] if faults else {}
    given = str(fault.get("input", ""))[:80]
    if (kind := fault.get("type")) in NUMBERS:
        return f"{option} {given}: write {NUMBERS[kind]}"
    if kind in BOUNDS:
        words, bound = BOUNDS[kind]
        return f"{option} {given}: it must be {words} {fault['ctx'][bound]}"
    return said.rstrip(".")
