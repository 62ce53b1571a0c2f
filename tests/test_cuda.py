"""What only a CUDA device can show; skipped where there is none."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from greg_compress.options.penalty import Penalize
from greg_compress.options.training import Decay, Precision
from greg_compress.penalty.growing import GrowingPenalty
from greg_compress.penalty.schedule import GrowthSchedule
from greg_compress.penalty.targets import Units
from greg_compress.selection.plan import Plan, Share
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.training.batches import Batches
from greg_compress.training.loop import CHECK_EVERY, Loop, Settings
from greg_compress.training.numerics import configure_cuda
from greg_compress.training.schedule import Schedule
from tests.test_training import NORMAL, Small, assert_same, everything, part

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def make_loop(precision: Precision, total: int = 60, seed: int = 1) -> Loop:
    device = torch.device("cuda")
    torch.manual_seed(seed)
    model = Small()
    wiring = prunable_wiring(model, ((1, 6, 6),))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan = Plan({"a": Share(4, 2, (1, 3)), "b": Share(3, 2, (0,))})
    aim = Units(model, wiring, Penalize.UNIT).picked_by(plan, recover=False)
    penalty = GrowingPenalty(GrowthSchedule(1.0, 0.1, 1, total, stop_ratio=1e6), aim)
    batches = Batches(part().on(device), NORMAL, 8, 0, device=device)
    return Loop(
        model, batches, Schedule(0.05, total, Decay.COSINE, 2), Settings(0.9, 5e-4, precision, device, 0), penalty
    )


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16])
def test_resumed_equals_uninterrupted(precision: Precision) -> None:
    configure_cuda(torch.device("cuda"), tf32=False, deterministic=True)
    whole = make_loop(precision)
    list(whole)
    stopped = make_loop(precision)
    for iteration in stopped:
        if iteration == 23:
            break
    saved: dict[str, Any] = copy.deepcopy(everything(stopped))
    again = make_loop(precision, seed=2)
    again.model.load_state_dict(saved.pop("weights"))
    again.load_state_dict(saved)
    list(again)
    assert_same(everything(whole), everything(again))


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_a_step_does_not_wait_for_the_device(precision: Precision) -> None:
    """Data, penalty and step; the loop looks at the loss only now and then. (A gradient scaler has to wait.)"""
    loop = iter(make_loop(precision))
    next(loop)
    try:
        for iteration in range(2, CHECK_EVERY):
            ends_epoch = iteration % 5 == 0  # where figures are read
            torch.cuda.set_sync_debug_mode("default" if ends_epoch else "error")
            next(loop)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_images_made_on_the_device_are_those_made_on_the_cpu() -> None:
    there, here = (
        Batches(part().on(torch.device(name)), NORMAL, 8, 0, device=torch.device(name)) for name in ("cuda", "cpu")
    )
    for (images, labels), (others, same) in zip(there.epoch(1), here.epoch(1), strict=True):
        assert images.device.type == "cuda"
        torch.testing.assert_close(images.cpu(), others, rtol=0, atol=1e-6)
        assert torch.equal(labels, same)
