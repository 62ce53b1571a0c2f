"""From a selection to how many weights each layer loses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from greg_compress.criteria.loss import Batches
from greg_compress.criteria.weights import weight_scores
from greg_compress.errors import CheckFailed, InputError, RequestError, input_fault
from greg_compress.options.selecting import Selection
from greg_compress.reporting import Reporter
from greg_compress.selection.ratios import units_to_remove
from greg_compress.selection.resolve import asked_weights
from greg_compress.unstructured.masks import Counts, Masks, counts_of, least
from greg_compress.wiring.groups import Wiring


def counts(model: nn.Module, wiring: Wiring, selection: Selection, gone: Masks) -> dict[str, int]:
    """How many weights go from each layer that loses some: min(ceil(r n), n - 1) of n, those gone before included.

    Args:
        gone: what went in earlier rounds, which no ratio brings back.

    Raises:
        RequestError: the selection does not fit the network.
    """
    assert selection.ratios is not None
    asked = asked_weights(selection.ratios, selection.skip, wiring, model)
    found = counts_of(gone)
    for name, ratio in asked.items():
        count = units_to_remove(ratio, model.get_parameter(name).numel())
        found[name] = max(count, found.get(name, 0))
    return {name: count for name, count in found.items() if count}


def choose(
    model: nn.Module,
    wiring: Wiring,
    selection: Selection,
    gone: Masks,
    images: Callable[[], Batches] | None = None,
) -> dict[str, Tensor]:
    """Resolve a selection, and pick the weights with the least scores.

    Args:
        gone: what went in earlier rounds.
        images: what a criterion that needs them is measured on.

    Raises:
        RequestError: the selection does not fit the network.
        CheckFailed: it removes no weight that is still there.
    """
    wanted = counts(model, wiring, selection, gone)
    _require_effect(wanted, gone, selection)
    return least(wanted, gone, weight_scores(model, wanted, selection.criterion, images))


def _require_effect(wanted: Counts, gone: Masks, selection: Selection) -> None:
    """A selection that removes nothing is never a shrug.

    Raises:
        CheckFailed: no layer loses a weight that it still has.
    """
    if wanted == counts_of(gone):
        more = " more than is gone already" if gone else ""
        raise CheckFailed(f"this selection removes no weight{more}; see {' and '.join(_named(selection))}")


def _named(selection: Selection) -> list[str]:
    return [selection.option, *["--skip"] * bool(selection.skip)]


def require_kind(masks: Masks, stage: str, selection: Selection | None, path: str) -> None:
    """Refuse channels where single weights are gone or picked, and single weights where channels are picked.

    Raises:
        RequestError: the selection does not go with the state.
    """
    if selection is None:
        return
    if masks and not selection.unstructured:
        raise RequestError(
            f"{path} loses single weights, and a cut of channels would not keep its masks; add --unstructured, or prune"
            " channels first"
        )
    if stage == "regularized" and not masks and selection.unstructured:
        raise RequestError(f"{path} was regularized to lose channels; leave --unstructured and --ratios out")


def to_json(model: nn.Module, wanted: Counts) -> dict[str, Any]:
    """Counts as a state's plan."""
    sizes = {name: model.get_parameter(name).numel() for name in wanted}
    return {name: {"weights": sizes[name], "kept": sizes[name] - count} for name, count in wanted.items()}


def from_json(data: dict[str, Any] | None, model: nn.Module) -> dict[str, int]:
    """Read counts back, against the network that they were made for.

    Raises:
        InputError: they are not there, or do not fit it.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    with input_fault("the state's counts of weights are damaged"):
        found = {name: (entry["weights"], entry["kept"]) for name, entry in (data or {}).items()}
    for name, (weights, kept) in found.items():
        if type(weights) is not int or type(kept) is not int or sizes.get(name) != weights or not 0 < kept < weights:
            raise InputError(f"the state's counts of weights are damaged: {name} does not keep {kept} of {weights}")
    if not found:
        raise InputError("the state is damaged: it says of no layer how many weights go")
    return {name: weights - kept for name, (weights, kept) in found.items()}


def show_counts(model: nn.Module, wanted: Counts, ui: Reporter) -> None:
    """Print weights and kept weights of every layer that loses some, before anything is done."""
    plan = to_json(model, wanted)
    rows = [(name.removesuffix(".weight"), entry["weights"], entry["kept"]) for name, entry in plan.items()]
    ui.table("plan", ("layer", "weights", "kept"), rows)
    params = sum(parameter.numel() for parameter in model.parameters())
    gone = sum(wanted.values())
    ui.note(f"{gone:,} of {params:,} parameters go, {100 * gone / params:.2f}%; no shape changes")
