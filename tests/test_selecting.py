"""What goes beside ratios: coupled groups, rounding, one threshold for all, caps and targets."""

from __future__ import annotations

import itertools
import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from greg_compress.criteria.scores import Scores, l1, relative
from greg_compress.errors import CheckFailed, RequestError
from greg_compress.options.penalty import Penalize
from greg_compress.options.selecting import WAYS, Scope, Selection
from greg_compress.penalty.targets import Units
from greg_compress.recording import recorded
from greg_compress.selection.choose import choose, counts
from greg_compress.selection.counts import Queue
from greg_compress.selection.estimate import Estimate
from greg_compress.selection.limits import Limits
from greg_compress.selection.plan import Plan, picks_from_json
from greg_compress.selection.plan_file import PlanFile
from greg_compress.selection.ratios import parse_ratios
from greg_compress.surgery.effect import cost_of
from greg_compress.surgery.masking import masked_equals_sliced
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import Wiring, find_groups
from sample_models import resnet_cifar, vgg_cifar
from tests.cutting import examples, random_plan, settle, sliced
from tests.random_networks import BLOCKS, Block, Random
from tests.zoo import INPUT, ZOO, Chain, Chunked, Gated, Grouped, Projection, Residual, Upward, conv, inputs_of

IMAGE = (INPUT,)
SLOW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class GatedResidual(nn.Module):
    """Two summands of very different scale, the second behind a squeeze-and-excite gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 4), conv(4, 6), conv(4, 6)
        self.squeeze, self.excite, self.fc = conv(6, 2, 1), conv(2, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.b(x)
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.fc(F.relu(self.a(x) + y).mean((2, 3)))


class Equal(nn.Sequential):
    """Layers of one width: a uniform ratio jumps."""

    def __init__(self, width: int = 8, depth: int = 8) -> None:
        widths = [3, *[width] * depth]
        convs = [conv(*pair) for pair in itertools.pairwise(widths)]
        super().__init__(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


def selection(text: str | None = None, **more: Any) -> Selection:
    return Selection(None if text is None else parse_ratios(text), **more)


def kept(model: nn.Module, text: str, *skip: str, **more: Any) -> dict[str, int]:
    return counts(model, find_groups(model, IMAGE), selection(text, skip=skip, coupled=True, **more)).counts


def test_any_layer_of_a_coupled_group_names_it() -> None:
    model = Projection()
    assert kept(model, "a2=0.5") == kept(model, "short=0.5") == {"a2": 3}
    assert kept(model, "a2=0.5,short=0.25") == {"a2": 4}
    assert kept(model, "short=0.25,a2=0.5") == {"a2": 3}
    assert kept(model, "0.5") == {"a1": 2, "a2": 3}
    with pytest.raises(RequestError, match="asks for no coupled group"):
        kept(model, "0.5", "short")


def test_one_number_asks_for_coupled_groups_whole() -> None:
    """The stem begins the only stream there is; alone it would be spared."""
    assert kept(Residual(), "0.5") == {"stem": 3, "a1": 2, "b1": 2}
    assert counts(Residual(), find_groups(Residual(), IMAGE), selection("0.5")).counts == {"a1": 2, "b1": 2}


@pytest.mark.parametrize(
    ("model", "text", "said"),
    [
        (Chain, "0.5", "no addition ties layers of this network"),
        (Gated, "0.5", "no addition ties layers of this network"),
        (Residual, "a1=0.5", "asks for no coupled group, like that of stem"),
    ],
)
def test_coupled_without_effect(model: type[nn.Module], text: str, said: str) -> None:
    with pytest.raises(RequestError, match=f"--coupled would have no effect: .*{said}"):
        kept(model(), text)


def test_every_summand_scores_alike_and_a_gate_does_not() -> None:
    model = GatedResidual()
    model.b.weight.data *= 1000
    wiring = find_groups(model, IMAGE)
    group = next(group for group in wiring.groups if group.coupled)
    assert set(group.sources) == {"a.weight", "b.weight", "excite.weight"}
    assert set(group.scored) == {"a.weight", "b.weight"}
    sizes = [w.detach().double().abs().sum((1, 2, 3)) for w in (model.a.weight, model.b.weight)]
    order = {int(unit): at for at, unit in enumerate(wiring.filters("a.weight")[1])}
    expected = sum(size / size.mean() for size in sizes) / 2
    torch.testing.assert_close(l1(model, wiring, group), expected[[order[int(unit)] for unit in group.units]])


@pytest.mark.parametrize("net", [Residual, Projection, GatedResidual])
def test_coupled_units_are_cut_and_penalised_in_every_layer(net: type[nn.Module]) -> None:
    model = settle(net())
    wiring = prunable_wiring(model, IMAGE)
    (group,) = (group for group in wiring.groups if group.coupled)
    name = group.name
    plan = choose(model, wiring, selection(f"{name}=0.5", coupled=True))
    assert plan.counts == {name: group.channels // 2}
    assert masked_equals_sliced(model, sliced(model, wiring, plan), wiring, plan.removed_units(wiring)).passed
    aim = Units(model, wiring, Penalize.WEIGHTS).picked_by(plan, recover=False)
    pulled = {id(target.parameter): target.picked.flatten() for target in aim.targets}
    removed = plan.removed_units(wiring)
    for source in group.sources:
        rows = wiring.filters(source)[1]
        assert pulled[id(model.get_parameter(source))].bool().tolist() == [bool((removed == row).any()) for row in rows]
    assert len(pulled) == len(group.sources)
    assert {id(gauge.weight) for gauge in aim.gauges} == {id(model.get_parameter(name)) for name in group.scored}


@given(st.integers(1, 80), st.integers(1, 24), st.data())
def test_rounding(channels: int, step: int, data: st.DataObject) -> None:
    """Among all multiples the nearest, the larger of two; never more than there is, never beyond the cap."""
    most = data.draw(st.integers(0, channels - 1))
    before = data.draw(st.integers(channels - most, channels))
    multiples = [m for m in range(step, channels + 2 * step, step) if m >= channels - most]
    nearest = min(multiples, key=lambda m: (abs(m - before), -m))
    assert Limits(channels, most, step).aligned(before) == min(nearest, channels)


def test_a_cap_rounds_down_and_a_ratio_up() -> None:
    model = nn.Sequential(conv(3, 4), conv(4, 5), nn.Flatten(), nn.Linear(320, 2))
    wiring = find_groups(model, IMAGE)
    assert counts(model, wiring, selection("0.5")).counts == {"1": 2}
    assert counts(model, wiring, selection("0.5", max_ratio=Decimal("0.5"))).counts == {"1": 3}
    assert counts(model, wiring, selection("0.5", max_ratio=Decimal("0.5"), align=2)).counts == {"1": 4}
    with pytest.raises(CheckFailed, match="see --ratios and --max-ratio"):
        choose(model, wiring, selection("0.5", max_ratio=Decimal("0.1")))


@pytest.mark.parametrize("align", [2, 3, 4])
@pytest.mark.parametrize("net", [Grouped, Chunked, Upward])
def test_channels_of_units_of_several_are_aligned(net: type[nn.Module], align: int) -> None:
    model = settle(net())
    wiring = prunable_wiring(model, IMAGE)
    text = ",".join(f"{group.name}=0.5" for group in wiring.groups if not group.frozen)
    plan = counts(model, wiring, selection(text, align=align))
    for group in wiring.groups:
        rows = wiring.filters(group.sources[0])[1]
        each = int(torch.isin(rows, group.units).sum()) // group.channels
        if not group.frozen and group.name in plan.shares:
            assert plan.kept_in(group) * each % align == 0
    assert plan.asked is not None
    assert set(plan.shares) <= set(plan.asked.shares)
    if plan.shares:
        require_runs(model, wiring, choose(model, wiring, selection(text, align=align)))


def require_runs(model: nn.Module, wiring: Wiring, plan: Plan) -> None:
    """A grouped convolution whose channels do not divide would raise."""
    assert sliced(model, wiring, plan)(*examples(wiring.input_shapes)).isfinite().all()


@SLOW
@given(BLOCKS, st.integers(2, 5))
def test_random_networks_are_aligned(blocks: list[Block], align: int) -> None:
    torch.manual_seed(0)
    model = settle(Random(blocks))
    wiring = prunable_wiring(model, IMAGE)
    free = [group for group in wiring.groups if not group.frozen]
    assume(free)
    text = ",".join(f"{name}=0.6" for name in {group.name.partition("#")[0] for group in free})
    plan = counts(model, wiring, selection(text, coupled=any(group.coupled for group in free), align=align))
    for group in free:
        rows = wiring.filters(group.sources[0])[1]
        each = rows[torch.isin(rows, group.units)].unique(return_counts=True)[1]
        if group.name in plan.shares:
            assert len(each.unique()) == 1
            assert plan.kept_in(group) * int(each[0]) % align == 0
            assert plan.kept_in(group) < group.channels
        elif len(each.unique()) == 1 and len(each) > 1:
            step = next(step for step in range(1, align + 1) if step * int(each[0]) % align == 0)
            lost = min(math.ceil(Fraction(6, 10) * group.channels), group.channels - 1)
            assert step >= group.channels or group.channels - lost + Fraction(step, 2) >= group.channels // step * step
    if plan.shares:
        decided = choose(model, wiring, selection(text, coupled=any(group.coupled for group in free), align=align))
        require_runs(model, wiring, decided)


def test_what_was_asked_survives_json() -> None:
    model = vgg_cifar.vgg19()
    wiring = find_groups(model, ((3, 32, 32),))
    plan = choose(model, wiring, selection("[1-15:0.3]", align=32))
    assert plan.asked is not None
    assert plan.asked.counts["features.3"] == 44
    assert plan.counts["features.3"] == 32
    again = picks_from_json(json.loads(json.dumps(plan.to_json())), wiring)
    assert again.shares == plan.shares
    assert again.asked is not None
    assert again.asked.counts == {name: plan.asked.counts[name] for name in plan.shares}


RANKS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=6)


@given(RANKS, st.integers(0, 99), st.data())
def test_one_threshold_for_all(groups: list[list[int]], percent: int, data: st.DataObject) -> None:
    limits = {str(at): Limits(len(own), data.draw(st.integers(0, len(own) - 1))) for at, own in enumerate(groups)}
    scores = {str(at): torch.tensor(own, dtype=torch.float64) for at, own in enumerate(groups)}
    lost = Queue(limits, lambda name: relative(scores[name])).first(Decimal(percent) / 100)
    total, room = sum(map(len, groups)), sum(each.most for each in limits.values())
    assert sum(lost.values()) == min(math.ceil(Fraction(percent, 100) * total), room)
    gone, stays = [0.0], [math.inf]
    for at, own in enumerate(groups):
        ranked = [Fraction(score * len(own), max(1, sum(own))) for score in sorted(own)]
        count, most = lost[str(at)], limits[str(at)].most
        assert count <= most
        gone += map(float, ranked[:count])
        stays += map(float, ranked[count:most])  # beyond the cap nothing may go, whatever its score
    assert max(gone) <= min(stays) + 1e-9


def test_a_threshold_takes_more_where_the_scores_are_low() -> None:
    model = Equal()
    model[2].weight.data[:5] *= 1e-3
    wiring = find_groups(model, IMAGE)
    local, everywhere = selection("0.25"), selection("0.25", scope=Scope.GLOBAL)
    assert set(counts(model, wiring, local).counts.values()) == {6}
    found = counts(model, wiring, everywhere)
    assert found.kept_in(wiring.groups[2]) < 4
    assert sum(share.channels - share.kept for share in found.shares.values()) == 14  # of 7 groups of 8
    assert found.kept_in(wiring.groups[0]) == 8
    capped = counts(model, wiring, selection("0.25", scope=Scope.GLOBAL, max_ratio=Decimal("0.3")))
    assert min(capped.counts.values()) == 6
    assert sum(share.channels - share.kept for share in capped.shares.values()) == 14
    emptied = counts(model, wiring, selection("0.99", scope=Scope.GLOBAL))
    assert set(emptied.counts.values()) == {1}  # 0.9 of 8


@pytest.mark.parametrize("net", ZOO)
def test_the_estimate_is_what_the_cut_measures(net: type[nn.Module]) -> None:
    model = net()
    wiring = prunable_wiring(model, inputs_of(net))
    estimate = Estimate(model, wiring)
    assert estimate.after(torch.empty(0, dtype=torch.int64)) == cost_of(model, wiring)
    for seed, ratio in enumerate(("0.3", "0.8")):
        plan = random_plan(wiring, ratio, coupled=True, seed=seed)
        assert estimate.after(plan.removed_units(wiring)) == cost_of(sliced(model, wiring, plan), wiring)


@SLOW
@given(BLOCKS)
def test_the_estimate_of_random_networks(blocks: list[Block]) -> None:
    model = Random(blocks)
    wiring = prunable_wiring(model, IMAGE)
    plan = random_plan(wiring, "0.5", coupled=True)
    after = Estimate(model, wiring).after(plan.removed_units(wiring))
    assert after == cost_of(sliced(model, wiring, plan), wiring)


TARGETS = {
    "resnet20": (resnet_cifar.resnet20(), ((3, 32, 32),)),
    "vgg19": (vgg_cifar.vgg19(num_classes=10), ((3, 32, 32),)),
    "equal": (Equal(16), IMAGE),
}
WIRINGS = {name: find_groups(*network) for name, network in TARGETS.items()}


@SLOW
@given(
    name=st.sampled_from(sorted(TARGETS)),
    percent=st.integers(1, 99),
    of=st.sampled_from(["target_macs", "target_params"]),
    scope=st.sampled_from(Scope),
    align=st.sampled_from([None, 2, 4]),
)
def test_targets_are_met_or_refused(name: str, percent: int, of: str, scope: Scope, align: int | None) -> None:
    model, wiring = TARGETS[name][0], WIRINGS[name]
    asked: dict[str, Any] = {"scope": scope, "align": align, of: Decimal(percent) / 100}
    plan, refusal = None, ""
    try:
        plan = choose(model, wiring, selection(**asked))
    except RequestError as error:
        refusal = str(error)
    if plan is None or plan.solution is None:
        event("refused")
        assert "the least that can be left is" in refusal or "the nearest found leave" in refusal
        return
    dense, small = cost_of(model, wiring), cost_of(sliced(model, wiring, plan), wiring)
    left = small.macs / dense.macs if of == "target_macs" else small.params / dense.params
    assert left == pytest.approx(plan.solution.reached)
    assert abs(left / (percent / 100) - 1) <= 0.02
    if not plan.solution.ahead:
        same = selection(str(plan.solution.ratio), scope=scope, align=align)
        assert counts(model, wiring, same).counts == plan.counts


def left_of_equal(width: int, ahead: int) -> float:
    """By hand: the share of MACs where the first `ahead` layers behind the first are narrower by one."""
    widths = [3, 16, *(width - (at < ahead) for at in range(7))]
    dense = 64 * 9 * (3 * 16 + 7 * 16 * 16) + 2 * 16
    return (64 * 9 * sum(a * b for a, b in itertools.pairwise(widths)) + 2 * widths[-1]) / dense


@pytest.mark.parametrize("percent", range(10, 100, 5))
def test_across_a_jump_groups_move_one_by_one(percent: int) -> None:
    """Seven layers of sixteen units: a ratio alone leaves 89, 78, 69, 60... percent of the MACs."""
    model, wiring = TARGETS["equal"][0], WIRINGS["equal"]
    plan = choose(model, wiring, selection(target_macs=Decimal(percent) / 100))
    assert plan.solution is not None
    kept = [plan.kept_in(group) for group in wiring.groups[1:-1]]
    assert kept == sorted(kept)  # the first in order of execution are ahead
    assert max(kept) - min(kept) <= 1
    reached = {(width, ahead): left_of_equal(width, ahead) for width in range(2, 17) for ahead in range(7)}
    del reached[16, 0]  # nothing
    nearest = min(abs(left - percent / 100) for left in reached.values())
    uniform = min(abs(left - percent / 100) for (_, ahead), left in reached.items() if not ahead)
    found = abs(plan.solution.reached - percent / 100)
    assert found == pytest.approx(uniform if uniform <= 0.02 * percent / 100 else nearest)


def test_what_cannot_be_reached_says_what_can() -> None:
    model, wiring = TARGETS["resnet20"][0], WIRINGS["resnet20"]
    least = counts(model, wiring, selection("0.999999"))
    left = Estimate(model, wiring).after(choose(model, wiring, selection("0.999999")).removed_units(wiring)).macs
    with pytest.raises(RequestError) as caught:
        counts(model, wiring, selection(target_macs=Decimal("0.01")))
    share = round(100 * left / cost_of(model, wiring).macs, 2)
    assert (
        str(caught.value)
        == f"--target-macs 1%: the least that can be left is {share:g}%; ask for that, or add --coupled"
    )
    assert set(least.counts.values()) == {1}
    asked: dict[str, Any] = {"skip": ("layer1",), "align": 4, "max_ratio": Decimal("0.8")}
    with pytest.raises(RequestError, match=r"can be left is \S+% with --skip, --align, --max-ratio; ask for that"):
        counts(model, wiring, selection(target_macs=Decimal("0.05"), **asked))
    model = Equal(8, 2)
    with pytest.raises(RequestError, match=r"70%: the nearest found leave \S+% and 100%"):
        counts(model, find_groups(model, IMAGE), selection(target_macs=Decimal("0.7"), align=4))
    model = Projection()
    with pytest.raises(RequestError, match="ask for that, or add --coupled"):
        counts(model, find_groups(model, IMAGE), selection(target_macs=Decimal("0.1")))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, f"say what to prune with one of {WAYS}"),
        ({"ratios": "0.5", "target_macs": Decimal("0.5")}, "not --ratios and --target-macs"),
        ({"ratios": "0.5", "align": 0}, "--align 0"),
        ({"ratios": "[0, 0.5]", "scope": Scope.GLOBAL}, r"--scope global takes one number as --ratios, not \[0, 0.5\]"),
    ],
)
def test_selections_that_contradict_themselves(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Selection(**{**given, "ratios": parse_ratios(given["ratios"]) if "ratios" in given else None})


def test_all_that_decides_is_recorded() -> None:
    fields = Selection.__dataclass_fields__
    found = recorded(selection("0.5", skip=("a",), coupled=True, align=8, scope=Scope.GLOBAL, max_ratio=Decimal("0.9")))
    assert found.keys() == fields.keys()
    assert json.loads(json.dumps(found)) == found
    assert (found["scope"], found["max_ratio"], found["target_macs"]) == ("global", "0.9", None)
    assert recorded(selection(target_macs=Decimal("0.5")))["target_macs"] == "0.5"
    assert recorded(selection(plan=PlanFile("p.json", "abc", ())))["plan"] == {"path": "p.json", "sha256": "abc"}


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.booleans(), st.integers(0, 9))
def test_l1_is_the_mean_of_absolute_weights(shape: list[int], transposed: bool, seed: int) -> None:
    """Whatever the parts in which a weight is summed up."""
    torch.manual_seed(seed)
    layer = nn.ConvTranspose2d(3, 5, 3, padding=1) if transposed else conv(3, 5)
    model = nn.Sequential(layer, nn.Conv2d(5, shape[0], 1), nn.Flatten(), nn.Linear(64 * shape[0], 2))
    wiring = find_groups(model, IMAGE)
    weight = layer.weight.detach().double().abs()
    expected = weight.mean((0, 2, 3) if transposed else (1, 2, 3))
    torch.testing.assert_close(Scores(model, wiring)["0"], expected, rtol=1e-12, atol=0)


def test_a_weight_in_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Chain()
    wiring = find_groups(model, IMAGE)
    whole = l1(model, wiring, wiring.groups[0])
    for size in (1, 28, 60, 10**6):
        monkeypatch.setattr("greg_compress.criteria.scores.AT_ONCE", size)
        assert torch.equal(l1(model, wiring, wiring.groups[0]), whole)
