"""What every kind of exported file is made of, says of itself, and must pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from greg_compress.deploy import metadata, onnx_file
from greg_compress.deploy.gates import Verdict
from greg_compress.deploy.parity import Parity
from greg_compress.deploy.preprocessing import Preprocessed
from greg_compress.errors import CheckFailed
from greg_compress.options.measuring import ExportOptions
from greg_compress.sources.normalization import Normalization
from greg_compress.state.models import Opened

Report = dict[str, Any]


def ready(opened: Opened, pixels: Normalization | None) -> tuple[nn.Module, int]:
    """What goes into the file, and how many denormal weights of it are 0 now."""
    plain, count = onnx_file.flushed(opened.model)
    return plain if pixels is None else Preprocessed(plain, pixels), count


def prepares(pixels: Normalization | None) -> str:
    return metadata.NONE if pixels is None else metadata.NORMALIZES


def said(opened: Opened, pixels: Normalization | None) -> dict[str, str]:
    """The metadata of a file."""
    state = opened.state
    left = {name: count for name, (count, _) in kept(opened).items()}
    known = metadata.entries(state.history, left, state.classes, state.input_shapes, state.normalization)
    return known | {metadata.PREPROCESSING: prepares(pixels)}


def kept(opened: Opened) -> dict[str, tuple[int, int]]:
    """Of each group that was cut, by the state's plan, the units that it keeps, and that it had."""
    if not opened.state.shapes:
        return {}  # what a plan keeps is still to come
    shares = {name: share for name, share in (opened.state.plan or {}).items() if isinstance(share, dict)}
    counts = {name: (share.get("kept"), share.get("channels")) for name, share in shares.items()}
    return {name: (kept, had) for name, (kept, had) in counts.items() if type(kept) is int and type(had) is int}


def require_parity(parity: Parity, who: str, report: Report, options: ExportOptions) -> None:
    if not parity.passed:
        raise failed(
            report,
            f"{who} and PyTorch differ by {parity.max_rel_error:.1e} of the largest output, more than"
            f" --tolerance {options.tolerance:g}",
        )


def require_passed(found: Sequence[Verdict], report: Report) -> None:
    if texts := [verdict.text for verdict in found if not verdict.passed]:
        raise failed(report, "; ".join(texts))


def failed(report: Report, why: str) -> CheckFailed:
    """A check that leaves no file, with all that is known."""
    return CheckFailed(
        f"{why}; no file was left", {**report, **dict.fromkeys({"onnx", "program"} & report.keys()), "passed": False}
    )
