"""What ratio 0.5 takes from every network of torchvision and from families of timm, and how exactly.

Usage: python tests/benchmarks/coverage.py [SPEC ...] > tests/benchmarks/coverage.md. Prints a table in Markdown. Each
network has a process and a thread of its own, two at a time. Time and peak memory (over the network's own) are those
of tracing, planning and cutting; the error is of masked against sliced in float64, relative to the largest output,
without and with `--coupled` (which also takes from the first convolution: `--ratios "*=0.5"`). `blind` stands for an
error that a mistaken plan would not have changed.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from greg_compress.errors import GregError, first_line
from greg_compress.options.selecting import Selection
from greg_compress.selection.choose import choose
from greg_compress.selection.plan import Plan
from greg_compress.selection.ratios import parse_ratios
from greg_compress.sources import libraries, models
from greg_compress.sources.specs import parse_architecture
from greg_compress.surgery.cut import cut
from greg_compress.surgery.effect import cost_of, reduction
from greg_compress.surgery.masking import TOLERANCE, masked_equals_sliced
from greg_compress.surgery.replay import first_difference
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.wiring.groups import Wiring, find_groups
from greg_compress.wiring.skeleton import Shapes, example_inputs, skeleton

CLASSIFICATION = torchvision.models.list_models(module=torchvision.models)
SEGMENTATION = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18")
DETECTION = (
    *("fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn"),
    *("fcos_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"),
    *("ssd300_vgg16", "ssdlite320_mobilenet_v3_large"),
)
TIMM = (
    *("resnet26d", "resnest14d", "res2net50_14w_8s", "seresnet18", "skresnet18", "ecaresnet26t", "gcresnext26ts"),
    *("regnetx_002", "regnety_002", "regnetz_005", "resnetv2_18", "resnetv2_50x1_bit", "resnet50_gn", "resnetblur18"),
    *("resnetaa34d", "resnetrs50", "nf_regnet_b0", "tresnet_m", "legacy_seresnext26_32x4d", "bat_resnext26ts"),
    *("efficientnet_b0", "efficientnet_b0_gn", "efficientnet_cc_b0_4e", "tf_efficientnet_lite0", "efficientnet_es"),
    *("mobilenetv1_100", "mobilenetv3_small_050", "mobilenetv4_conv_small", "mobilenetv4_hybrid_medium", "mnasnet_050"),
    *("semnasnet_050", "mobilenet_edgetpu_100", "ghostnet_050", "ghostnetv2_100", "repghostnet_050", "hrnet_w18_small"),
    *("dla34", "dpn48b", "densenet121", "densenetblur121d", "rdnet_tiny", "ese_vovnet19b_slim_dw", "cspresnet50"),
    *(
        "darknet17",
        "cs3darknet_s",
        "cspnext_tiny",
        "hardcorenas_a",
        "fbnetc_100",
        "tinynet_e",
        "mixnet_s",
        "rexnet_100",
    ),
    *("repvgg_a0", "mobileone_s0", "fastvit_t8", "convnext_atto", "convnextv2_atto", "convmixer_768_32"),
    *("edgenext_xx_small", "inception_v4", "inception_resnet_v2", "xception41", "legacy_xception", "selecsls42"),
    *("gernet_s", "lcnet_035", "hgnetv2_b0", "repvit_m1", "fasternet_t0", "mambaout_femto", "starnet_s050"),
    *(
        "inception_next_atto",
        "poolformer_s12",
        "convformer_s18",
        "efficientvit_b0",
        "efficientformer_l1",
        "mobilevit_xxs",
    ),
    *("coatnet_pico_rw_224", "levit_conv_128s", "visformer_tiny", "botnet26t_256", "halonet26t", "shvit_s1"),
)
SPECS = (
    *(f"torchvision:{name}" for name in (*CLASSIFICATION, *SEGMENTATION, *VIDEO)),
    *(f"torchvision:{name}/backbone" for name in DETECTION),
    *(f"timm:{name}" for name in TIMM),
)
COLUMNS = (
    *("network", "groups: free, coupled, frozen", "MACs", "fewer MACs", "sparsity", "error", "--coupled: fewer MACs"),
    *("error", "seconds", "MiB", "what is frozen, besides the outputs"),
)
SMALL = 64
"""Pixels of the images that masked and sliced are compared on, where the network takes them."""


def build(spec: str) -> tuple[nn.Module, Shapes]:
    torch.manual_seed(0)
    initialized = (
        ["init_weights=false"] if re.search(r":(googlenet|inception_v3)$", spec) and "timm" not in spec else []
    )
    model, architecture = models.build(parse_architecture(spec, initialized))
    shapes = libraries.default_input_shapes(architecture, model)
    assert shapes is not None
    return model.eval(), shapes


def checked_on(model: nn.Module, shapes: Shapes) -> Shapes:
    """Smaller images, where a global pool allows them."""
    small = tuple((*shape[:-2], SMALL, SMALL) for shape in shapes)
    try:
        with torch.no_grad():
            skeleton(model).eval()(*example_inputs(skeleton(model), small))
    except Exception:
        return shapes
    return small


def settle(model: nn.Module, shapes: Shapes) -> None:
    """Give BatchNorms the statistics of a batch, and weights that begin as zeros values: else an output may hang on
    nothing."""
    for name, parameter in model.named_parameters():
        if not name.endswith("bias") and not parameter.any():
            nn.init.uniform_(parameter, 0.1, 0.5)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in norms:
        module.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.train()(*(torch.rand(4, *shape) for shape in shapes))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.eval()


def error(model: nn.Module, wiring: Wiring, removed: torch.Tensor, small: nn.Module) -> float:
    return masked_equals_sliced(model, small, wiring, removed).max_rel_error


def measured(spec: str) -> dict[str, Any]:
    model, shapes = build(spec)
    image = checked_on(model, shapes)
    settle(model, image)
    find_groups(nn.Sequential(nn.Conv2d(3, 4, 1)), ((3, 8, 8),))  # what is loaded at the first use
    before, start = fresh_peak(), time.perf_counter()
    wiring = prunable_wiring(model, shapes)
    row: dict[str, Any] = {"groups": groups(wiring), "frozen": frozen(wiring)}
    costs = cost_of(model, wiring)
    row["macs"] = costs.macs
    for coupled in (False, True):
        if not any(group.left_alone(coupled) is None for group in wiring.groups) or (coupled and not row["groups"][1]):
            continue
        plan = choose(model, wiring, Selection(parse_ratios("*=0.5" if coupled else "0.5"), coupled=coupled))
        removed = plan.removed_units(wiring)
        assert first_difference(model, wiring, removed) is None, "the plan does not hold"
        seconds, peak = time.perf_counter() - start, resident("VmHWM") - before
        small = copy.deepcopy(model)
        before, start = fresh_peak(), time.perf_counter()
        cut(small, wiring, removed)
        if not coupled:
            row["seconds"] = seconds + time.perf_counter() - start
            row["mib"] = max(peak, resident("VmHWM") - before) / 2**10
        at_work = type(wiring)(wiring.trace, wiring.roots, wiring.classes, wiring.groups, image)
        row["coupled" if coupled else "plain"] = {
            **reduction(costs, cost_of(small, wiring)),
            "error": error(model, at_work, removed, small),
        }
        if not coupled:
            wrong = copy.deepcopy(model)
            cut(wrong, wiring, mistaken(plan).removed_units(wiring))
            row["plain"]["notices"] = error(model, at_work, removed, wrong) > TOLERANCE
    return row


def mistaken(plan: Plan) -> Plan:
    """The plan with another unit in one of eight groups: the check must notice."""
    shares = dict(plan.shares)
    for name in list(shares)[:: max(1, len(shares) // 8)]:
        share = shares[name]
        first, *rest = share.removed or ()
        kept = next(unit for unit in range(share.channels) if unit not in (first, *rest))
        shares[name] = replace(share, removed=tuple(sorted((kept, *rest))))
    return replace(plan, shares=shares)


def fresh_peak() -> int:
    """Give back what is free, forget the peak, and return the memory in use."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(key: str) -> int:
    """KiB of memory that this process has (VmRSS), or had at most (VmHWM)."""
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def groups(wiring: Wiring) -> tuple[int, int, int]:
    stuck = sum(bool(group.frozen) for group in wiring.groups)
    coupled = sum(group.coupled and not group.frozen for group in wiring.groups)
    return len(wiring.groups) - stuck - coupled, coupled, stuck


def frozen(wiring: Wiring) -> str:
    """Reasons in a word each, with how often they are given."""
    reasons = [group.frozen for group in wiring.groups if group.frozen and "the network's output" not in group.frozen]
    short = Counter(re.sub(r"\.(default|Tensor|int|dim)\b", "", brief(reason)) for reason in reasons)
    return ", ".join(f"{word} ({count})" for word, count in short.most_common(4))


def brief(reason: str) -> str:
    if "could only go all at once" in reason:
        return "all at once"
    name = re.search(r"(aten\.[\w.]+)", reason)
    what = name[1] if name else reason[:40]
    if "attention" in reason:
        return f"{what}: heads"
    return f"{what}: does not line up" if reason.startswith("after a cut") else what


def line(spec: str, row: dict[str, Any]) -> str:
    if "refused" in row:
        return f"| {spec} | refused: {row['refused']} |" + " |" * (len(COLUMNS) - 2)
    parts = [", ".join(map(str, row["groups"])), f"{row['macs'] / 1e6:,.0f} M"]
    plain, coupled = row.get("plain"), row.get("coupled")
    parts += (
        [
            f"{plain['macs_speedup']:.2f}x",
            f"{plain['sparsity']:.1f}%",
            f"{plain['error']:.0e}" if plain["notices"] else "blind",
        ]
        if plain
        else ["-"] * 3
    )
    parts += [f"{coupled['macs_speedup']:.2f}x", f"{coupled['error']:.0e}"] if coupled else ["-"] * 2
    parts += [f"{row['seconds']:.2f}", f"{row['mib']:.0f}"] if plain else ["-"] * 2
    return f"| {spec} | {' | '.join(parts)} | {row['frozen'] or '-'} |"


def in_a_process(spec: str) -> dict[str, Any]:
    try:
        ran = subprocess.run(
            [sys.executable, __file__, "--one", spec],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"refused": "NOT FINISHED in 15 minutes"}
    found: dict[str, Any] = (
        json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else {"refused": f"FAILED {ran.stderr[-300:]!r}"}
    )
    return found


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        warnings.simplefilter("ignore")
        try:
            print(json.dumps(measured(sys.argv[2])))
        except GregError as refusal:
            print(json.dumps({"refused": first_line(refusal)}))
        return
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    specs = sys.argv[1:] or SPECS
    with ThreadPoolExecutor(2) as pool:
        for spec, row in zip(specs, pool.map(in_a_process, specs), strict=True):
            print(line(spec, row), flush=True)


if __name__ == "__main__":
    main()
