"""Correctness of training: losses of steps on the device against the CPU, and a run that is resumed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.models import texts
from benchmarks.gpu.session import Session
from blip.tasks.base import Batch, Step, Task
from blip.tasks.caption import CaptionTask
from blip.tasks.images import Augment, TrainingSample
from blip.tasks.initialize import Start
from blip.tasks.pretrain import PretrainTask
from blip.train.config import TrainConfig
from blip.train.trainable import TrainableModel

RATE = 1e-4


def pretraining(start: Start, **options: Any) -> PretrainTask:
    return PretrainTask(**{"data": "unused", "start": start, "queue_size": 1024, **options})


def captioning(start: Start, **options: Any) -> CaptionTask:
    return CaptionTask(**{"data": "unused", "start": start, **options})


def batch_of(task: Any, count: int, captions: list[str]) -> Batch:
    """A batch of noise images with these captions."""
    size = task.setup.config.vision.image_size
    pixels = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return task.collate(
        [TrainingSample(x, (text,), i) for i, (x, text) in enumerate(zip(pixels, captions, strict=True))]
    )


def trainable(task: Task, device: torch.device, dtype: str) -> TrainableModel:
    torch.manual_seed(0)  # queue
    config = TrainConfig(steps=1, dtype=dtype, device=str(device))
    model = TrainableModel(task, config, device)
    model.start()
    return model


def step(model: TrainableModel, batch: Batch, index: int = 0) -> dict[str, float]:
    """Take an optimizer step; return its losses and the norm of the gradients."""
    torch.manual_seed(index)
    losses = model.backward(batch, Step(index, 1, 100), last=True)
    norm = model.clip()
    model.update(RATE, index)
    return {**losses, "norm": norm}


def check_steps(session: Session, name: str, new_task: Callable[[], Any], count: int) -> None:
    """Losses and gradient norms of two steps are those of the CPU."""
    cpu = torch.device("cpu")
    task = new_task()
    batch = batch_of(task, count, texts(count))
    model = trainable(task, cpu, "fp32")
    expected = [step(model, batch, i) for i in range(2)]
    del model, task
    for dtype, tolerance in (("fp32", 2e-3), ("bf16", 0.05)):
        task = new_task()
        model = trainable(task, session.device, dtype)
        result = [step(model, batch, i) for i in range(2)]
        for i, (a, b) in enumerate(zip(expected, result, strict=True)):
            losses = {key: abs(a[key] - b[key]) / max(1.0, abs(a[key])) for key in a if key != "norm"}
            norm = abs(a["norm"] - b["norm"]) / a["norm"]
            # the second step also shows the update; bfloat16 may draw other hard negatives
            ok = max(losses.values()) < tolerance and norm < 10 * tolerance
            values = {key: round(value, 5) for key, value in b.items()}
            session.write(
                f"training {name}",
                precision=dtype,
                step=i,
                ok=ok,
                values=values,
                cpu={k: round(v, 5) for k, v in a.items()},
            )
        del model, task
        session.release()


def check_resume(session: Session) -> None:
    """A run of six steps, and one that resumes at its third, have the same losses and weights."""
    from blip.train.loop import fit

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = _write_photos(folder / "photos")

        def train(run: Path) -> dict[str, torch.Tensor]:
            task = pretraining(
                Start(init="random-tiny", dropout=0.0),
                data=str(data),
                augment=Augment(rand_augment=False),
                queue_size=16,
            )
            config = TrainConfig(
                steps=6, batch_size=4, save_every=3, keep_state=True, lr=1e-3, workers=0, device=str(session.device)
            )
            fit(task, config, run, quiet=True)
            state = torch.load(run / "checkpoints/step_6/state.pt", map_location="cpu", weights_only=True)
            weights: dict[str, torch.Tensor] = state["model"]
            return weights

        whole = train(folder / "whole")
        shutil.copytree(folder / "whole/checkpoints/step_3", folder / "resumed/checkpoints/step_3")
        resumed = train(folder / "resumed")
        difference = max(float((whole[key].float() - resumed[key].float()).abs().max()) for key in whole)
        moved = max(float(value.float().abs().max()) for value in whole.values())
        session.write("resume", ok=difference < 1e-4, largest_difference=difference, largest_weight=round(moved, 3))


def _write_photos(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, text in enumerate(texts(8)):
        Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(text + "\n")
    return folder


def sections(session: Session) -> dict[str, Callable[[], None]]:
    random_weights = Start(init="random-tiny", dropout=0.0) if session.small else Start(image_size=224, dropout=0.0)
    bundled = Start(init="tiny", dropout=0.0)
    return {
        "training tiny": lambda: check_steps(session, "tiny", lambda: pretraining(bundled), 8),
        "resume": lambda: check_resume(session),
        "training random": lambda: check_steps(session, "random", lambda: pretraining(random_weights), 4),
        "training random, captions": lambda: check_steps(
            session, "random, captions", lambda: captioning(random_weights), 4
        ),
    }
