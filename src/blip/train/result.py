"""Result of a run, also of one that has finished before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blip.tasks.base import Task
from blip.train.checkpoints import RunFolder
from blip.train.config import TrainConfig
from blip.train.config_sources import effective_config
from blip_lite.errors import UsageError


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training run; `reason` is "finished", "no improvement", "time", "interrupted" or "terminated".

    best_step: step of the best checkpoint, if a score selects it; 0 = the starting model.
    """

    folder: Path
    step: int
    total_steps: int
    metrics: dict[str, float]
    reason: str
    best_step: int | None


def finished_result(task: Task, config: TrainConfig, folder: RunFolder, resume: str) -> TrainingResult | None:
    """Return the result of a run that has finished without keeping its state, if the settings are the same."""
    result = folder.finished_result() if resume in ("auto", "none") else None
    if result is None:
        return None
    if resume == "none" or result.pop("settings") != effective_config(task, config):
        raise UsageError(
            f"{folder.path} contains a finished run, whose training state was not kept (--keep-state); choose another "
            f"folder, or train its model further: --init {folder.path}"
        )
    return TrainingResult(folder=folder.path, **result)
