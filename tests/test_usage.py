"""What is mistyped is answered with what may have been meant, everywhere in the same words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.main import get_command

from greg_compress.cli import app
from greg_compress.cli.usage import explained
from greg_compress.errors import nearest, unknown
from tests.conftest import DIGITS, RESNET, Ran

Greg = Callable[..., Ran]
GROUP: Any = get_command(app)
OPTIONS = {
    name: [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
    for name, command in GROUP.commands.items()
}
KNOWN = sorted({option for options in OPTIONS.values() for option in options})


def answer(name: str, *words: str) -> str:
    """What the program says of a line of one of its commands, that is wrong."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 (the library does not export its classes)
        GROUP.commands[name].make_context(f"greg {name}", list(words))
    return explained(raised.value, GROUP.commands)  # type: ignore[arg-type]


@given(st.sampled_from([(name, option) for name, options in OPTIONS.items() for option in options]), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_two_letters_in_the_wrong_order(case: tuple[str, str], data: st.DataObject) -> None:
    name, option = case
    at = data.draw(st.integers(2, len(option) - 2))
    typo = option[:at] + option[at + 1] + option[at] + option[at + 2 :]
    if typo not in KNOWN and len(option) > 5:
        assert option in answer(name, typo), typo


@given(st.sampled_from(list(OPTIONS)), st.sampled_from(KNOWN))
@settings(max_examples=60, deadline=None)
def test_an_option_of_other_commands_says_which(name: str, option: str) -> None:
    if option not in (*OPTIONS[name], "--help"):
        owners = [f"greg {other}" for other in OPTIONS if option in OPTIONS[other]]
        assert f"greg {name} has no option {option}; it belongs to {', '.join(owners)} (" in answer(name, option)


@given(
    st.lists(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1), max_size=20, unique=True), st.text()
)
def test_nearest_names_known_ones_only(known: list[str], name: str) -> None:
    said = nearest(name, known)
    _, _, names = said.partition(": ")
    assert (said == "") == (not known)
    assert set(names.split(", ") if said else []) <= set(known)


def test_a_name_that_is_there_but_for_its_capitals_is_the_only_one_said() -> None:
    assert nearest("--ResNet18", ["resnet18", "resnet19"]) == "; nearest: resnet18"
    assert str(unknown("no x", "x", ["y"], {"here": ["x"], "there": ["z"]})) == "no x; it belongs to here"


TRAIN, REGULARIZE, FINETUNE = (
    (name, DIGITS, "--data", "digits", "-o", "o.pt") for name in ("train", "regularize", "finetune")
)
PRUNE = ("prune", DIGITS, "--ratios", "0.5", "-o", "o.pt")
LINES: list[tuple[tuple[object, ...], str]] = [
    (("prnue", DIGITS), "greg has no command 'prnue'; nearest: prune"),
    ((), "say which command: "),
    (("prune",), "greg prune lacks MODEL: A state file"),
    (("prune", DIGITS, "--ratios", "0.5"), "greg prune lacks -o OUT: The file to write (see greg prune --help)"),
    (("prune", DIGITS, "-o"), "-o lacks its value"),
    (("prune", DIGITS, "-o", "o.pt", "--ratios"), "--ratios lacks its value; --ratios RATIOS: "),
    (("prune", DIGITS, "--ratios", "[0,", "0.5]", "-o", "o.pt"), "has no use for 0.5]; put what holds spaces"),
    (("prune", DIGITS, "--json=yes", "-o", "o.pt"), "--json is a switch and takes no value"),
    ((*TRAIN, "--epochs", "ten"), "--epochs ten: write a number"),
    ((*TRAIN, "--batch-size", "1.5"), "--batch-size 1.5: write a whole number"),
    ((*TRAIN, "--workers", "-1"), "--workers -1: it must be at least 0"),
    ((*TRAIN, "--workers", "9999"), "--workers 9999: it must be at most 1024"),
    ((*REGULARIZE, "--method", "greg3"), "--method greg3: unknown; nearest: greg-"),
    ((*REGULARIZE, "--preset", "quik"), "--preset quik: unknown; nearest: quick"),
    ((*PRUNE, "--criterion", "tylor"), "--criterion tylor: unknown; nearest: taylor"),
    (("plot", DIGITS, "--figure", "sepration", "-o", "o.png"), "--figure sepration: unknown; nearest: separation"),
    (("evaluate", DIGITS, "--data", "Digits"), "--data Digits: unknown; nearest: digits"),
    (("evaluate", DIGITS, "--data", "fasion-mnist:x"), "--data fasion-mnist:x: unknown; nearest: fashion-mnist"),
    (("evaluate", DIGITS, "--data", "zzz"), "unknown; known: digits, fashion-mnist, cifar10, cifar100, imagefolder"),
    (("evaluate", DIGITS, "--data", "digits:x"), "digits has no ROOT"),
    (("evaluate", DIGITS, "--data", "imagefolder"), "write imagefolder:ROOT"),
    (("evaluate", DIGITS, "--data", "mine.py"), "say what it defines, mine.py:CALLABLE"),
    (("analyze", "torchvison:resnet18"), "torchvison:resnet18 is no architecture; nearest: torchvision"),
    (("analyze", "torchvision:"), "torchvision: names no network; write torchvision:NAME"),
    (("analyze", RESNET), "names no network; write"),
    (("analyze", ""), "MODEL is empty"),
    (("analyze", f"{RESNET}:resnet2"), "does not define a callable 'resnet2'; nearest: resnet"),
    (("analyze", DIGITS, "--arch", "timn:resnet18"), "timn:resnet18 is no architecture; nearest: timm"),
    (("export", DIGITS, "--baseline", "trochvision:resnet18", "-o", "o.onnx"), "nearest: torchvision"),
    ((*FINETUNE, "--teacher", "trochvision:resnet18"), "nearest: torchvision"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), LINES, ids=[" ".join(map(str, words))[-60:] for words, _ in LINES])
def test_lines(greg: Greg, words: tuple[object, ...], said: str) -> None:
    ran = greg(*words)
    assert (ran.code in (2, 4), ran.out) == (True, "")
    assert said in ran.error()
