"""One optimizer step: losses over the parts of a batch, checks, clipping, update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from blip import distributed
from blip.data.loader import sample_seed
from blip.tasks.base import Batch, Step
from blip.train.checkpoints import RunFolder
from blip.train.config import TrainConfig
from blip.train.optim import learning_rate
from blip.train.trainable import TrainableModel
from blip_lite.errors import TrainingDiverged


@dataclass(frozen=True)
class Stepper:
    """Takes the steps of a run. Raises `TrainingDiverged` with step, cause and the last checkpoint."""

    trainable: TrainableModel
    config: TrainConfig
    folder: RunFolder
    total: int

    def take(self, step: Step, parts: Iterator[tuple[int, Batch]]) -> tuple[dict[str, float], dict[str, float]]:
        """Take one optimizer step; return mean losses over its parts and processes, learning rate and gradient norm."""
        config = self.config
        lr = learning_rate(config, step, self.total)
        total: dict[str, float] = {}
        for part in range(config.accumulate):
            _, batch = next(parts)
            torch.manual_seed(sample_seed(config.seed, step.index * config.accumulate + part, distributed.rank()))
            losses = self.trainable.backward(batch, step, last=part == config.accumulate - 1)
            total = {name: total.get(name, 0.0) + value / config.accumulate for name, value in losses.items()}
        total = dict(zip(total, distributed.all_reduce_mean(list(total.values())), strict=True))
        self._check_finite(total, step, lr)
        norm = self.trainable.clip()
        if not norm < float("inf"):
            raise TrainingDiverged(self._diverged(step, f"gradient norm is {norm}", lr))
        self.trainable.update(lr, step.index)
        return total, {"lr": lr, "grad_norm": norm}

    def _check_finite(self, losses: Mapping[str, float], step: Step, lr: float) -> None:
        bad = [name for name, value in losses.items() if not abs(value) < float("inf")]
        if bad:
            named = [name for name in bad if name != "loss"] or bad
            raise TrainingDiverged(self._diverged(step, f"loss {', '.join(named)} is {losses[named[0]]}", lr))

    def _diverged(self, step: Step, problem: str, lr: float) -> str:
        saved = self.folder.steps()
        last = f"last checkpoint at step {saved[-1]}" if saved else "no checkpoint yet"
        where = f"{self.folder.path}: step {step.index + 1}"
        return f"{where}: {problem} (lr {lr:.3g}); {last}; try a lower lr or max_grad_norm"
