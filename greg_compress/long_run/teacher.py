"""Learning from another network's outputs beside the labels, in fine-tuning and under the penalty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from greg_compress.errors import InputError, RequestError
from greg_compress.fit import fitting
from greg_compress.options.network import ModelOptions
from greg_compress.options.training import TeacherOptions
from greg_compress.recording import recorded
from greg_compress.sources import user_files
from greg_compress.sources.dataset import Dataset
from greg_compress.sources.specs import is_architecture
from greg_compress.state.format import State
from greg_compress.state.models import open_beside
from greg_compress.training.loop import Settings
from greg_compress.training.objective import Distillation, Objective, cross_entropy

TEMPERATURE, TEACHER_WEIGHT = 4.0, 0.9
"""What Hinton et al. and most since them use for image classifiers."""


class Teacher:
    """Whom a run learns from, if anybody."""

    def __init__(self, options: TeacherOptions, model: ModelOptions) -> None:
        self._options, self._model = options, model

    def objective(self, student: State, data: Dataset, settings: Settings) -> Objective:
        """What is minimised.

        Raises:
            RequestError: the teacher takes other images, or reads them otherwise normalised.
        """
        if self._options.teacher is None:
            return cross_entropy
        return _distillation(self._options, self._model, student, data, settings)

    def recorded(self) -> dict[str, Any]:
        """For the history, and so that a resumed run learns from the same one."""
        return recorded(self._options) | {"teacher_sha256": _digest(self._options.teacher)}


def _digest(path: str | None) -> str | None:
    if path is None or is_architecture(path):
        return None
    return user_files.sha256(user_files.contents(Path(path)))


def _distillation(
    options: TeacherOptions, model: ModelOptions, student: State, data: Dataset, settings: Settings
) -> Distillation:
    """Learn from another network's outputs on the same images.

    Raises:
        RequestError: the teacher takes other images, or reads them otherwise normalised.
    """
    assert options.teacher is not None
    try:
        found = open_beside(options.teacher, model, None if is_architecture(options.teacher) else student)
        fitting(found, data)
    except (InputError, RequestError) as error:
        raise type(error)(f"--teacher: {error}") from error
    if found.state.normalization != student.normalization:
        raise RequestError(
            f"--teacher {options.teacher} reads images otherwise normalised than the student; name another"
        )
    found.model.to(settings.device)
    temperature, weight = options.temperature or TEMPERATURE, options.teacher_weight or TEACHER_WEIGHT
    return Distillation(found.model, temperature, weight, settings.precision, settings.device)
