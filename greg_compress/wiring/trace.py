"""Run a network on labels: no arithmetic happens, and any Python control flow just works.

The skeleton runs on the meta device (on the CPU, where meta fails) under a TorchDispatchMode, in eval and in train
mode (auxiliary heads read the trunk in training only). `torch.func.functionalize` turns in-place writes and views
into plain data movement. Start reading at :func:`trace`; what is recorded is in :mod:`.record`, how calls are seen
in :mod:`.tracer`, and what one operation does to labels in :mod:`.rules`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from greg_compress.errors import TraceError
from greg_compress.wiring import rules
from greg_compress.wiring.labels import Labels
from greg_compress.wiring.layout import Layout, thin
from greg_compress.wiring.record import Trace, work
from greg_compress.wiring.skeleton import (
    Shapes,
    cannot_run,
    example_inputs,
    named_tensors,
    output_tensors,
)
from greg_compress.wiring.tracer import Tracer

ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.RReLU, nn.Threshold),
    *(nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.modules.dropout._DropoutNd),
)


def trace(bones: nn.Module, input_shapes: Shapes) -> Trace:
    """Run a skeleton on labels, in eval and in train mode; every index of every dimension gets a fresh label.

    Args:
        bones: what :func:`skeleton` returned; its training flags are changed.
        input_shapes: the shape of one sample of each input, ((C, H, W),) for images.

    Raises:
        TraceError: the network cannot run on the skeleton's device.
    """
    result = _labelled(bones)
    ran: list[int] = []
    unions: list[int] = []
    for training in (False, True):
        tracer = Tracer(result, rules.apply, count=not training)
        try:
            output = run(bones, input_shapes, tracer, training)
        except TraceError:
            raise
        except (Exception, SystemExit) as error:
            # Whatever user code raises on meta tensors: it is reported, not guessed at.
            raise cannot_run(input_shapes, error, tracer.failed_at) from error
        ran.append(len(result.operations) - sum(ran))
        unions.append(len(result.labels.unions))
        for tensor in output_tensors(output):
            if (layout := tracer.layout(tensor)) is not None:
                for plane in layout.planes:
                    result.labels.freeze(plane, "it is the network's output")
                    result.leaving.append(thin(plane)[0].unique())
    result.modes = (ran[0], ran[1])
    result.trains_alike = work(result.operations[: ran[0]]) == work(result.operations[ran[0] :])
    if result.trains_alike:
        del result.labels.unions[unions[0] :]  # the same once more
    bones.eval()
    return result


def _labelled(bones: nn.Module) -> Trace:
    """A trace whose tensors carry fresh labels; tied ones carry the same."""
    result = Trace(Labels(), {})
    known: dict[int, tuple[Tensor, ...]] = {}
    for name, tensor in named_tensors(bones):
        if id(tensor) not in known:
            known[id(tensor)] = tuple(result.labels.new(size) for size in tensor.shape)
        axes = result.axes[name] = known[id(tensor)]
        result.tensors[name] = Layout.of_tensor(axes, name if isinstance(tensor, nn.Parameter) else None)
    saved = bones.state_dict(keep_vars=True)
    for name, tensor in named_tensors(bones):
        if name not in saved and not isinstance(tensor, nn.Parameter):
            for labels in result.axes[name]:
                result.labels.freeze(labels, f"buffer {name} is made by the network's own code, not saved")
    return result


def run(bones: nn.Module, input_shapes: Shapes, tracer: Tracer, training: bool) -> Any:
    """Run a skeleton in one mode under `tracer`, and return what it returns."""
    _without_side_effects(bones)
    tracer.remember_tensors(bones)
    examples = example_inputs(bones, input_shapes)
    for example in examples:
        tracer.remember_input(example)

    def call(tensors: Any, *examples: Tensor) -> Any:
        return torch.func.functional_call(bones, tensors, examples, tie_weights=False)

    bones.train(training)
    with _same_randomness(), torch.no_grad(), tracer.watching(bones), tracer:
        return torch.func.functionalize(call, remove="mutations_and_views")(dict(named_tensors(bones)), *examples)


def _without_side_effects(bones: nn.Module) -> None:
    """Let activations make new tensors, and nothing count batches: labels lie alike, and it takes half as long."""
    for module in bones.modules():
        if isinstance(module, ACTIVATIONS) and hasattr(module, "inplace"):
            module.inplace = False
        elif isinstance(module, _BatchNorm) and module.momentum is not None:
            module.num_batches_tracked = None


@contextmanager
def _same_randomness() -> Iterator[None]:
    """A network that draws at random draws the same in every run, and the user's own streams stay put."""
    python = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
