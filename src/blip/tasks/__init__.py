"""What to train and measure: one frozen value per task; `blip.train` says how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blip.config import from_values
from blip.errors import UsageError, did_you_mean
from blip.tasks.base import Task
from blip.tasks.caption import CaptionTask
from blip.tasks.pretrain import PretrainTask

TASKS: dict[str, type[Any]] = {"pretrain": PretrainTask, "caption": CaptionTask}


def build_task(name: str, options: Mapping[str, Any]) -> Task:
    """A task from plain values, as presets and YAML files give them."""
    if name not in TASKS:
        raise UsageError(f"unknown task '{name}'{did_you_mean(name, TASKS)}; must be one of {', '.join(TASKS)}")
    task: Task = from_values(TASKS[name], options)
    return task
