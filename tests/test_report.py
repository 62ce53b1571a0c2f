"""The page tells what its files say and nothing else: figures, names as text, sections, and what hangs together."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from greg_compress.story import documents, drawings
from greg_compress.story.page import WAYS
from greg_compress.story.told import SECTIONS
from tests.conftest import Ran

Greg = Callable[..., Ran]
VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = """<script>alert(1)</script>"'&<img src=x onerror=alert(1)>{{ 7 * 7 }}"""
SVG_VOID = {"path", "use", "rect", "line", "circle", "polyline", "polygon", "stop"}


NETWORK = """
from torch import nn


def small(width=8):
    network, channels = nn.Sequential(), 1
    for name in ("first", "second", "third"):
        network.add_module(name, nn.Conv2d(channels, width, 3, padding=1, bias=False))
        network.add_module(f"{name}_norm", nn.BatchNorm2d(width))
        network.add_module(f"{name}_act", nn.ReLU())
        channels = width
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flat", nn.Flatten())
    network.add_module("head", nn.Linear(width, 10))
    network.input_shape = (1, 8, 8)
    return network
"""


@dataclass
class Element:
    """One element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag:
                    yield child
                yield from child.all(tag)

    def every(self) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child.every()

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def by_id(self, name: str) -> Element:
        return next(each for each in self.every() if each.attributes.get("id") == name)


class Parser(HTMLParser):
    """A tree; every tag that opens must close."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = Element(tag, {name: value or "" for name, value in attrs})
        assert len(found.attributes) == len(attrs), attrs
        self.open[-1].children.append(found)
        if tag not in VOID:
            self.open.append(found)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, (self.open[-1].tag, tag)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(text: str) -> Element:
    parser = Parser()
    parser.feed(text)
    parser.close()
    assert len(parser.open) == 1
    return parser.root


def section(page: Element, name: str) -> Element:
    return next(each for each in page.all("section") if each.attributes["aria-labelledby"] == name)


def values(element: Element) -> list[float]:
    return [float(each.attributes["value"]) for each in element.all("data")]


def rows(element: Element) -> dict[str, list[str]]:
    """Cells by the row's head."""
    found = {}
    for row in element.all("tr"):
        head, *cells = [each for each in row.children if isinstance(each, Element)]
        found[head.text.strip()] = [" ".join(cell.text.split()) for cell in cells]
    return found


def figures(value: Any) -> Iterator[float]:
    """Every number of a document."""
    if isinstance(value, dict):
        for each in value.values():
            yield from figures(each)
    elif isinstance(value, list):
        for each in value:
            yield from figures(each)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def told(greg: Greg, *files: object) -> tuple[Element, Any]:
    """The page of some files, and what the command says of it."""
    ran = greg("report", *files, "-o", "page.html", "--force", "--json")
    assert ran.code == 0, ran.err
    text = Path("page.html").read_text()
    assert ran.json["size"] == len(text.encode())
    return sound(text), ran.json


def sound(text: str) -> Element:
    """A page that fetches and runs nothing, and that everybody can read."""
    page = parsed(text)
    elements = list(page.every())
    ids = [each.attributes["id"] for each in elements if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    for each in elements:
        assert each.tag not in ("script", "link", "iframe", "object", "embed", "base", "form", "img", "image")
        for name, value in each.attributes.items():
            assert not name.startswith("on"), name
            assert name not in ("src", "srcset", "action", "data", "poster", "ping", "background"), name
            if name.rpartition(":")[2] == "href":
                assert value.startswith("#"), value
            assert name == "content" or not re.search(r"https?:|//|url\((?!#)|@import", value), (name, value)
            for anchor in re.findall(r"^#(.+)$" if "href" in name else r"url\(#(.+?)\)", value):
                assert anchor in ids
    assert not re.search(r"url\(|@import|https?:", next(page.all("style")).text)
    assert len(list(page.all("h1"))) == 1
    levels = [int(each.tag[1]) for each in elements if re.fullmatch("h[1-6]", each.tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {"header", "main", "nav", "footer"} <= {each.tag for each in elements}
    assert next(page.all("html")).attributes["lang"] == "en"
    for table in page.all("table"):
        assert next(table.all("caption")).text.strip()
        assert all(head.attributes.get("scope") in ("col", "row") for head in table.all("th"))
    for picture in page.all("svg"):
        assert picture.attributes["role"] == "img"
        assert picture.attributes["aria-label"]
    return page


EXPORT = ("export", "final.pt", "--baseline", "base.pt", "--runs", "20", "--max-size", "4000000", "-o", "final.onnx")
EVALUATE = ("evaluate", "final.onnx", "--data", "digits")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chain, in which nearly every option has another value than usual, and what commands printed."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("net.py").write_text(NETWORK)
        type_("train", "--arch", "net.py:small", "--arch-arg", "width=10", "--data", "digits", "--iterations", "4",
              "-o", "base.pt")  # fmt: skip
        type_("regularize", "base.pt", "--data", "digits", "--ratios", "0.4", "--skip", "third", "--method", "greg-2",
              "--scale", "0.05", "--batch-size", "60", "--lr", "0.02", "--seed", "3", "--teacher", "base.pt",
              "--val-fraction", "0.1", "-o", "reg 1.pt")  # fmt: skip
        type_("prune", "reg 1.pt", "-o", "pruned.pt", out="pruned.json")
        type_("finetune", "pruned.pt", "--data", "digits", "--iterations", "3", "--decay", "multistep",
              "--milestones", "1/3,2/3", "-o", "final.pt", out="tuned.json")  # fmt: skip
        type_(*EXPORT, out="export.json")
        type_(*EVALUATE, out="evaluate.json")
        type_("analyze", "base.pt", "--ratios", "0.4", out="analyze.json")
    return folder


def type_(*words: str, out: str | None = None) -> None:
    from typer.testing import CliRunner

    from greg_compress.cli import app

    done = CliRunner().invoke(app, [*words, *(["--json"] if out else [])], prog_name="greg")
    assert done.exit_code == 0, done.stderr
    if out is not None:
        Path(out).write_text(done.stdout)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take a second each; where they do not matter, an empty one does."""
    empty = '<svg role="img" aria-label="a picture"></svg>'
    monkeypatch.setattr(drawings, "inline", lambda picture, name, label: empty)


ALL = ("base.pt", "reg 1.pt", "pruned.pt", "final.pt", "final.onnx", "export.json", "evaluate.json", "analyze.json",
       "pruned.json", "tuned.json")  # fmt: skip


@pytest.fixture(scope="module")
def whole(chain: Path) -> Iterator[tuple[Element, Any]]:
    """The page of the whole chain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(chain)

        def greg(*words: object) -> Ran:
            from typer.testing import CliRunner

            from greg_compress.cli import app

            done = CliRunner().invoke(app, [str(word) for word in words], prog_name="greg")
            return Ran(done.exit_code, done.stdout, done.stderr)

        yield told(greg, *ALL)


def loaded(chain: Path, name: str) -> Any:
    return json.loads((chain / name).read_text())


def state(chain: Path, name: str) -> Any:
    return torch.load(chain / name, weights_only=True)


def test_every_figure_stands_in_one_of_the_files(whole: tuple[Element, Any], chain: Path) -> None:
    known = {float(each) for name in ALL if name.endswith(".json") for each in figures(loaded(chain, name))}
    dense = state(chain, "final.pt")
    known |= {float(each) for each in figures([dense["history"], dense["plan"]])}
    known |= {float((chain / name).stat().st_size) for name in ALL}
    plan = dense["plan"].values()
    known |= {float(sum(share[key] for share in plan)) for key in ("kept", "channels")}
    page, _ = whole
    shown = list(page.all("data"))
    assert len(shown) > 100
    assert {float(each.attributes["value"]) for each in shown} - known == set()
    ways = list(WAYS.values())
    for each in shown:
        value = json.loads(each.attributes["value"])
        assert each.text in {way(value) for way in ways}


def test_before_and_after(whole: tuple[Element, Any], chain: Path) -> None:
    pruned, exported, evaluated = (loaded(chain, f"{name}.json") for name in ("pruned", "export", "evaluate"))
    shown = section(whole[0], "comparison")
    found = [values(row) for row in shown.all("tr")][1:]
    timed, dense = exported["latency"], exported["baseline"]
    assert found == [
        *(list(map(float, pruned[name].values())) for name in ("params", "macs", "size")),
        [exported["baseline_size"], exported["size"]],
        [state(chain, "base.pt")["history"][-1]["metrics"]["top1_after"], evaluated["top1"]],
        [dense["p50_ms"], *dense["p50_interval_ms"], timed["p50_ms"], *timed["p50_interval_ms"]],
    ]
    said = next(each for each in shown.all("p") if "Measured speedup" in each.text)
    assert values(said) == [exported["speedup"], *exported["speedup_interval"], exported["macs_speedup"]]
    assert rows(shown)["Parameters"][-2] == f"{pruned['params']['before'] / pruned['params']['after']:.2f}x"
    assert rows(shown)["ONNX file, bytes"][-1] == "export.json"


def test_sections_and_pictures(whole: tuple[Element, Any], chain: Path) -> None:
    page, said = whole
    titles = {each.attributes["aria-labelledby"]: next(each.all("h2")).text for each in page.all("section")}
    assert said["sections"] == list(titles)
    assert titles == {name: SECTIONS[name] for name in SECTIONS if name != "results"}
    assert list(said["missing"]) == ["results"]
    assert "results (no results.json" in next(page.all("footer")).text
    words = {each.attributes["aria-label"].partition(".")[0]: each.text for each in page.all("svg")}
    assert len(words) == 6
    name = next(iter(state(chain, "final.pt")["plan"]))
    assert all(name in words[title] for title in ("Channels kept of each layer", "Filters separate as λ grows"))
    assert "baseline, p50" in words["Distribution of the timed runs"]
    plan = state(chain, "final.pt")["plan"]
    found = rows(next(section(page, "kept").all("table")))
    assert {name: found[name][:2] for name in plan} == {
        name: [str(share["channels"]), str(share["kept"])] for name, share in plan.items()
    }


def test_warnings(whole: tuple[Element, Any], chain: Path) -> None:
    said = section(whole[0], "warnings").text
    reasons = {layer["reason"] for layer in loaded(chain, "analyze.json")["layers"] if layer["reason"]}
    assert reasons
    assert all(reason in said for reason in reasons)
    exported = loaded(chain, "export.json")
    assert ("Noisy timing" in said) == (exported["latency"]["noisy"] or exported["baseline"]["noisy"])
    assert "Files of several runs" not in said


def repeatable(entry: dict[str, Any]) -> dict[str, Any]:
    """All of an entry but clocks, and digests of files that hold one."""
    kept = {name: value for name, value in entry["options"].items() if not name.endswith("sha256")}
    return {**entry, "clock": None, "options": kept, "input": entry["input"]["model"]}


def test_every_command_can_be_typed_again(whole: tuple[Element, Any], chain: Path, tmp_path: Path) -> None:
    lines = [each.text for each in section(whole[0], "history").all("pre")]
    assert [shlex.split(line)[1] for line in lines] == [
        "train", "regularize", "prune", "finetune", "export", "evaluate"
    ]  # fmt: skip
    assert [shlex.split(line)[1:] for line in lines[4:]] == [list(EXPORT), list(EVALUATE)]
    (tmp_path / "net.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for line in lines[:4]:
            type_(*shlex.split(line)[1:])
    first, again = (state(folder, "final.pt")["history"] for folder in (chain, tmp_path))
    assert list(map(repeatable, again)) == list(map(repeatable, first))
    told = section(whole[0], "history").text
    assert all(
        entry["input"]["sha256"] in told for entry in state(chain, "final.pt")["history"] if entry["input"]["sha256"]
    )
    assert state(chain, "final.pt")["history"][1]["options"]["teacher_sha256"] in told


def test_quantiles_are_of_the_runs(chain: Path) -> None:
    timed = loaded(chain, "export.json")["latency"]
    found = timed["quantiles_ms"]
    assert len(found) == 41
    assert found == sorted(found)
    assert (found[0], found[20]) == (timed["min_ms"], timed["p50_ms"])
    assert found[38] == pytest.approx(timed["p95_ms"], rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_each_file_alone(name: str, chain: Path, greg: Greg, quick: None) -> None:
    page, said = told(greg, chain / name)
    assert "files" in said["sections"]
    assert set(said["sections"]) | set(said["missing"]) >= set(SECTIONS)
    assert set(said["sections"]) & set(said["missing"]) == set()
    assert str(chain / name) in section(page, "files").text
    needed = {"final.pt": "separation", "export.json": "latency", "evaluate.json": "accuracy", "pruned.json": "kept",
              "analyze.json": "warnings", "final.onnx": "origin", "tuned.json": "accuracy", "base.pt": "history",
              "reg 1.pt": "separation", "pruned.pt": "comparison"}  # fmt: skip
    assert needed[name] in said["sections"]


def test_the_same_files_give_the_same_page(chain: Path, greg: Greg) -> None:
    told(greg, chain / "pruned.json")
    first = Path("page.html").read_bytes()
    told(greg, chain / "pruned.json")
    assert Path("page.html").read_bytes() == first


def test_strangers_are_told_apart(chain: Path, greg: Greg, quick: None, tmp_path: Path) -> None:
    other = state(chain, "base.pt")
    other["history"][0]["metrics"]["top1_after"] = 12.5
    torch.save(other, "other.pt")
    page, _ = told(greg, chain / "final.pt", "other.pt", chain / "evaluate.json", chain / "final.onnx")
    said = section(page, "warnings")
    assert "Files of several runs" in said.text
    assert sorted(item.text.count(",") for item in said.all("li") if item.text.strip().startswith("run ")) == [0, 2]
    assert 12.5 not in values(section(page, "comparison"))
    page, _ = told(greg, chain / "final.pt", chain / "final.onnx", chain / "evaluate.json")
    assert "several runs" not in page.text


def test_a_step_that_has_not_finished_is_a_warning(chain: Path, greg: Greg, quick: None, tmp_path: Path) -> None:
    record = {"step": "final", "argv": ["finetune", "p.pt"], "result": None}
    (tmp_path / "final.json").write_text(json.dumps(record))
    page, _ = told(greg, chain / "pruned.pt", "final.json")
    said = section(page, "warnings").text
    assert "greg run has not finished the step final" in said
    assert "several runs" not in said


@pytest.mark.parametrize("met", [True, False])
def test_a_missed_target_is_a_warning(chain: Path, greg: Greg, quick: None, tmp_path: Path, met: bool) -> None:
    target = {"met": met, "text": "--target-speedup 2x (measured: 1.80x)"}
    (tmp_path / "c.json").write_text(json.dumps({"dense": {}, "pruned": {}, "macs_speedup": 2.0, "target": target}))
    page, _ = told(greg, chain / "pruned.pt", "c.json")
    assert ("The exported file misses --target-speedup 2x (measured: 1.80x)" in page.text) is not met


def hostile(chain: Path) -> Any:
    """A state whose names are what an attacker would like them to be."""
    found = state(chain, "final.pt")
    found["plan"] = {f"{HOSTILE}{at}": share for at, share in enumerate(found["plan"].values())}
    found["data"] = f"{HOSTILE}\x00\u202e\ud800"
    found["history"][-1]["options"]["model"] = found["history"][-1]["input"]["model"] = HOSTILE
    found["history"][-1]["clock"]["finished"] = HOSTILE
    found["history"][-1]["versions"] = {"greg": HOSTILE}
    for entry in found["history"]:
        if "norms" in entry["metrics"] and entry["metrics"]["norms"]:
            norms = entry["metrics"]["norms"]
            norms["spread"] = {f"{HOSTILE}{name}": each for name, each in norms["spread"].items()}
    return found


def test_names_are_text_whatever_they_say(chain: Path, greg: Greg) -> None:
    torch.save(hostile(chain), "x<b>&.pt")
    Path("r.json").write_text(
        json.dumps({"recipe": {}, "cells": [], "results": [{"name": HOSTILE, "each": {HOSTILE: HOSTILE}, "mean": 1.0}]})
    )
    Path("e.json").write_text(
        json.dumps({**loaded(chain, "export.json"), "onnx": HOSTILE, "gates": [{"gate": HOSTILE, "text": HOSTILE}],
                    "alignment": {"hint": HOSTILE}, "identity": {HOSTILE: HOSTILE}})
    )  # fmt: skip
    page, _ = told(greg, "x<b>&.pt", "r.json", "e.json")
    for name in ("origin", "kept", "history", "results", "checks", "warnings", "latency"):
        assert HOSTILE in section(page, name).text, name
    assert "x<b>&.pt" in section(page, "files").text
    text = Path("page.html").read_text()
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e]", text)
    assert "alert(1)</script>" in html.unescape(text)


def test_that_check_sees_markup() -> None:
    good = '<html lang="en"><style></style><header><h1>a</h1><nav></nav></header><main></main><footer></footer></html>'
    sound(good)
    for bad in (
        "<script></script>",
        '<p onclick="x"></p>',
        '<a href="https://a"></a>',
        "<h3>x</h3>",
        "<table></table>",
    ):
        with pytest.raises((AssertionError, StopIteration)):
            sound(good.replace("</main>", f"{bad}</main>"))


@pytest.mark.parametrize(
    "change",
    [
        {"latency": 3}, {"latency": {"p50_ms": "1"}}, {"latency": {"p50_ms": None}}, {"gates": {}},
        {"speedup_interval": [1]}, {"identity": []}, {"variants": [3, {}]}, {"made_by": {"options": 3, "command": []}},
        {"made_by": {"options": {"model": []}, "command": "prune"}}, {"alignment": None}, {"protocol": "x"},
    ],
)  # fmt: skip
def test_damaged_documents_tell_less(change: dict[str, Any], chain: Path, greg: Greg, quick: None) -> None:
    Path("e.json").write_text(json.dumps({**loaded(chain, "export.json"), **change}))
    told(greg, "e.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello", "none of greg's files"),
        (b"", "none of greg's files"),
        (b"{", "no JSON document"),
        (b'{"latency": {"p50_ms": 1e999}}', "no JSON document"),
        (b'{"a": 1}', "nothing that greg prints"),
        (b"{" + b'"a":{' * 100_000, "no JSON document"),
        (b'{"step": 1, "argv": [], "result": null}', "nothing that greg prints"),
        (b"PK\x03\x04", "damaged"),
    ],
)
def test_what_is_no_file_of_ours_is_named(content: bytes, reason: str, chain: Path, greg: Greg) -> None:
    Path("strange").write_bytes(content)
    ran = greg("report", chain / "evaluate.json", "strange", "-o", "page.html", "--json")
    assert ran.code == 4, ran.err
    assert "strange" in ran.error()
    assert reason in ran.error() or content.startswith(b"PK")
    assert ran.out == ""
    assert not Path("page.html").exists()


def test_a_foreign_onnx_file_is_refused(chain: Path, greg: Greg) -> None:
    model = onnx.load(str(chain / "final.onnx"))
    model.ClearField("metadata_props")
    onnx.save(model, "foreign.onnx")
    ran = greg("report", "foreign.onnx", "-o", "page.html")
    assert ran.code == 4
    assert "foreign.onnx" in ran.error()


def test_a_document_is_bounded(greg: Greg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_DOCUMENT", 2**20)
    Path("large.json").write_text('{"a": "' + "x" * 2**20 + '"}')
    ran = greg("report", "large.json", "-o", "page.html")
    assert ran.code == 4
    assert "larger than 1,048,576 bytes" in ran.error()


def test_an_output_stays(chain: Path, greg: Greg, quick: None) -> None:
    Path("page.html").write_text("mine")
    for words in (("-o", "page.html"), ("-o", "page.pdf")):
        ran = greg("report", chain / "evaluate.json", *words)
        assert ran.code == 2
    assert Path("page.html").read_text() == "mine"
    told(greg, chain / "evaluate.json")
    assert Path("page.html").read_text() != "mine"
    shutil.copy(chain / "evaluate.json", "in.html")
    ran = greg("report", "in.html", "-o", "in.html", "--force")
    assert ran.code == 2
    assert "is an input of this command" in ran.error()


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """Of WCAG 2."""
    dark, bright = sorted((luminance(first), luminance(second)))
    return (bright + 0.05) / (dark + 0.05)


def test_contrast_in_both_schemes_and_on_paper(whole: tuple[Element, Any]) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    schemes = re.findall(r":root \{(.*?)\}", next(whole[0].all("style")).text, re.S)
    found = [dict(re.findall(r"--(\w+): (#\w{6})", scheme)) for scheme in schemes]
    assert len(found) == 3
    for colors in found:
        for ink in ("ink", "quiet", "link", "warn", "bad"):
            for paper in ("paper", "tint"):
                assert contrast(colors[ink], colors[paper]) >= 4.5, (ink, paper)
    fills = {fill for svg in whole[0].all("svg") for each in svg.all("text")
             for fill in re.findall(r"fill: (#\w{6})", each.attributes.get("style", ""))}  # fmt: skip
    for colors in found:
        assert all(contrast(ink, colors["card"]) >= 4.5 for ink in {*fills, "#000000"})
