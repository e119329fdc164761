"""A folder of small photos with texts beside them, and a task that learns them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip.tasks.caption import CaptionTask
from blip.tasks.images import Augment
from blip.tasks.initialize import Start
from blip.tasks.pretrain import PretrainTask
from blip.train import TrainConfig

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 40),
    "blue": (20, 40, 220),
    "yellow": (230, 220, 20),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
    "orange": (250, 140, 10),
    "purple": (130, 20, 140),
}


def write_photos(folder: Path) -> Path:
    """Eight photos of a colour each; all texts have the same number of words."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(0)
    for name, colour in COLOURS.items():
        noise = rng.randint(-5, 6, (40, 40, 3))
        pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} wall\n")
    return folder


def caption_task(data: Path, **options: Any) -> CaptionTask:
    start = Start(init="random-tiny", dropout=0.0)
    return CaptionTask(
        **{"data": str(data), "start": start, "augment": Augment(rand_augment=False, min_scale=0.9), **options}
    )


def pretrain_task(data: Path, **options: Any) -> PretrainTask:
    start = Start(init="random-tiny", dropout=0.0)
    return PretrainTask(
        **{
            "data": str(data),
            "start": start,
            "queue_size": 10,
            "augment": Augment(rand_augment=False, min_scale=0.9),
            **options,
        }
    )


def loop(**options: Any) -> TrainConfig:
    """A short run: 6 steps of 4 photos."""
    given = {
        "steps": 6,
        "batch_size": 4,
        "lr": 1e-3,
        "workers": 0,
        "log_every": 1,
        "device": "cpu",
        "keep_state": True,
        **options,
    }
    return TrainConfig(**given)
