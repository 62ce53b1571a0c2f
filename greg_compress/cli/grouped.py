"""Options that travel together: one builder declares them, and every command that needs them names it.

    def prune(model: Annotated[ModelOptions, Use(model_options)]) -> None: ...

becomes a command with the parameters of `model_options`, which is called with what the user gave. Two builders
may take the same parameter.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin

from greg_compress.cli.apart import require_inputs_stay


@dataclass(frozen=True)
class Use:
    """Take this builder's parameters, some with other defaults, some decided here and not offered."""

    builder: Callable[..., Any]
    defaults: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)

    def parameters(self) -> list[inspect.Parameter]:
        own = inspect.signature(self.builder, eval_str=True).parameters.values()
        return [
            parameter.replace(default=self.defaults.get(parameter.name, parameter.default))
            for parameter in own
            if parameter.name not in self.fixed
        ]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Spread every parameter annotated with `Use` into its builder's parameters."""
    signature = inspect.signature(command, eval_str=True)
    uses = {name: use for name, parameter in signature.parameters.items() if (use := _use(parameter))}
    spread: dict[str, inspect.Parameter] = {}
    for name, parameter in signature.parameters.items():
        for part in uses[name].parameters() if name in uses else [parameter]:
            spread[part.name] = part.replace(kind=inspect.Parameter.KEYWORD_ONLY)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        built = {
            name: use.builder(**use.fixed, **{part.name: given[part.name] for part in use.parameters()})
            for name, use in uses.items()
        }
        require_inputs_stay(given)
        command(**built, **{name: given[name] for name in signature.parameters if name not in uses})

    run.__signature__ = signature.replace(parameters=list(spread.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: part.annotation for name, part in spread.items()}
    del run.__wrapped__
    return run


Said = dict[str, Any]
"""Options as they were typed, by name without dashes: a text, a list of texts, or True for a switch."""


def as_said(builder: Callable[..., Any], *without: str) -> Callable[..., Said]:
    """A builder that takes another one's options and makes nothing of them: what was not typed is not there.

    Args:
        without: parameters that are not offered.
    """
    own = inspect.signature(builder, eval_str=True).parameters
    offered = {
        name: parameter
        for name, parameter in own.items()
        if get_origin(parameter.annotation) is Annotated and name not in without
    }

    def said(**given: Any) -> Said:
        typed = {name: value for name, value in given.items() if value and value != offered[name].default}
        return {name.replace("_", "-"): _as_typed(value) for name, value in typed.items()}

    said.__signature__ = inspect.Signature(list(offered.values()))  # type: ignore[attr-defined]
    return said


def _as_typed(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return True if value is True else str(value)


def _use(parameter: inspect.Parameter) -> Use | None:
    if get_origin(parameter.annotation) is not Annotated:
        return None
    return next((entry for entry in get_args(parameter.annotation) if isinstance(entry, Use)), None)
