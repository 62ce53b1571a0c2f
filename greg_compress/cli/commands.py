"""Every command: parse into options, call one stage, print its result."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from greg_compress.cli import (
    afterwards,
    arguments,
    exporting,
    measuring,
    plotting,
    running,
    selecting,
    telling,
)
from greg_compress.cli.arguments import Data, Device, Download, Json, Workers
from greg_compress.cli.entry import app, printed
from greg_compress.cli.grouped import Use, grouped
from greg_compress.cli.versions import versions
from greg_compress.errors import RequestError
from greg_compress.options.criterion import L1
from greg_compress.options.gates import Gates
from greg_compress.options.limits import require_device
from greg_compress.options.measuring import ExportOptions, ImageOptions, SensitivityOptions
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.penalty import Method, Penalize, PenaltyOptions, Preset
from greg_compress.options.plotting import PlotOptions
from greg_compress.options.selecting import WAYS, Selection
from greg_compress.options.training import Decay, TeacherOptions, TrainingOptions
from greg_compress.processes.place import place
from greg_compress.sources.specs import parse_data
from greg_compress.whole_files import claimed, require_apart, require_file

ModelWithData = Annotated[ModelOptions, Use(arguments.model_options, fixed={"fetches_data": True})]
WITHOUT_PRESET = {"preset": Preset.QUICK}
OptionalSelection = Annotated[Selection | None, Use(selecting.selection)]
Teacher = Annotated[TeacherOptions, Use(arguments.teacher_options)]
Resumable = Annotated[Output, Use(arguments.resumable_output)]


def _version(wanted: bool) -> None:
    if wanted:
        for name, version in versions():
            typer.echo(f"{name} {version}")
        raise typer.Exit


@app.callback()
def greg(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Show the versions that matter.")
    ] = False,
) -> None:
    """Prune a trained convolutional network with a growing L2 penalty, and export what is left with proof.

    The chain: train, analyze, regularize, prune, finetune, evaluate, export; each step reads the state file
    that the one before it wrote. To see it all at once: greg demo.
    """


@app.command()
@grouped
def train(
    model: Annotated[ModelOptions, Use(arguments.trainable_options)],
    training: Annotated[
        TrainingOptions, Use(arguments.training_options, fixed={"default_epochs": 12, **WITHOUT_PRESET})
    ],
    output: Resumable,
    json: Json = False,
) -> None:
    """Train a dense network, from an architecture or a dense state."""
    with claimed(output), printed(json, "training", together=True) as (print_result, ui):
        from greg_compress import train as stage

        print_result(stage.run(model, training, output, ui), afterwards.of_training(training, output, "train"))


@app.command()
@grouped
def analyze(
    model: Annotated[ModelOptions, Use(measuring.analyzed_options)],
    selection: OptionalSelection,
    plan_output: Annotated[Output | None, Use(selecting.plan_output)],
    sensitivity: Annotated[SensitivityOptions | None, Use(measuring.sensitivity)],
    images: Annotated[ImageOptions | None, Use(measuring.images, fixed={"recalibrate": None})],
    json: Json = False,
) -> None:
    """Show layers, groups, what is frozen and why, what a selection would leave, and how sensitive each group is."""
    if plan_output is not None and selection is None:
        raise RequestError(f"--plan-out has no plan to write; say what to prune with one of {WAYS}")
    if plan_output is not None and selection is not None and selection.unstructured:
        raise RequestError(
            "--plan-out would have no effect: a plan says which channels go, --unstructured takes weights"
        )
    if plan_output is not None:
        require_apart(plan_output.path, [model.model], "--plan-out")
    with claimed(plan_output) if plan_output else nullcontext(), printed(json, "analysis") as (print_result, ui):
        from greg_compress import analyze as stage

        following = afterwards.of_analysis(model, selection, plan_output, sensitivity or images)
        print_result(stage.run(model, selection, plan_output, sensitivity, images, ui), following)


@app.command()
@grouped
def regularize(
    model: ModelWithData,
    selection: OptionalSelection,
    penalty: Annotated[PenaltyOptions, Use(arguments.penalty_options)],
    training: Annotated[
        TrainingOptions,
        Use(
            arguments.training_options,
            defaults=dict.fromkeys(("lr", "batch_size", "weight_decay")),  # the preset's
            fixed={
                "epochs": None,
                "iterations": None,
                "default_epochs": None,
                "decay": Decay.CONSTANT,
                "warmup": 0,
                "milestones": None,
            },
        ),
    ],
    teacher: Teacher,
    output: Resumable,
    json: Json = False,
) -> None:
    """Drive the units that lose to zero with a growing L2 penalty (GReg-1 or GReg-2)."""
    if selection is None:
        raise RequestError(f"say what to prune with one of {WAYS}")
    if selection.timed and not place().alone:
        raise RequestError(
            f"{selection.text} would be measured by all processes at once; first: greg analyze ... --plan-out p.json,"
            " then --plan p.json"
        )
    if penalty.method is Method.GREG_2 and selection.criterion != L1:
        raise RequestError("--criterion would have no effect: greg-2 picks by L1 once its penalty has told units apart")
    if selection.unstructured and penalty.penalize is Penalize.UNIT:
        raise RequestError("--penalize unit would have no effect: --unstructured removes single weights")
    with claimed(output), printed(json, "training", together=True) as (print_result, ui):
        from greg_compress import regularize as stage

        result = stage.run(model, selection, penalty, training, teacher, output, ui)
        print_result(result, afterwards.of_training(training, output, "regularize"))


@app.command()
@grouped
def prune(
    model: Annotated[ModelOptions, Use(measuring.analyzed_options)],
    selection: OptionalSelection,
    images: Annotated[ImageOptions | None, Use(measuring.images, fixed={"sensitivity": False})],
    output: Annotated[Output, Use(arguments.output)],
    json: Json = False,
) -> None:
    """Remove units for good: a regularized state's picks, or one-shot by a criterion."""
    with claimed(output), printed(json, "pruning") as (print_result, ui):
        from greg_compress import prune as stage

        print_result(stage.run(model, selection, images, output, ui), afterwards.of_file(output.path, "prune"))


@app.command()
@grouped
def finetune(
    model: ModelWithData,
    training: Annotated[
        TrainingOptions,
        Use(arguments.training_options, defaults={"lr": 0.02}, fixed={"default_epochs": 5, **WITHOUT_PRESET}),
    ],
    teacher: Teacher,
    output: Resumable,
    json: Json = False,
) -> None:
    """Let a pruned network recover."""
    with claimed(output), printed(json, "training", together=True) as (print_result, ui):
        from greg_compress import finetune as stage

        result = stage.run(model, training, teacher, output, ui)
        print_result(result, afterwards.of_training(training, output, "finetune"))


@app.command()
@grouped
def evaluate(
    model: ModelWithData,
    data: Data,
    device: Device = "auto",
    download: Download = False,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Measure top-1, top-5 and loss on the test images, of a network or an ONNX file (.onnx)."""
    spec = parse_data(data)
    require_device(device)
    with printed(json, "accuracy") as (print_result, ui):
        from greg_compress import evaluate as stage

        result = stage.run(model, spec, device, download, workers, ui)
        print_result(result, afterwards.of_model(model, "evaluate", data=data))


@app.command()
@grouped
def export(
    model: Annotated[ModelOptions, Use(measuring.analyzed_options)],
    options: Annotated[ExportOptions, Use(exporting.export_options)],
    gates: Annotated[Gates, Use(exporting.gates)],
    output: Annotated[Output, Use(arguments.output)],
    json: Json = False,
) -> None:
    """Write ONNX, prove it against PyTorch, and measure its latency in onnxruntime."""
    require_apart(output.path, [model.model])
    options.format.require_name(output.path)
    with claimed(output), printed(json, "exported") as (print_result, ui):
        from greg_compress import export as stage

        print_result(
            stage.run(model, options, gates, output, ui), afterwards.of_export(model, options.format, output.path)
        )


@app.command()
@grouped
def plot(
    state: plotting.State,
    options: Annotated[PlotOptions, Use(plotting.plot_options)],
    output: Annotated[Output, Use(plotting.picture)],
    json: Json = False,
) -> None:
    """Draw what a state's own log tells: accuracy, lambda, how filters separate, and what is kept."""
    require_file(state)
    with claimed(output), printed(json, "drawn") as (print_result, ui):
        from greg_compress import plot as stage

        print_result(stage.run(state, options, output, ui), afterwards.of_file(state, "plot"))


@app.command()
@grouped
def report(
    files: Annotated[tuple[Path, ...], Use(telling.told_files)],
    output: Annotated[Output, Use(telling.page)],
    json: Json = False,
) -> None:
    """Tell the story of a run on one HTML page, from its files."""
    with claimed(output), printed(json, "reported") as (print_result, ui):
        from greg_compress import report as stage

        print_result(stage.run(files, output, ui))


@app.command()
def show(
    file: Annotated[Path, Argument(metavar="FILE", help="A state, OUT.partial, plan, recipe, ONNX file or results.")],
    json: Json = False,
) -> None:
    """Say what a file is, how it was made, what it holds and what to type next; nothing in it is run."""
    with printed(json, "shown") as (print_result, _):
        from greg_compress import show as stage

        print_result(stage.run(file, running.Line(app).words()))
