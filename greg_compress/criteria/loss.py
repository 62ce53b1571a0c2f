"""What the loss would rise by without a filter, or a weight: OBD and first-order Taylor, measured on images.

Both run the network in eval mode on the CPU, so that picks depend neither on the device nor on what normalisation has
seen, and both read the gradients of small batches: 16 images, a hundred of them, cost what one large batch does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from greg_compress.errors import CheckFailed
from greg_compress.options.criterion import Kind
from greg_compress.training.evaluation import logits, require_label

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images (N, C, H, W) as the network reads them, and labels (N,)."""
Makes = Mapping[str, int | None]
"""By the name of a weight, its dimension that holds its filters; None where each weight counts by itself."""


def obd(model: nn.Module, weights: Makes, batches: Batches) -> dict[str, Tensor]:
    """Optimal brain damage (LeCun et al., 1990): sum over a filter of h_ii w_i^2 / 2, shape (filters,) in float64.

    h_ii is the Gauss-Newton-Bartlett estimate of the Hessian's diagonal (Liu et al., "Sophia", 2023, Algorithm 2):
    with labels drawn from the network's own prediction, B g^2 of a batch of B, whose expectation is the diagonal of the
    Gauss-Newton matrix, which for cross entropy is the Fisher matrix.
    """
    curvature = {name: torch.zeros_like(model.get_parameter(name)) for name in weights}
    draw = torch.Generator().manual_seed(0)
    count = 0
    for size, gradients in _gradients(model, weights, batches, lambda output: _drawn_from(output, draw)):
        for name, gradient in gradients.items():
            curvature[name].addcmul_(gradient, gradient, value=size)
        count += 1
    halves = {name: h.mul_(model.get_parameter(name).detach() ** 2) / (2 * count) for name, h in curvature.items()}
    return _finite({name: _sums(half, weights[name]) for name, half in halves.items()})


def taylor(model: nn.Module, weights: Makes, batches: Batches) -> dict[str, Tensor]:
    """First-order Taylor: (sum over a filter of g_i w_i)^2, the mean over batches, shape (filters,) in float64.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019, equation 8 for groups.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    for _, gradients in _gradients(model, weights, batches, None):
        for name, gradient in gradients.items():
            found = _sums(gradient * model.get_parameter(name).detach(), weights[name]) ** 2
            sums[name] = sums[name] + found if name in sums else found
        count += 1
    return _finite({name: total / count for name, total in sums.items()})


MEASURES: dict[Kind, Callable[[nn.Module, Makes, Batches], dict[str, Tensor]]] = {Kind.OBD: obd, Kind.TAYLOR: taylor}


def _gradients(
    model: nn.Module, weights: Makes, batches: Batches, relabel: Callable[[Tensor], Tensor] | None
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The size of each batch and the gradients of its mean cross entropy; a weight that nothing reads has zeros."""
    parameters = {name: model.get_parameter(name) for name in weights}
    with _ready(model, parameters.values()):
        for images, labels in batches:
            with torch.enable_grad():
                output = logits(model, images)
                require_label(int(labels.max()), output)
                loss = F.cross_entropy(output, labels if relabel is None else relabel(output.detach()))
                found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
            yield len(labels), dict(zip(weights, found, strict=True))


@contextmanager
def _ready(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """In eval mode, with gradients for the weights alone; left as it was."""
    wanted = {id(parameter) for parameter in parameters}
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    training = model.training
    model.eval()
    try:
        for parameter in before:
            parameter.requires_grad_(id(parameter) in wanted)
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)
        model.train(training)


def _drawn_from(output: Tensor, draw: torch.Generator) -> Tensor:
    """A label for each image, by the network's own prediction."""
    return torch.multinomial(output.softmax(dim=1), 1, generator=draw).flatten()


def _sums(tensor: Tensor, makes: int | None) -> Tensor:
    """Over each filter."""
    return tensor.double() if makes is None else tensor.movedim(makes, 0).flatten(1).sum(dim=1, dtype=torch.float64)


def _finite(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, found in scores.items():
        if not found.isfinite().all():
            raise CheckFailed(f"the loss has no finite gradient at {name}; is the network trained?")
    return scores
