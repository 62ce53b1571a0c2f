"""Plan files: written by analyze, read by every command that selects, and never trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from greg_compress.errors import GregError, InputError, RequestError
from greg_compress.options.selecting import Selection
from greg_compress.selection.choose import choose, counts
from greg_compress.selection.plan import Plan, Share
from greg_compress.selection.plan_file import PlanFile, PlannedGroup, read_plan
from greg_compress.selection.planned import fitted, written
from greg_compress.selection.ratios import parse_ratios
from greg_compress.wiring.groups import find_groups
from tests.conftest import DIGITS, Ran
from tests.zoo import INPUT, Chain, Projection, Residual

Greg = Callable[..., Ran]
CHAIN = Chain()
WIRING = find_groups(CHAIN, (INPUT,))
GOOD: dict[str, Any] = {
    "format": "greg-plan",
    "version": 1,
    "groups": [
        {"name": "a", "channels": 6, "kept": 4, "removed": [0, 5]},
        {"name": "b", "channels": 5, "kept": 4},
        {"name": "fc", "channels": 4, "kept": 4, "removed": None},
    ],
}


def file_of(folder: Path, content: Any) -> str:
    path = folder / "p.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@given(st.data())
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    shares = {}
    for group in WIRING.groups[:2]:
        removed = data.draw(st.sets(st.integers(0, group.channels - 1), max_size=group.channels - 1))
        if removed:
            decided = tuple(sorted(removed)) if data.draw(st.booleans()) else None
            shares[group.name] = Share(group.channels, group.channels - len(removed), decided)
    text = written(Plan(shares), WIRING)
    found = read_plan(file_of(tmp_path_factory.mktemp("plan"), text))
    assert [group.name for group in found.groups] == [group.name for group in WIRING.groups]
    assert fitted(found, WIRING) == Plan(shares)


def test_given_units_are_honoured_and_open_ones_are_l1s(tmp_path: Path) -> None:
    plan = choose(CHAIN, WIRING, Selection(plan=read_plan(file_of(tmp_path, GOOD))))
    sizes = CHAIN.b.weight.detach().abs().mean((1, 2, 3))
    assert plan.shares == {"a": Share(6, 4, (0, 5)), "b": Share(5, 4, (int(sizes.argmin()),))}


def test_a_plan_may_remove_coupled_units() -> None:
    model = Projection()
    wiring = find_groups(model, (INPUT,))
    asked = Selection(parse_ratios("a2=0.5"), coupled=True)
    plan = choose(model, wiring, asked)
    groups = [PlannedGroup(group.name, group.channels, plan.kept_in(group)) for group in wiring.groups]
    again = choose(model, wiring, Selection(plan=PlanFile("p.json", "", tuple(groups))))
    assert again.shares == plan.shares
    assert again.counts == {"a2": 3}


def changed(**group: Any) -> dict[str, Any]:
    """The good plan with another first group; what is None goes."""
    first = {key: value for key, value in {**GOOD["groups"][0], **group}.items() if value is not ...}
    return {**GOOD, "groups": [first, *GOOD["groups"][1:]]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "no JSON"),
        ('{"format": "greg-plan", "format": "greg-plan"}', "has a key twice"),
        ("1" * 5000, "no JSON"),
        (" " * (2**22 + 1), "is it the right file?"),
        ("[]", "is no plan file"),
        ("null", "is no plan file"),
        ({**GOOD, "format": "greg-state"}, "is no plan file"),
        ({**GOOD, "version": 2}, "has format version 2, this greg reads 1; install a newer greg"),
        ({**GOOD, "version": True}, "its version is no number"),
        ({**GOOD, "version": 0}, "its version is no number"),
        ({**GOOD, "version": "1"}, "its version is no number"),
        ({**GOOD, "groups": {}}, "its groups are no list"),
        ({**GOOD, "grups": []}, "it has a surplus 'grups'"),
        ({**GOOD, "groups": [3]}, "group 0 is no object"),
        ({**GOOD, "groups": [GOOD["groups"][0]] * 2}, "names group a twice"),
        (changed(name=...), "group 0 has no name"),
        (changed(name=3), "group 0 has no name"),
        (changed(removd=[0, 5], removed=...), "group a has a surplus 'removd'"),
        (changed(channels=...), "group a has no number of channels"),
        (changed(channels=6.0), "group a has no number of channels"),
        (changed(channels=2**40), "group a has no number of channels"),
        (changed(kept=True), "does not keep between 1 and its 6 units"),
        (changed(kept=0), "does not keep between 1"),
        (changed(kept=7), "does not keep between 1"),
        (changed(kept=...), "does not keep between 1"),
        (changed(removed=[0]), "removes 1 of 6 units, but keeps 4; null instead leaves it to L1 norm"),
        ({**GOOD, "": 1}, "surplus ''"),
        (changed(removed=[5, 5]), "removes a unit twice"),
        (changed(removed=[0, 6]), "units from 0 to 5"),
        (changed(removed=[-1, 0]), "units from 0 to 5"),
        (changed(removed=[0, True]), "units from 0 to 5"),
        (changed(removed=[0, 1.0]), "units from 0 to 5"),
        (changed(removed="05"), "units from 0 to 5"),
        (changed(removed={"0": 0, "5": 5}), "units from 0 to 5"),
    ],
)
def test_files_that_are_no_plans(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode("latin-1"))
    with pytest.raises(InputError, match=r"p\.json") as caught:
        read_plan(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.just(1.5) | st.text(), lambda s: st.lists(s), max_leaves=5
    )
)
def test_any_value_anywhere_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    folder = tmp_path_factory.mktemp("plan")
    broken = [{**GOOD, key: value} for key in GOOD] + [changed(**{key: value}) for key in GOOD["groups"][0]]
    for content in broken:
        try:
            counts(CHAIN, WIRING, Selection(plan=read_plan(file_of(folder, content))))
        except GregError as error:
            assert error.exit_code in (2, 4)  # noqa: PT017


def test_order_within_a_plan_does_not_matter_to_units(tmp_path: Path) -> None:
    assert read_plan(file_of(tmp_path, changed(removed=[5, 0]))).groups[0].removed == (0, 5)


@pytest.mark.parametrize(
    ("model", "content", "said"),
    [
        (Chain, changed(channels=8, kept=6), "the first layer that differs is a, 8 units there, 6 here"),
        (Chain, changed(name="c"), "layer that differs is a, 6 units here and none there (c stands in its place)"),
        (Chain, {**GOOD, "groups": GOOD["groups"][:2]}, "is fc, 4 units here and none there"),
        (
            Chain,
            {**GOOD, "groups": [*GOOD["groups"], {"name": "x", "channels": 3, "kept": 2}]},
            "is x, 3 units there and none here",
        ),
        (Chain, {**GOOD, "groups": GOOD["groups"][::-1]}, "is a here, fc there: the order is another"),
        (Residual, GOOD, "is stem, 6 units here and none there"),
        (
            Chain,
            {**GOOD, "groups": [*GOOD["groups"][:2], {"name": "fc", "channels": 4, "kept": 3}]},
            "p.json removes 1 units of fc, which is frozen: it is the network's output",
        ),
    ],
)
def test_plans_of_another_network(model: type[torch.nn.Module], content: Any, said: str, tmp_path: Path) -> None:
    net = model()
    with pytest.raises(RequestError, match=r"p\.json") as caught:
        choose(net, find_groups(net, (INPUT,)), Selection(plan=read_plan(file_of(tmp_path, content))))
    assert said in str(caught.value)


def test_a_plan_goes_from_analyze_to_prune(greg: Greg, tmp_path: Path) -> None:
    selecting = ("--target-macs", "60%", "--align", 8)
    ran = greg("analyze", DIGITS, *selecting, "--plan-out", "p.json", "--json")
    assert ran.json["plan"]["target"]["percent"] == 60
    assert 58.8 <= ran.json["plan"]["target"]["reached"] <= 61.2
    layer = next(layer for layer in ran.json["layers"] if layer["name"] == "layer2.0.conv1")
    assert layer["asked"] is not None
    assert layer["kept"] % 8 == 0
    names = [group["name"] for group in json.loads((tmp_path / "p.json").read_text())["groups"]]
    assert {"conv1", "layer1.0.conv1", "fc"} < set(names)
    pruned = greg("prune", DIGITS, "--plan", "p.json", "-o", "a.pt", "--json").json
    direct = greg("prune", DIGITS, *selecting, "-o", "b.pt", "--json").json
    assert direct["target"]["option"] == "--target-macs"
    assert (pruned["target"], pruned["groups"], pruned["macs"]) == (None, direct["groups"], direct["macs"])
    one, other = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])
    assert one["history"][-1]["options"]["plan"].keys() == {"path", "sha256"}


def test_a_plan_is_never_replaced_unasked(greg: Greg, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("mine")
    words = ("analyze", DIGITS, "--ratios", "0.5", "--plan-out", "p.json")
    ran = greg(*words)
    assert ran.code == 2
    assert "p.json exists; add --force" in ran.error()
    assert (tmp_path / "p.json").read_text() == "mine"
    assert greg(*words, "--force").code == 0
    assert read_plan("p.json").groups[1].kept == 16
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]
    assert "--force would have no effect" in greg("analyze", DIGITS, "--force").error()
    assert "--plan-out has no plan to write" in greg("analyze", DIGITS, "--plan-out", "q.json").error()
    assert "cannot be written" in greg("analyze", DIGITS, "--ratios", "0.5", "--plan-out", "no/q.json").error()


SHORT = ("--data", "digits", "--ceiling", "0.1", "--delta", "0.1", "--update-every", 1, "--stabilize", 1)


@pytest.mark.parametrize("method", ["greg-1", "greg-2"])
def test_regularize_by_a_plan(greg: Greg, tmp_path: Path, method: str) -> None:
    """GReg-1 takes the plan's own units, GReg-2 its counts alone; prune takes what comes to the same counts."""
    greg("analyze", DIGITS, "--ratios", "layer3=0.5", "--plan-out", "p.json")
    plan = json.loads((tmp_path / "p.json").read_text())
    group = next(group for group in plan["groups"] if group["name"] == "layer3.0.conv1")
    group["removed"] = mine = [unit for unit in range(128) if unit not in group["removed"]]
    (tmp_path / "p.json").write_text(json.dumps(plan))
    words = () if method == "greg-1" else ("--method", method, "--pick-ceiling", "0.05", "--pick-delta", "0.05")
    ran = greg("regularize", DIGITS, "--plan", "p.json", *SHORT, *words, "-o", "r.pt", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["l1_differs"] is None) == (method == "greg-1")
    picks = torch.load(tmp_path / "r.pt", weights_only=True)["plan"]["layer3.0.conv1"]["removed"]
    assert (picks == mine) == (method == "greg-1")
    for selecting in (("--plan", "p.json"), ("--ratios", "0.5", "--skip", "layer1", "--skip", "layer2")):
        assert greg("prune", "r.pt", *selecting, "-o", "o.pt", "--force").code == 0
    for selecting, said in {
        ("--ratios", "layer3=0.5", "--align", 24): "--ratios layer3=0.5 keeps layer3.0.conv1 72, layer3.1.conv1 72",
        ("--target-params", "50%"): "--target-params 50% keeps layer1.0.conv1",
        ("--ratios", "layer3=0.5,layer3.2.conv1=0.25"): "keeps layer3.2.conv1 96, but r.pt was regularized to keep"
        " layer3.2.conv1 64; leave --ratios out",
    }.items():
        ran = greg("prune", "r.pt", *selecting, "-o", "n.pt")
        assert ran.code == 2
        assert said in ran.error()
