"""How a task is trained: everything that is not the task's own. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blip_lite.errors import ConfigError

Schedule = Literal["cosine_epoch", "cosine_step", "pretrain", "constant"]
Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop's settings. Lengths are optimizer steps unless they are called epochs or minutes.

    batch_size: samples of one optimizer step over all processes; it is cut into `accumulate` parts, one after the
    other, and each part over the processes; None = a first guess (`blip.train.auto_batch`). schedule: see
    `blip.train.optim.rate`. dtype: of autocast, weights stay float32. grad_checkpoint: how many of the last ViT blocks
    recompute their activations in the backward pass. ema: decay of averaged weights, which are evaluated and saved
    (0 = off). eval_every, save_every: 0 = each epoch. keep: checkpoints kept, besides the best. patience: evaluations
    without a better score after which the run ends. max_minutes: save and stop after that time; start again to go on.
    strategy: what several processes do: "ddp", each has the whole model; "fsdp", each has a part of weights, gradients
    and optimizer (`blip.train.shard`).
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    lr: float = 1e-5
    min_lr: float = 0.0
    warmup_lr: float = 1e-6
    warmup_steps: int = 0
    lr_decay_rate: float = 0.9
    schedule: Schedule = "cosine_epoch"
    weight_decay: float = 0.05  # of every parameter, as the original
    max_grad_norm: float = 0.0  # 0 = no clipping, as the original
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    grad_checkpoint: int = 0
    compile: bool = False
    ema: float = 0.0
    eval_every: int = 0
    eval_limit: int | None = None  # photos of an evaluation
    save_every: int = 0
    log_every: int = 10
    keep: int = 3
    seed: int = 42
    workers: int = 2
    patience: int | None = None
    max_minutes: float | None = None
    strategy: Strategy = "ddp"

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise ConfigError("epochs and steps; give one of the two, or neither for a first guess")
        counts = (
            "epochs",
            "steps",
            "batch_size",
            "accumulate",
            "log_every",
            "keep",
            "eval_limit",
            "threads",
            "patience",
        )
        for name in counts:
            value = getattr(self, name)
            _check(name, value, value is None or value >= 1, "1 or more")
        for name in ("warmup_steps", "grad_checkpoint", "eval_every", "save_every", "workers", "max_grad_norm"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("lr", "min_lr", "warmup_lr", "weight_decay"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < float("inf"), "0 or more")
        _check("ema", self.ema, 0 <= self.ema < 1, "from 0 to below 1")
        _check("dtype", self.dtype, self.dtype in ("auto", "fp32", "bf16"), "auto, fp32 or bf16")
        _check("strategy", self.strategy, self.strategy in ("ddp", "fsdp"), "ddp or fsdp")
        if self.strategy == "fsdp" and self.compile:
            raise ConfigError("compile: not with strategy fsdp")
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise ConfigError(f"batch_size {self.batch_size}: must be a multiple of accumulate ({self.accumulate})")


def _check(name: str, value: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{name} {value}: must be {allowed}")
