"""A program of PyTorch's own: written, read back and compared. Devices time it, not this machine."""

from __future__ import annotations

from greg_compress.deploy import program
from greg_compress.deploy.gates import verdicts
from greg_compress.deploy.parity import compare
from greg_compress.export.checks import Report, prepares, ready, require_parity, require_passed, said
from greg_compress.options.gates import Gates
from greg_compress.options.measuring import ExportOptions
from greg_compress.options.network import Output
from greg_compress.reporting import Reporter
from greg_compress.sources.normalization import Normalization
from greg_compress.state.models import Opened
from greg_compress.whole_files import written_whole


def exported(
    opened: Opened,
    pixels: Normalization | None,
    options: ExportOptions,
    gates: Gates,
    output: Output,
    ui: Reporter,
    made_by: Report,
) -> Report:
    """What :func:`greg_compress.export.run` says of a program.

    Raises:
        CheckFailed: the program and PyTorch differ by more than the tolerance, or it is too large; no file is left.
    """
    shapes = opened.state.input_shapes
    network, flushed = ready(opened, pixels)
    with written_whole(output.path, replace=output.force) as path:
        ui.note("exporting")
        program.write(network, shapes, path, said(opened, pixels))
        parity = compare(network, program.runtimes(path), shapes, options.tolerance)
        found = verdicts(gates, None, path.stat().st_size, None)
        report = {
            "program": str(output.path),
            "made_by": made_by,
            "size": path.stat().st_size,
            "preprocessing": prepares(pixels),
            "denormals_flushed": flushed,
            "parity": parity.to_json(),
            "gates": [verdict.to_json() for verdict in found],
        }
        require_parity(parity, "the program", report, options)
        require_passed(found, report)
    return report
