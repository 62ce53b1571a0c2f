"""The one training loop: SGD on an objective, a position at a time.

It knows nothing of pruning: a regularizer may add to the gradients between backward and step. It knows
nothing of files either: it is an iterator, and whoever drives it saves between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from greg_compress.errors import GregError
from greg_compress.options.training import Precision
from greg_compress.reporting import Progress
from greg_compress.training.batches import Batches
from greg_compress.training.evaluation import logits, require_label
from greg_compress.training.numerics import autocast
from greg_compress.training.objective import Objective, cross_entropy
from greg_compress.training.randomness import generator
from greg_compress.training.schedule import Schedule

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


class Loop:
    """Iterate to train: each item is the number of iterations done.

    Raises (while iterating):
        GregError: the loss is not finite.
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
    ) -> None:
        self.model = model
        self.batches = batches
        self.schedule = schedule
        self.settings = settings
        self.regularizer = regularizer
        self.validate = validate
        self.objective = objective
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=schedule.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self.iteration = 0
        self.log: list[dict[str, float]] = []
        self._unchecked: list[Tensor] = []
        """Losses of the last iterations, which nobody has looked at yet."""
        self._begin_epoch()
        # Only the network's own dropout draws from this stream; everything else depends on the position.
        torch.manual_seed(generator(settings.seed, "dropout").initial_seed())

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
        device = self.settings.device
        most = int(labels.max())
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.at(self.iteration)
        with autocast(self.settings.precision, device):
            output = logits(self.model, images)
        output = output.float()
        require_label(most, output)
        loss = self.objective(images, output, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.regularizer is not None:
            self.regularizer.add_gradients()
        self.optimizer.step()
        self._unchecked.append(loss.detach())
        self._loss += loss.detach().double() * len(labels)
        self._hits += (output.detach().argmax(1) == labels).sum()
        self._seen += len(labels)

    def _begin_epoch(self) -> None:
        device = self.settings.device
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._hits = torch.zeros((), dtype=torch.int64, device=device)
        self._seen = 0

    def _end_epoch(self, epoch: int) -> None:
        now = self.progress()
        record = {"epoch": epoch, "iteration": now.iteration, "loss": now.loss, "top1": now.top1, "lr": now.lr}
        record |= now.extra
        if self.validate is not None:
            record["val_top1"] = self.validate()
        self.log.append(record)
        self._begin_epoch()

    def require_finite(self) -> None:
        """Raise GregError when the loss has become NaN or infinite."""
        losses, self._unchecked = self._unchecked, []
        wrong = torch.stack(losses).isfinite().logical_not().nonzero() if losses else torch.empty(0)
        if len(wrong):
            iteration = self.iteration - len(losses) + 1 + int(wrong[0])
            raise GregError(f"the loss is not finite at iteration {iteration}; lower --lr")

    def progress(self) -> Progress:
        """Where the run stands (waits for the device)."""
        if self._seen or not self.log:
            seen = max(1, self._seen)
            loss, top1 = self._loss.item() / seen, 100 * self._hits.item() / seen
        else:  # an epoch has just ended, and the next one has shown nothing yet
            loss, top1 = self.log[-1]["loss"], self.log[-1]["top1"]
        return Progress(
            phase=self.regularizer.phase if self.regularizer else "training",
            iteration=self.iteration,
            total=self.schedule.total,
            epoch=max(0, self.iteration - 1) // len(self.batches),
            loss=loss,
            top1=top1,
            lr=self.schedule.at(max(0, self.iteration - 1)),
            extra=self.regularizer.status() if self.regularizer else {},
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights that a run needs to go on as if never stopped."""
        return {
            "iteration": self.iteration,
            "optimizer": self.optimizer.state_dict(),
            "regularizer": self.regularizer.state_dict() if self.regularizer else None,
            "epoch": {"loss": self._loss.cpu(), "hits": self._hits.cpu(), "seen": self._seen},
            "log": self.log,
            "random": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(self.settings.device) if self._on_cuda else None,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; the weights are the caller's to restore."""
        if type(state["iteration"]) is not int or not 0 <= state["iteration"] <= self.schedule.total:
            raise ValueError(f"iteration {state['iteration']} of {self.schedule.total}")
        self.iteration = state["iteration"]
        self._load_optimizer(state["optimizer"])
        if self.regularizer is not None:
            self.regularizer.load_state_dict(state["regularizer"])
        device = self.settings.device
        loss, hits, seen = (state["epoch"][name] for name in ("loss", "hits", "seen"))
        for old, new in ((self._loss, loss), (self._hits, hits)):
            if new.shape != old.shape or new.dtype != old.dtype:
                raise ValueError("figures of the epoch that are none")
        if type(seen) is not int or not 0 <= int(hits) <= seen:
            raise ValueError("figures of the epoch that are none")
        self._loss, self._hits, self._seen = loss.to(device), hits.to(device), seen
        if not all(isinstance(value, (int, float)) for record in state["log"] for value in record.values()):
            raise ValueError("a log of other things than numbers")
        self.log = list(state["log"])
        torch.set_rng_state(state["random"]["cpu"])
        if self._on_cuda and state["random"]["cuda"] is not None:
            torch.cuda.set_rng_state(state["random"]["cuda"], self.settings.device)

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        ours = [{**group, "lr": None} for group in self.optimizer.state_dict()["param_groups"]]
        if [{**group, "lr": None} for group in state["param_groups"]] != ours:
            raise ValueError("an optimizer with other settings")
        self.optimizer.load_state_dict(state)
        for parameter, own in self.optimizer.state.items():
            momentum = own.get("momentum_buffer")
            if momentum is not None and (momentum.shape, momentum.dtype) != (parameter.shape, parameter.dtype):
                raise ValueError("a momentum of another shape or type than its parameter")

    @property
    def _on_cuda(self) -> bool:
        return self.settings.device.type == "cuda"
