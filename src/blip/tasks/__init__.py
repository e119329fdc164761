"""Training tasks: one frozen dataclass per task, trained by `blip.train`. Torch is imported with a task's class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blip.tasks.import_path import import_class, is_import_path
from blip_lite.config import from_values
from blip_lite.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from blip.tasks.base import Task

TASKS: dict[str, str] = {
    "pretrain": "blip.tasks.pretrain:PretrainTask",
    "caption": "blip.tasks.caption:CaptionTask",
    "retrieval": "blip.tasks.retrieval:RetrievalTask",
    "itm": "blip.tasks.retrieval:RetrievalTask",
    "vqa": "blip.tasks.vqa:VqaTask",
    "nlvr": "blip.tasks.nlvr:NlvrTask",
}
VARIANTS: dict[str, dict[str, Any]] = {"itm": {"itc_weight": 0.0}}  # names of a task with other default values


def task_class(name: str) -> type[Any]:
    """Return the class of a task by its name, or by the import path of a task outside this package."""
    if name not in TASKS and not is_import_path(name):
        hint = f"{did_you_mean(name, TASKS)}; must be one of {', '.join(TASKS)}, or package.module:Class"
        raise UsageError(f"unknown task '{name}'{hint}")
    return import_class(TASKS.get(name, name), "task")


def build_task(name: str, options: Mapping[str, Any]) -> Task:
    """Return a task built from plain values, as presets and YAML files hold them."""
    task: Task = from_values(task_class(name), {**VARIANTS.get(name, {}), **options})
    return task
