"""Loads what a first export and a first command load: whoever is forked from here has it."""

from __future__ import annotations

import contextlib
import sys

import torch
from typer.main import get_command

from greg_compress.cli import app

with contextlib.redirect_stdout(sys.stderr):
    torch.onnx.export(
        torch.nn.Linear(1, 1).eval(), (torch.zeros(2, 1),), dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip

for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
    with contextlib.suppress(Exception):  # what is wrong with no words at all is not said here
        command.make_context(name, [])
