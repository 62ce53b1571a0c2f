"""A recorded command as it would be typed again: the way back from :mod:`greg_compress.recording`.

What a preset decided stands there as a figure, so that a later greg with other presets does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from decimal import Decimal
from typing import Any

from greg_compress.errors import RequestError
from greg_compress.options.gates import Gates
from greg_compress.options.measuring import ExportOptions, ImageOptions
from greg_compress.options.network import ModelOptions
from greg_compress.options.penalty import PenaltyOptions
from greg_compress.options.selecting import Selection
from greg_compress.options.training import TeacherOptions, TrainingOptions
from greg_compress.recording import recorded
from greg_compress.sources.specs import is_architecture, parse_architecture

Words = tuple[str, ...]
COMMANDS = ("train", "regularize", "prune", "finetune")
"""What stands in a history and can be typed; `open` cannot."""
DECIDED = {"regularize": {"decay", "warmup", "epochs", "iterations", "milestones"}}
"""What a command records and does not offer."""
BY_PRESET = {"regularize": {"batch_size", "weight_decay"}}
"""What is no default there, though it looks like the dataclass's."""
OTHERWISE = {"compiled": "compile", "auto_align": "align"}
"""Options that are not named as their fields."""


def _text(value: Any) -> str:
    return str(value)


def _percent(share: Any) -> str:
    """Exactly, unlike in messages."""
    return f"{(100 * Decimal(share)).normalize():f}%"


def _short(value: float) -> str:
    """20, not 20.0; exact all the same."""
    return repr(value).removesuffix(".0")


TEXTS: dict[str, Callable[[Any], str]] = {
    "plan": lambda plan: str(plan["path"]),
    "target_macs": _percent,
    "target_params": _percent,
    "target_latency": lambda ms: f"{ms!r}ms",
    "target_speedup": lambda factor: f"{factor!r}x",
    "max_latency": lambda ms: f"{ms!r}ms",
    "min_speedup": lambda factor: f"{factor!r}x",
    "budget": lambda seconds: f"{round(seconds)}s",
    "milestones": lambda shares: ",".join(map(repr, shares)),
    "auto_align": lambda _: "auto",
    "lr": _short,
    "epochs": _short,
}
"""Values whose text is not simply theirs."""


def _defaults() -> dict[str, Any]:
    groups = (ExportOptions, Gates, TrainingOptions, PenaltyOptions, Selection, ImageOptions, TeacherOptions)
    own = {field.name: field.default for group in groups for field in fields(group)}
    switches = dict.fromkeys(("int8", "fp16", "with_preprocessing"), False)
    return switches | {name: str(value) if name == "criterion" else value for name, value in own.items()}


DEFAULTS = _defaults()


def retyped(command: str, options: Mapping[str, Any], *, allow_pickle: bool = False) -> Words:
    """The words of a recorded command, but for where its result goes.

    Args:
        options: as :func:`.recording.recorded` gives them.
        allow_pickle: whether MODEL was a pickled network, which no record says.
    """
    model, arch = str(options["model"]), options.get("arch")
    spec = model if is_architecture(model) else None
    named = ["--arch", model] if spec and command == "train" else [_positional(model)]
    if arch is not None:
        named += ["--arch", str(arch["spec"])] if spec is None else []
        named += _arguments(arch["kwargs"])
    named += _shapes(options.get("input_shapes"))
    named += ["--allow-pickle"] * (allow_pickle and spec is None)
    return (command, *named, *_options(command, options))


def selected(selection: Selection) -> Words:
    """The words of a selection alone."""
    return _options("prune", recorded(selection))


def model_words(model: ModelOptions) -> Words:
    """MODEL and what was said of it."""
    spec = is_architecture(model.model)
    words = [_positional(model.model)]
    if model.arch is not None:
        words += [] if spec else ["--arch", model.arch.spec]
        words += _arguments(model.arch.kwargs)
    return (*words, *_shapes(model.input_shapes), *["--allow-pickle"] * model.allow_pickle)


def _positional(name: str) -> str:
    return f"./{name}" if name.startswith("-") else name


def _options(command: str, options: Mapping[str, Any]) -> Words:
    words: list[str] = []
    for name, value in options.items():
        if name not in DEFAULTS or name in DECIDED.get(command, ()) or value is None:
            continue
        if value == DEFAULTS[name] and DEFAULTS[name] is not MISSING and name not in BY_PRESET.get(command, ()):
            continue
        flag = "--" + OTHERWISE.get(name, name).replace("_", "-")
        if value is True and name not in TEXTS:
            words.append(flag)
        elif name == "skip":
            for item in value:
                words += _said(flag, str(item))
        else:
            words += _said(flag, TEXTS.get(name, _text)(value))
    return tuple(words)


def _said(flag: str, text: str) -> list[str]:
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def _arguments(kwargs: Mapping[str, Any]) -> list[str]:
    """`--arch-arg` of each; a text that would be read as something else stands in quotes."""
    words = []
    for key, value in kwargs.items():
        plain = f"{key}={value}"
        words += [
            "--arch-arg",
            plain if not isinstance(value, str) or _is_read_as(plain, key, value) else f"{key}={value!r}",
        ]
    return words


def _is_read_as(plain: str, key: str, value: str) -> bool:
    try:
        return parse_architecture("torchvision:any", [plain]).kwargs[key] == value
    except RequestError:  # it looks like something that no argument can be
        return False


def _shapes(shapes: Any) -> list[str]:
    return [word for shape in shapes or () for word in ("--input-shape", ",".join(map(str, shape)))]
