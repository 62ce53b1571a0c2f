"""Write a network as a program of PyTorch's own (ExportedProgram, .pt2), which ExecuTorch and others read."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from greg_compress.deploy.metadata import ENTRY
from greg_compress.deploy.parity import Runtime
from greg_compress.deploy.preprocessing import examples
from greg_compress.errors import GregError, first_line
from greg_compress.wiring.skeleton import Shapes, output_tensors

TRACES = "stack_trace"
"""What torch notes at every node: source lines and paths of this machine."""


def write(model: nn.Module, input_shapes: Shapes, path: Path, said: Mapping[str, str]) -> None:
    """Export a network for any batch size.

    Args:
        model: in eval mode, on the CPU; a :class:`Preprocessed` one takes pixels.
        said: metadata.

    Raises:
        GregError: the exporter refuses the network.
    """
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                model, examples(model, input_shapes), dynamic_shapes=tuple({0: batch} for _ in input_shapes)
            )
        except Exception as error:
            # The exporter has no common error type; its first line says which operation it does not know.
            raise GregError(f"the network cannot be exported as a program ({first_line(error)})") from error
        for node in program.graph.nodes:
            node.meta.pop(TRACES, None)
        held = io.BytesIO()  # torch's own writer does not tell a full disk from a bug
        torch.export.save(program, held, extra_files={ENTRY: json.dumps(dict(said))})
    path.write_bytes(held.getbuffer())


def runtimes(path: Path) -> dict[str, Runtime]:
    """What runs a program that was just written, read back from its file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with path.open("rb") as file:  # of a name it asks for an ending that an unfinished file has not
            program = torch.export.load(file).module()

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with torch.no_grad():
            return output_tensors(program(*inputs))

    return {"program": run}
