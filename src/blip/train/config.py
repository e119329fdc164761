"""Settings of the training loop, apart from those of the task. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blip_lite.errors import ConfigError

Schedule = Literal["cosine_epoch", "cosine_step", "pretrain", "constant"]
Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the training loop. Lengths are optimizer steps unless named epochs or minutes.

    batch_size: samples per optimizer step over all processes, divided into `accumulate` parts and each part over the
    processes; None = estimated (`blip.train.auto_batch`). schedule: see `blip.train.optim.learning_rate`. dtype: of
    autocast; weights stay float32. grad_checkpoint: number of last ViT blocks with activation checkpointing. ema: decay
    of averaged weights, which are evaluated and saved (0 = off). start_share: share of the starting weights in these
    (`blip.train.averages`). eval_start: evaluate the starting model first; it is kept if no step is better. eval_every,
    save_every: 0 = each epoch. keep: checkpoints to keep, besides the best; keep_state: also at the end of the run.
    patience: stop after this many evaluations without improvement. max_minutes: save and stop after this time; the same
    command resumes. shuffle_window: number of shards whose rows are shuffled together, of data that are read through
    indexes (`blip.data.indexed_source`). mix: shares of the samples, in whole numbers, for each source in `data`; an
    epoch then has as many samples as all sources have rows. strategy: "ddp" replicates the model on all processes;
    "fsdp" shards weights, gradients and optimizer state (`blip.train.shard`).
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
    weight_decay: float = 0.05  # for every parameter, as the original
    max_grad_norm: float = 0.0  # 0 = no clipping, as the original
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    grad_checkpoint: int = 0
    compile: bool = False
    ema: float = 0.0
    start_share: float = 0.0
    eval_start: bool = False
    eval_every: int = 0
    eval_limit: int | None = None  # images per evaluation
    save_every: int = 0
    log_every: int = 10
    keep: int = 3
    keep_state: bool = False
    seed: int = 42
    shuffle_window: int = 16
    mix: tuple[int, ...] | None = None
    workers: int = 2
    patience: int | None = None
    max_minutes: float | None = None
    strategy: Strategy = "ddp"

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise ConfigError("epochs and steps; give one of the two, or neither for an estimate")
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
            "shuffle_window",
        )
        for name in counts:
            value = getattr(self, name)
            _check(name, value, value is None or value >= 1, "1 or more")
        for name in ("warmup_steps", "grad_checkpoint", "eval_every", "save_every", "workers", "max_grad_norm"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("lr", "min_lr", "warmup_lr", "weight_decay"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < float("inf"), "0 or more")
        for name in ("ema", "start_share"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "from 0 to below 1")
        _check("dtype", self.dtype, self.dtype in ("auto", "fp32", "bf16"), "auto, fp32 or bf16")
        _check("strategy", self.strategy, self.strategy in ("ddp", "fsdp"), "ddp or fsdp")
        if self.strategy == "fsdp" and self.compile:
            raise ConfigError("compile: not with strategy fsdp")
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise ConfigError(f"batch_size {self.batch_size}: must be a multiple of accumulate ({self.accumulate})")


def _check(name: str, value: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{name} {value}: must be {allowed}")
