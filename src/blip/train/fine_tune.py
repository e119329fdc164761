"""Defaults of `blip train TASK --data ...` without a config: fine-tuning on a user's photos. Does not import torch.

They were chosen by measurement (`experiments/finetune`): the scores on photos like the user's rise, and those on other
photos hardly fall. Presets and configs keep the original's values.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from blip.checkpoint.locate import CONFIG, locate
from blip.data.split import AUTO
from blip.tasks import task_class
from blip.tasks.presets import PRESETS
from blip_lite.text_files import load_json_object

Size = Literal["random", "tiny", "base", "large"]

TINY_LR, SCRATCH_LR = 5e-5, 2e-4
LOOP: dict[str, Any] = {
    "schedule": "cosine_step",
    "warmup_steps": 5,
    "max_grad_norm": 2.0,
    "start_share": 0.6,
    "eval_start": True,
    "patience": 3,
    "keep": 1,
}
STEM = "vision.stem"  # pre-trained on far more photos than any user has
DECLINED = "none"  # --val


def fine_tune_defaults(values: dict[str, Any], model: str) -> str | None:
    """Set what is not given: starting model (`model`), held-out photos, frozen parts, values of the loop.

    Returns the model if it was set here. A task without a learning rate of its own keeps the defaults of `TrainConfig`.
    """
    task = task_class(values["task"])
    info, start = task.info, values.setdefault("start", {})
    if info.learning_rate is None:
        return None
    chosen = None if start.get("init") is not None else model
    start["init"] = start.get("init") or model
    loop, size = values.setdefault("train", {}), model_size(start["init"])
    loop.setdefault("lr", _learning_rate(values["task"], info.learning_rate, size))
    if size == "random":  # nothing to keep
        return chosen
    known = {field.name for field in dataclasses.fields(task)}  # tasks outside the package may lack some
    if "val" in known:
        values.setdefault("val", AUTO)
    if "tune" in known:
        values.setdefault("tune", {}).setdefault("freeze", [STEM])
    for name, value in LOOP.items():
        if name == "patience" and values.get("val", DECLINED) == DECLINED:
            continue
        loop.setdefault(name, value)
    return chosen


def model_size(init: str) -> Size:
    """Return the size of a model to start from; one of unknown size counts as base. Reads only its `config.json`."""
    located = locate(init)
    entry = located.entry
    if entry is not None:
        return "random" if entry.source == "random" else entry.vit
    try:
        width = load_json_object(located.path / CONFIG)["vision"]["width"]  # type: ignore[operator]
    except (OSError, ValueError, KeyError, TypeError):
        return "base"
    return "tiny" if width < 512 else "large" if width >= 1024 else "base"


def _learning_rate(task: str, original: float, size: Size) -> float:
    """Return the learning rate: for published sizes that of the task's preset."""
    if size == "random":
        return SCRATCH_LR
    if size == "tiny":
        return TINY_LR
    large = {
        preset.task: preset.train["lr"] for name, preset in PRESETS.items() if name.endswith("_large") and preset.train
    }
    return float(large.get(task, original)) if size == "large" else original
