"""The growing penalty in a training loop that is not ours."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import nn

from greg_compress.api.network import Network
from greg_compress.api.words import one_of
from greg_compress.errors import RequestError, input_fault
from greg_compress.options.penalty import Method, Penalize, PenaltyOptions, Preset
from greg_compress.penalty.phase import UnitPhase
from greg_compress.penalty.presets import PRESETS
from greg_compress.penalty.schedule import schedule_of
from greg_compress.penalty.targets import Units
from greg_compress.selection.plan import Plan, picks_from_json
from greg_compress.surgery.pruned import Pruned


class Penalty:
    """GReg-1 or GReg-2 (Wang et al., ICLR 2021, Algorithm 1): lambda grows on the units that go.

        penalty = greg_compress.Penalty(network, plan, optimizer, len(loader))
        while not penalty.finished:
            for images, labels in loader:
                optimizer.zero_grad()
                loss_of(model(images), labels).backward()
                penalty.add_gradients()
                optimizer.step()
        small = penalty.prune().model

    Args:
        network: what is trained, the very model.
        plan: GReg-1 drives its picks to zero, GReg-2 takes its counts alone and picks by L1 norm later.
        optimizer: SGD over the model's parameters (adaptive optimizers divide lambda away), with a constant learning
            rate (a falling one takes the force out of lambda). Read only: units that GReg-2 keeps recover with the
            weight decay of each parameter's own group.
        steps_per_epoch: optimizer steps; preset `quick` derives the length from it (6 epochs, 300 to 3,000 steps).
        method: `greg-1` or `greg-2`.
        preset: `quick`, `paper-cifar`, `paper-imagenet` or `repo-cifar`: what all that follows is, if not given. Its
            learning rate and batch size are yours to choose.
        ceiling: tau, at which lambda stops to grow.
        delta: growth of lambda at each update.
        update_every: K_u, iterations between updates.
        stabilize: K_s, iterations at the final lambda.
        pick_ceiling: tau', GReg-2's lambda at which it picks.
        pick_delta: growth of lambda until then.
        recover: lambda of the units that GReg-2 keeps; minus the weight decay if not given.
        stop_ratio: ends the growth once kept filters are so many times larger than picked ones in every group.
        penalize: `weights` of filters (the paper), or the whole `unit`: its bias, BatchNorm's scale and shift, too.
        scale: the phase so many times as long, in the same proportions.

    Raises:
        GregError: another optimizer, one that does not train what is penalised, or settings that contradict.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int,
        *,
        method: Literal["greg-1", "greg-2"] = "greg-1",
        preset: Literal["quick", "paper-cifar", "paper-imagenet", "repo-cifar"] = "quick",
        ceiling: float | None = None,
        delta: float | None = None,
        update_every: int | None = None,
        stabilize: int | None = None,
        pick_ceiling: float | None = None,
        pick_delta: float | None = None,
        recover: float | None = None,
        stop_ratio: float | None = None,
        penalize: Literal["weights", "unit"] | None = None,
        scale: float | None = None,
    ) -> None:
        options = PenaltyOptions(
            one_of(Method, "method", method),
            one_of(Preset, "preset", preset),
            ceiling, delta, update_every, stabilize, stop_ratio,
            None if penalize is None else one_of(Penalize, "penalize", penalize),
            pick_ceiling, pick_delta, recover, None, scale,
        )  # fmt: skip
        network.require_own(plan)
        self._network = network
        self._penalize = options.penalize or PRESETS[options.preset].penalize
        units = Units(network.model, network.wiring, self._penalize)
        self._pulled = [target.parameter for target in units.all_of(plan).targets]
        decays = _decays(network.model, optimizer, self._pulled)
        own = options.recover is None and PRESETS[options.preset].recover is None
        self._decays = decays if own else None
        self._schedule = schedule_of(options, steps_per_epoch, max(decays.values()))
        self._phase = self._begun(plan)

    def _begun(self, plan: Plan) -> UnitPhase:
        network = self._network
        return UnitPhase(network.model, network.wiring, plan, self._schedule, self._penalize, decays=self._decays)

    def add_gradients(self) -> None:
        """Grow lambda if it is due, and add lambda * w to the gradients.

        Call it once for each optimizer step, between the last `backward()` and `step()`: after all pieces of an
        accumulated batch, after `scaler.unscale_(optimizer)`, after clipping, and outside of autocast.

        Raises:
            GregError: nothing that is penalised has a gradient.
        """
        if all(parameter.grad is None for parameter in self._pulled):
            raise RequestError("add_gradients() comes after backward(): nothing that it pulls at has a gradient")
        self._phase.penalty.add_gradients()

    @property
    def finished(self) -> bool:
        """Whether lambda has passed its ceiling, and the iterations after that are over."""
        return self._phase.penalty.finished

    @property
    def iterations(self) -> int:
        """Length of the phase in optimizer steps, unless `stop_ratio` ends it earlier."""
        return self._schedule.iterations

    @property
    def phase(self) -> str:
        """`growing` (GReg-2 before it picks), `pushing` or `stabilizing`."""
        return self._phase.penalty.phase

    def status(self) -> dict[str, float]:
        """`lambda` of the picked units, and `weakest_ratio`: how many times larger kept filters are than picked ones,
        in the group where that is least (waits for the device)."""
        return self._phase.penalty.status()

    @property
    def plan(self) -> Plan | None:
        """What goes: GReg-1's from the start; None before GReg-2 has picked."""
        if self.phase == "growing":
            return None
        return picks_from_json(self._phase.picks, self._network.wiring)

    def prune(self) -> Pruned:
        """Cut what was picked out of a copy, and give its readers what it still made: :meth:`.Network.prune`.

        Raises:
            GregError: the phase is not finished; or as there.
        """
        plan = self.plan
        if plan is None or not self.finished:
            raise RequestError(f"the penalty is still {self.phase}; prune when it is finished")
        return self._network.prune(plan, fold=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run needs to go on, beside the model's and the optimizer's own: tensors and plain
        values, for `torch.save` and for `torch.load(..., weights_only=True)`."""
        return {
            "plan": self._phase.start.to_json(),
            "schedule": asdict(self._schedule),
            "penalty": self._phase.penalty.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`, with its plan, whatever this one was made with.

        Raises:
            GregError: it is no such state, of another network, or of other settings; nothing has changed.
        """
        with input_fault("this state does not fit the penalty"):
            if state["schedule"] != asdict(self._schedule):
                raise ValueError("it was made with other settings")
            phase = self._begun(picks_from_json(state["plan"], self._network.wiring))
            phase.penalty.load_state_dict(state["penalty"])
        self._phase = phase


def _decays(
    model: nn.Module, optimizer: torch.optim.Optimizer, pulled: list[nn.Parameter]
) -> dict[nn.Parameter, float]:
    """The weight decay of each parameter that the optimizer trains.

    Raises:
        RequestError: it is not SGD, or does not train all that is pulled at.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        raise RequestError(
            f"the penalty needs torch.optim.SGD: {type(optimizer).__name__} would divide or scale lambda away"
        )
    found = {
        parameter: float(group["weight_decay"]) for group in optimizer.param_groups for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        if any(parameter is each for each in pulled) and parameter not in found:
            raise RequestError(f"the optimizer does not train {name}, which the penalty has to shrink; see skip")
    return found
