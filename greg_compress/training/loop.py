"""The one training loop: SGD on an objective, a position at a time.

It knows nothing of pruning: a regularizer may add to the gradients between backward and step. It knows
nothing of files either: it is an iterator, and whoever drives it saves between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from greg_compress.errors import GregError, InputError
from greg_compress.options.training import Precision
from greg_compress.reporting import Progress
from greg_compress.sources.samples import Share
from greg_compress.training.batches import Batches
from greg_compress.training.evaluation import logits, require_label
from greg_compress.training.numerics import autocast
from greg_compress.training.objective import Objective, cross_entropy
from greg_compress.training.randomness import seed_generators, seed_of
from greg_compress.training.schedule import Schedule
from greg_compress.training.tally import Tally
from greg_compress.training.world import ALONE, World

CHECK_EVERY = 20
"""Iterations between two looks at whether the loss is finite: each look waits for the device."""


class Regularizer(Protocol):
    """What may be handed to the loop: it adds to gradients, and decides when its run is over."""

    @property
    def finished(self) -> bool: ...

    @property
    def phase(self) -> str: ...

    def add_gradients(self) -> None:
        """Called once per optimizer step, after backward and before the step."""

    def status(self) -> dict[str, float]:
        """Figures for the progress display and the log."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What the loop needs besides network, batches and schedule."""

    momentum: float
    weight_decay: float
    precision: Precision
    device: torch.device
    seed: int
    accumulate: int = 1
    """Pieces that a process makes of its share of a batch, one after the other."""
    sync_bn: bool = False
    """Whether batch normalisation sees the images of all processes."""
    compiled: bool = False
    """Whether torch.compile makes the network faster; then a resumed run may differ in the last bits."""


class Loop:
    """Iterate to train: each item is the number of iterations done.

    Of several processes each runs one, all at the same iteration; what is called between two steps is called in all.

    Raises (while iterating):
        GregError: the loss is not finite.
        InputError: nothing is trained (also when it is made).
        RequestError: the network's output is not (N, classes) logits.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        schedule: Schedule,
        settings: Settings,
        regularizer: Regularizer | None = None,
        validate: Callable[[], float] | None = None,
        objective: Objective = cross_entropy,
        world: World = ALONE,
    ) -> None:
        self.model = model
        self.batches = batches
        self.schedule = schedule
        self.settings = settings
        self.regularizer = regularizer
        self.validate = validate
        self.objective = objective
        self.world = world
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InputError("nothing of the network can be trained: it has no parameters, or all of them are frozen")
        shared = world.parallel(model, settings.device, settings.sync_bn)
        self._shared = shared
        self._forward: Callable[[Tensor], Any] = torch.compile(shared) if settings.compiled else shared
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=schedule.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        if settings.momentum:
            self._begin_momentum()
        self._scaler = torch.amp.GradScaler(settings.device.type, enabled=settings.precision is Precision.FP16)
        self.iteration = 0
        self.log: list[dict[str, float]] = []
        self._epoch = Tally(settings.device)
        self._recent = Tally(settings.device)
        """Since :meth:`recent` was last asked."""
        self._unchecked: list[Tensor] = []
        """Losses of the last iterations, which nobody has looked at yet."""

    def _begin_momentum(self) -> None:
        """At 0. The fused kernel begins with whatever lies in memory where a gradient scaler skips its first step, and
        breaks where a parameter has no gradient in its first step and has one later."""
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @property
    def done(self) -> bool:
        if self.regularizer is not None and self.regularizer.finished:
            return True
        return self.iteration >= self.schedule.total

    def __iter__(self) -> Iterator[int]:
        self.model.train()
        while not self.done:
            epoch, first = divmod(self.iteration, len(self.batches))
            for images, labels in self.batches.epoch(epoch, first):
                self._step(images, labels)
                self.iteration += 1
                if self.iteration % CHECK_EVERY == 0 or self.done:
                    self.require_finite()
                if self.iteration % len(self.batches) == 0 or self.done:
                    self._end_epoch(epoch)
                yield self.iteration
                if self.done:
                    return

    def _step(self, images: Tensor, labels: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.at(self.iteration)
        self.optimizer.zero_grad(set_to_none=True)
        # Dropout and the like draw from global generators: as all that is drawn, it depends on the position alone.
        seed_generators(seed_of(self.settings.seed, "dropout", self.iteration, self.world.rank))
        pieces = min(self.settings.accumulate, len(labels))
        losses = []
        for number in range(pieces):
            piece = Share(number, pieces).of(len(labels))
            with self.world.alone_until(number == pieces - 1, self._shared):
                losses.append(self._add_gradients(images[piece], labels[piece]))
        self._scaler.unscale_(self.optimizer)
        if self.regularizer is not None:
            self.regularizer.add_gradients()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._unchecked.append(torch.stack(losses).sum())

    def _add_gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Those of the mean loss over the whole batch, as far as these images make it; return their own mean loss."""
        device = self.settings.device
        most = int(labels.max())
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        with autocast(self.settings.precision, device):
            output = logits(self._forward, images)
        require_label(most, output)
        loss = self.objective(images, output, labels)
        if not loss.requires_grad:
            raise InputError("the network's output does not depend on anything that is trained")
        # The mean over processes is still to come, and pieces may differ by an image.
        self._scaler.scale(loss * (len(labels) * self.world.size / self.batches.size)).backward()
        hits = (output.detach().argmax(1) == labels).sum()
        for tally in (self._epoch, self._recent):
            tally.add(loss.detach(), hits, len(labels))
        return loss.detach()

    def _end_epoch(self, epoch: int) -> None:
        loss, top1, _ = self._epoch.means(self.world)
        record = {"epoch": epoch, "iteration": self.iteration, "loss": loss, "top1": top1, "lr": self._rate()}
        record |= self.regularizer.status() if self.regularizer else {}
        if self.validate is not None:
            record["val_top1"] = self.validate()
        self.log.append(record)
        if self.iteration % len(self.batches) == 0:  # a run that ends within an epoch may be told to go on
            self._epoch.clear()

    def _rate(self) -> float:
        """The learning rate of the last step."""
        return self.schedule.at(max(0, self.iteration - 1))

    def require_finite(self) -> None:
        """Raise GregError when the loss has become NaN or infinite, in any process."""
        losses, self._unchecked = self._unchecked, []
        wrong = torch.stack(losses).isfinite().logical_not().nonzero() if losses else torch.empty(0)
        never = self.schedule.total + 1
        own = self.iteration - len(losses) + 1 + int(wrong[0]) if len(wrong) else never
        if (first := self.world.least(own)) < never:
            raise GregError(f"the loss is not finite at iteration {first}; lower --lr")

    def progress(self) -> Progress:
        """Where the run stands, by this process's images (waits for the device)."""
        loss, top1, seen = self._epoch.means()
        if not seen and self.log:  # an epoch has just ended, and the next one has shown nothing yet
            loss, top1 = self.log[-1]["loss"], self.log[-1]["top1"]
        return Progress(
            phase=self.regularizer.phase if self.regularizer else "training",
            iteration=self.iteration,
            total=self.schedule.total,
            epoch=max(0, self.iteration - 1) // len(self.batches),
            loss=loss,
            top1=top1,
            lr=self._rate(),
            extra=self.regularizer.status() if self.regularizer else {},
        )

    def recent(self) -> Progress:
        """Where the run stands, by the images of all processes since this was last asked (waits for the device)."""
        loss, top1, _ = self._recent.means(self.world)
        self._recent.clear()
        return replace(self.progress(), loss=loss, top1=top1)

    def wait(self) -> None:
        """For the device, so that a clock shows what a step takes."""
        self._epoch.means()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights that a run needs to go on as if never stopped."""
        return {
            "iteration": self.iteration,
            "optimizer": self.optimizer.state_dict(),
            "regularizer": self.regularizer.state_dict() if self.regularizer else None,
            "scaler": self._scaler.state_dict(),
            "epoch": self._epoch.saved(self.world),
            "recent": self._recent.saved(self.world),
            "log": self.log,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; the weights are the caller's to restore."""
        if type(state["iteration"]) is not int or not 0 <= state["iteration"] <= self.schedule.total:
            raise ValueError(f"iteration {state['iteration']} of {self.schedule.total}")
        self.iteration = state["iteration"]
        self._load_optimizer(state["optimizer"])
        if self.regularizer is not None:
            self.regularizer.load_state_dict(state["regularizer"])
        if state["scaler"].keys() != self._scaler.state_dict().keys():
            raise ValueError("a gradient scaler of another precision")
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        self._epoch.load(state["epoch"], self.world)
        self._recent.load(state["recent"], self.world)
        if not all(isinstance(value, (int, float)) for record in state["log"] for value in record.values()):
            raise ValueError("a log of other things than numbers")
        self.log = list(state["log"])
        if not self.done and self.iteration % len(self.batches) and self._logged == self.iteration:
            self.log.pop()  # the run ended here, until its limit grew

    @property
    def _logged(self) -> float:
        """The iteration of the last record."""
        return self.log[-1].get("iteration", 0) if self.log else 0

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        ours = [{**group, "lr": None} for group in self.optimizer.state_dict()["param_groups"]]
        if [{**group, "lr": None} for group in state["param_groups"]] != ours:
            raise ValueError("an optimizer with other settings")
        self.optimizer.load_state_dict(state)
        for parameter, own in self.optimizer.state.items():
            momentum = own.get("momentum_buffer")
            if momentum is not None and (momentum.shape, momentum.dtype) != (parameter.shape, parameter.dtype):
                raise ValueError("a momentum of another shape or type than its parameter")
