"""What to train and measure: one frozen value per task; `blip.train` says how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blip.tasks.base import Task
from blip.tasks.caption import CaptionTask
from blip.tasks.nlvr import NlvrTask
from blip.tasks.pretrain import PretrainTask
from blip.tasks.retrieval import RetrievalTask
from blip.tasks.vqa import VqaTask
from blip_lite.config import from_values
from blip_lite.errors import UsageError, did_you_mean

TASKS: dict[str, type[Any]] = {
    "pretrain": PretrainTask,
    "caption": CaptionTask,
    "retrieval": RetrievalTask,
    "vqa": VqaTask,
    "nlvr": NlvrTask,
}


# Tasks under a name of their own that are another one with other values.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"itm": ("retrieval", {"itc_weight": 0.0, "name": "itm"})}


def build_task(name: str, options: Mapping[str, Any]) -> Task:
    """A task from plain values, as presets and YAML files give them."""
    known = (*TASKS, *VARIANTS)
    if name not in known:
        raise UsageError(f"unknown task '{name}'{did_you_mean(name, known)}; must be one of {', '.join(known)}")
    base, values = VARIANTS.get(name, (name, {}))
    task: Task = from_values(TASKS[base], {**values, **options})
    return task
