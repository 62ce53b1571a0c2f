"""A network in memory, and what greg can do to it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from greg_compress.analyze import analysis
from greg_compress.api.words import one_of
from greg_compress.cost import Cost
from greg_compress.errors import RequestError
from greg_compress.export.to_onnx import exported
from greg_compress.options.criterion import parse_criterion
from greg_compress.options.gates import Gates
from greg_compress.options.measuring import ExportOptions, Format
from greg_compress.options.network import ModelOptions, Output
from greg_compress.options.selecting import Scope, Selection
from greg_compress.reporting import Reporter
from greg_compress.selection.amounts import parse_cap, parse_factor, parse_target, parse_time
from greg_compress.selection.choose import choose
from greg_compress.selection.plan import Plan
from greg_compress.selection.ratios import Ratios, parse_ratios
from greg_compress.sources.models import build
from greg_compress.sources.specs import ArchArg, Architecture, parse_architecture
from greg_compress.state import files, history
from greg_compress.state.format import State
from greg_compress.state.models import Opened, require_rebuilt, weights_of
from greg_compress.surgery.cut import form_of
from greg_compress.surgery.effect import cost_of
from greg_compress.surgery.pruned import Pruned, pruned
from greg_compress.surgery.trial import prunable_wiring
from greg_compress.whole_files import require_free
from greg_compress.wiring.groups import Group
from greg_compress.wiring.skeleton import Shapes

SILENT = Reporter()


class Network:
    """A network of yours: which of its channels hang together, and what can be done about them.

    Args:
        model: any `torch.nn.Module`, on any device, in any mode; not wrapped (of DistributedDataParallel the `.module`,
            of torch.compile the original). It stays yours, and nothing here changes it.
        input_shape: of one sample, without the batch: (C, H, W) for images; a tuple of shapes for several inputs.

    Raises:
        GregError: the network cannot run with this input, or cannot be followed at all (see `greg_compress.GregError`).
    """

    def __init__(self, model: nn.Module, input_shape: Sequence[int] | Sequence[Sequence[int]]) -> None:
        if not isinstance(model, nn.Module):
            raise RequestError(f"a torch.nn.Module is wanted, not {type(model).__name__}; see greg_compress.load")
        self.model = model
        self.input_shapes = _shapes(input_shape)
        self.wiring = prunable_wiring(model, self.input_shapes)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Units with the same wiring, in order of execution: `name`, `channels`, and `reason`, why they stay (None
        where they may go)."""
        return self.wiring.groups

    @property
    def cost(self) -> Cost:
        """`params`; `macs`, multiply-adds of one sample in convolutions and linear layers; `size` in bytes."""
        return cost_of(self.model, self.wiring)

    def __str__(self) -> str:
        cost = self.cost
        shapes = " and ".join("x".join(map(str, shape)) for shape in self.input_shapes)
        head = f"{type(self.model).__name__}, input {shapes}: {cost.params:,} parameters, {cost.macs:,} MACs"
        width = max((len(group.name) for group in self.groups), default=0)
        rows = (f"{each.name:{width}} {each.channels:5} {each.reason or ''}".rstrip() for each in self.groups)
        return "\n".join([head, *rows])

    def plan(
        self,
        ratios: float | str | Sequence[float] | Mapping[str, float] | None = None,
        *,
        target_macs: float | None = None,
        target_params: float | None = None,
        target_latency: float | None = None,
        target_speedup: float | None = None,
        skip: Sequence[str] = (),
        coupled: bool = False,
        align: int | Literal["auto"] | None = None,
        scope: Literal["local", "global"] = "local",
        max_ratio: float | None = None,
        criterion: str = "l1",
        images: Iterable[tuple[Tensor, Tensor]] | None = None,
    ) -> Plan:
        """Say what is to go: ratios or one target. The words are those of the command line.

        Args:
            ratios: share of the units that each group loses, at least 0 and below 1: one number; a list with one
                for each stage; a dictionary by names of layers (`*` crosses dots); or RATIOS as they are typed.
            target_macs: what is to be left of the multiply-adds, as a share of 1.
            target_params: the same for parameters.
            target_latency: milliseconds of one run, in onnxruntime with one thread and batch 1 on this machine.
            target_speedup: how many times faster, in that time.
            skip: names of modules that lose nothing.
            coupled: whether what additions tie together (residual streams) is asked, too.
            align: kept channels are rounded to multiples of this; `auto` measures which.
            scope: a ratio of every group, or one threshold over all.
            max_ratio: the largest share that a group may lose; 0.9 if not given with `scope="global"`.
            criterion: `l1` (the paper's), `max`, `random`, `random:SEED`, `obd` or `taylor`.
            images: what the last two are measured on: batches of images (N, C, H, W) as the model reads them, and
                labels (N,), on the CPU.

        Returns:
            which units go. `plan.counts` says how many each group keeps; :meth:`analyze` what would be left.

        Raises:
            GregError: not exactly one of ratios and targets; what they say does not fit the network; a target cannot
                be reached; nothing would go.
        """
        selection = Selection(
            ratios=None if ratios is None else _ratios(ratios),
            skip=(skip,) if isinstance(skip, str) else tuple(skip),
            coupled=coupled,
            align=None if align == "auto" else align,
            scope=one_of(Scope, "scope", scope),
            max_ratio=None if max_ratio is None else parse_cap("--max-ratio", str(max_ratio)),
            target_macs=None if target_macs is None else parse_target("--target-macs", str(target_macs)),
            target_params=None if target_params is None else parse_target("--target-params", str(target_params)),
            criterion=(measured := parse_criterion(criterion)),
            auto_align=align == "auto",
            target_latency=None if target_latency is None else parse_time("--target-latency", str(target_latency)),
            target_speedup=None if target_speedup is None else parse_factor("--target-speedup", str(target_speedup)),
        )
        if measured.needs_images is not (images is not None):
            said = "needs images" if images is None else "looks at weights alone: images would have no effect"
            raise RequestError(f"criterion {measured} {said}")
        return choose(self.model, self.wiring, selection, None if images is None else lambda: images)

    def analyze(self, plan: Plan | None = None) -> dict[str, Any]:
        """What `greg analyze --json` prints: `params`, `macs`, `size` (bytes), `layers` (a dictionary for each that
        ran: `name`, `macs`, `group`, `reason`, ...), and with a plan `plan`: what it would leave (`params`, `macs`,
        `macs_speedup`, `sparsity` in percent) and in `layers` what each keeps."""
        return analysis(self.model, self.wiring, plan)

    def prune(self, plan: Plan, *, fold: bool = False) -> Pruned:
        """Cut the planned units out of a copy, and prove it: the dense network with these units masked and the small
        one give the same outputs in float64, to 1e-9 of the largest.

        Args:
            plan: of :meth:`plan`, or of a penalty that has picked (see :meth:`.Penalty.prune`).
            fold: whether the constants that filters near zero still make (bias, BatchNorm's shift) go into the
                layers that read them.

        Returns:
            `model`, a copy of yours on the same device and in the same mode, and what it comes to: `before` and
            `after` (each `params`, `macs`, `size`), `macs_speedup`, `sparsity` in percent, `check`, `folding`. Its
            parameters are new ones: give them to a new optimizer.

        Raises:
            GregError: the plan is of another network, or a proof failed; your model is as it was in any case.
        """
        self.require_own(plan)
        device = next((tensor.device for tensor in self.model.parameters()), torch.device("cpu"))
        dense = self.model if device.type == "cpu" else copy.deepcopy(self.model).cpu()
        found = pruned(dense, self.wiring, plan.removed_units(self.wiring), fold=fold)
        found.check.require()
        found.model.to(device)
        return found

    def export(
        self,
        path: str | PathLike[str],
        *,
        baseline: Network | None = None,
        opset: int | None = None,
        threads: int = 1,
        runs: int = 200,
        batch: int = 1,
        tolerance: float = 1e-4,
        force: bool = False,
    ) -> dict[str, Any]:
        """Write an ONNX file, compare it with PyTorch in onnxruntime, and time it: what `greg export` does.

        Args:
            baseline: a network that is exported too, timed in turn with this one and thrown away: the dense one.
            opset: version of ONNX's operators; the exporter's own if not given.
            threads: of onnxruntime, while timing.
            runs: timed runs.
            batch: samples of a timed run. The file itself takes any number.
            tolerance: largest difference to PyTorch, as a share of the largest output.
            force: whether a file that is there may be replaced.

        Returns:
            what `greg export --json` prints: `size` in bytes, `parity`, `latency` (`p50_ms`, ...), with a baseline
            `speedup`, `speedup_interval` and `macs_speedup`.

        Raises:
            GregError: the exporter refuses the network, or PyTorch and onnxruntime differ; no file is left.
        """
        if baseline is not None and baseline.input_shapes != self.input_shapes:
            raise RequestError("the baseline takes another input shape than the network")
        output = Output(Path(path), force)
        Format.ONNX.require_name(output.path)
        require_free(output, resumable=False)
        options = ExportOptions(opset=opset, threads=threads, runs=runs, tolerance=tolerance, batch=batch)
        other = None if baseline is None else baseline._opened()
        return exported(self._opened(), other, None, None, options, Gates(), output, SILENT)

    def save(
        self,
        path: str | PathLike[str],
        arch: str,
        arch_args: Mapping[str, ArchArg] | None = None,
        *,
        force: bool = False,
    ) -> None:
        """Write a state file, from which the command line goes on: `greg finetune`, `evaluate`, `export` of it.

        It holds tensors and what builds the network again: the uncut one from `arch`, whose shapes are then those of
        this model, whoever cut it. Images are normalised as the data set of the next command says.

        Args:
            arch: what makes the uncut network: `FILE.py:CALLABLE`, `torchvision:NAME` or `timm:NAME`. It is run.
            arch_args: its keyword arguments: numbers, texts, True or False.
            force: whether a file that is there may be replaced.

        Raises:
            GregError: what `arch` makes, cut to these shapes, does not hold these weights, or the file cannot be
                written; what was there stays.
        """
        output = Output(Path(path), force)
        require_free(output, resumable=False)
        named = parse_architecture(arch, [f"{key}={value!r}" for key, value in (arch_args or {}).items()])
        whole, recorded = build(named, own_weights=True)
        form = form_of(self.model, whole)
        stage = "pruned" if form.shapes else "dense"
        state = State(stage, recorded, self.input_shapes, weights_of(self.model), form.shapes, form.groups)
        state.history = [history.entry("save", {"arch": arch}, {}, model=arch)]
        require_rebuilt(self.model, state, ModelOptions(str(path), named), str(path))
        files.save(state, output.path, replace=force)

    def _opened(self) -> Opened:
        state = State("dense", Architecture(f"python:{type(self.model).__name__}"), self.input_shapes, {})
        return Opened(self.model, state, None)

    def require_own(self, plan: Plan) -> None:
        """Raise RequestError for a plan that does not fit these groups."""
        own = {group.name: group for group in self.groups}
        for name, share in plan.shares.items():
            if name not in own or own[name].channels != share.channels or share.removed is None:
                raise RequestError(f"this is a plan of another network: {name} with {share.channels} units")


def _shapes(given: Sequence[int] | Sequence[Sequence[int]]) -> Shapes:
    """One shape or several, as a tuple of shapes."""
    several = isinstance(given, Sequence) and given and all(isinstance(each, Sequence) for each in given)
    shapes: Any = given if several else [given]
    try:
        found = tuple(tuple(int(size) for size in shape) for shape in shapes)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(size > 0 for shape in found for size in shape):
        raise RequestError(f"input_shape {str(given)[:80]}: write the shape of one sample, like (3, 224, 224)")
    return found


def _ratios(given: float | str | Sequence[float] | Mapping[str, float]) -> Ratios:
    if isinstance(given, Mapping):
        return parse_ratios(",".join(f"{name}={ratio}" for name, ratio in given.items()))
    if isinstance(given, Sequence) and not isinstance(given, str):
        return parse_ratios(f"[{', '.join(map(str, given))}]")
    return parse_ratios(str(given))
