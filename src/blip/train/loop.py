"""`fit`: one training loop for all tasks, on a CPU, a GPU or under torchrun; resumes at any step, bit-exactly.

The samples of a step, their augmentation and all random numbers follow from (seed, step, rank) alone, so a checkpoint
contains no generator state and no position in the data.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from blip import distributed, runtime
from blip.data.loader import EpochSampler, batches, sample_seed
from blip.eval.base import Report
from blip.io.atomic import write_text
from blip.signals import StopRequest, stop_on_signal
from blip.tasks.base import Batch, Step, Task
from blip.train import auto_batch
from blip.train.checkpoints import SHARDS, STATE, RunFolder
from blip.train.config import TrainConfig
from blip.train.log import TrainLog
from blip.train.optim import learning_rate
from blip.train.trainable import TrainableModel
from blip_lite.errors import BlipError, CheckpointMismatch, ConfigError, TrainingDiverged

EXAMPLES = 3  # predictions shown at each evaluation
REASONS = ("", "interrupted", "no improvement", "time", "terminated")  # to stop; the last one of all processes counts


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training run; `reason` is "finished", "no improvement", "time", "interrupted" or "terminated".

    best_step: step of the best checkpoint, if a score selects it.
    """

    folder: Path
    step: int
    total_steps: int
    metrics: dict[str, float]
    reason: str
    best_step: int | None


def fit(
    task: Task, config: TrainConfig, run_dir: str | Path, *, resume: str = "auto", quiet: bool = False
) -> TrainingResult:
    """Train a task; write `final/`, which `blip.load` reads, with config, logs and checkpoints beside it.

    resume: "auto" resumes from the newest checkpoint of the folder, "none" refuses a folder that has one; else the path
    of a checkpoint. Raises TrainingDiverged if a loss or gradient is not finite, EnvironmentProblem if another process
    of the run is lost. SIGTERM and Ctrl-C save a checkpoint first; a second signal stops at once.
    """
    with ExitStack() as stack:
        device = stack.enter_context(distributed.process_group(runtime.choose_device(config.device)))
        if config.threads:
            stack.enter_context(runtime.threads(config.threads))
        if device.type == "cpu":
            runtime.tune_glibc_malloc()
        stop = stack.enter_context(stop_on_signal())
        stack.enter_context(distributed.report_lost_peers())
        return _Run(task, config, RunFolder(Path(run_dir)), device, stop, resume, quiet).run()


@dataclass
class _Run:
    """State of one run. Everything that survives a restart is in `values` and `restore`."""

    task: Task
    config: TrainConfig
    folder: RunFolder
    device: torch.device
    stop: StopRequest
    resume: str
    quiet: bool
    done: int = 0  # finished optimizer steps
    best: tuple[float, int] | None = None  # score and step
    since_best: int = 0  # evaluations since then
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # of earlier runs that this one resumes

    def __post_init__(self) -> None:
        config = self.config
        _require_score_for_patience(self.task, config)
        self.started = time.monotonic()
        torch.manual_seed(config.seed)
        self.trainable = TrainableModel(self.task, config, self.device)
        self.data = self.task.dataset()
        start = self.folder.resume_from(self.resume)
        self.config = config = self.with_batch_size(None if start is None else start[1])
        self.sampler = EpochSampler(
            getattr(self.data, "epoch_length", len(self.data)),
            self.batch_size,
            config.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            parts=config.accumulate,
        )
        self.config = config = auto_batch.length(config, self.sampler.steps_in(0))
        self.total = config.steps or self.sampler.first_step(config.epochs or 0)
        if start is not None:
            self.restore(*start)
        self.trainable.start()
        self.log = TrainLog(
            self.folder.path,
            active=self.is_main,
            start_step=self.done,
            total_steps=self.total,
            batch_size=self.batch_size,
            quiet=self.quiet,
        )

    @property
    def is_main(self) -> bool:
        return distributed.rank() == 0

    @property
    def batch_size(self) -> int:
        assert self.config.batch_size is not None
        return self.config.batch_size

    def with_batch_size(self, state: Mapping[str, Any] | None) -> TrainConfig:
        """The config with a batch size: as configured, of the run to resume, or estimated."""
        config, self.estimate = self.config, ""
        if config.batch_size is not None:
            return config
        if state is not None:
            return replace(config, batch_size=state["batch"][0])
        shares = distributed.world_size() * config.accumulate
        size, self.estimate = auto_batch.batch_size(
            len(self.data), shares, self.trainable.model, self.device, self.trainable.dtype
        )
        # free memory may differ between devices
        return replace(config, batch_size=int(distributed.broadcast_from_rank0(torch.tensor(size, device=self.device))))

    def run(self) -> TrainingResult:
        if self.is_main:
            write_text(self.folder.path / "config.yaml", effective_config(self.task, self.config))
        if self.estimate:
            self.log.note(f"batch size {self.batch_size}: {self.estimate}; change it with --batch-size")
        if self.done:
            self.log.note(f"resuming at step {self.done} of {self.total}")
        try:
            self.check_patience()
            if not self.stop.reason:
                self.train()
            if self.stop.reason in ("", "no improvement"):
                self.finish()
        finally:
            self.log.close()
        best = None if self.best is None else self.best[1]
        return TrainingResult(
            self.folder.path, self.done, self.total, self.metrics, self.stop.reason or "finished", best
        )

    def train(self) -> None:
        config = self.config
        parts = batches(
            self.data,
            self.task.collate,
            self.sampler,
            self.done * config.accumulate,
            config.workers,
            stop_step=self.total * config.accumulate,
            pin_memory=self.device.type == "cuda",
        )
        last_time, last_step = time.monotonic(), self.done
        while self.done < self.total:
            step = self.next_step()
            losses, values = self.train_step(step, parts)
            self.done += 1
            self.log.progress(self.done, step.epoch, losses)
            if self.done % config.log_every == 0 or self.done in (1, self.total):
                now = time.monotonic()
                speed = (self.done - last_step) * self.batch_size / (now - last_time)
                last_time, last_step = now, self.done
                self.log_step(step, losses, {**values, "images_per_s": speed})
            evaluate = self.is_due(config.eval_every)
            if evaluate:
                self.evaluate()
            self.agree_to_stop()
            if evaluate or self.is_due(config.save_every) or self.stop.reason:
                self.save()
                last_time, last_step = time.monotonic(), self.done
            if self.stop.reason:
                return

    def next_step(self) -> Step:
        epoch = self.sampler.epoch(self.done)
        return Step(self.done, epoch, self.sampler.steps_in(epoch), self.sampler.first_step(epoch))

    def train_step(self, step: Step, parts: Iterator[tuple[int, Batch]]) -> tuple[dict[str, float], dict[str, float]]:
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
        self.check_finite(total, step, lr)
        norm = self.trainable.clip()
        if not norm < float("inf"):
            raise TrainingDiverged(self.diverged(step, f"gradient norm is {norm}", lr))
        self.trainable.update(lr, step.index)
        return total, {"lr": lr, "grad_norm": norm}

    def check_finite(self, losses: Mapping[str, float], step: Step, lr: float) -> None:
        bad = [name for name, value in losses.items() if not abs(value) < float("inf")]
        if bad:
            named = [name for name in bad if name != "loss"] or bad
            raise TrainingDiverged(self.diverged(step, f"loss {', '.join(named)} is {losses[named[0]]}", lr))

    def diverged(self, step: Step, problem: str, lr: float) -> str:
        saved = self.folder.steps()
        last = f"last checkpoint at step {saved[-1]}" if saved else "no checkpoint yet"
        where = f"{self.folder.path}: step {step.index + 1}"
        return f"{where}: {problem} (lr {lr:.3g}); {last}; try a lower lr or max_grad_norm"

    def log_step(self, step: Step, losses: Mapping[str, float], values: Mapping[str, float]) -> None:
        named = {name if name == "loss" else f"loss_{name}": value for name, value in losses.items()}
        usage = {
            "seconds": self.seconds + time.monotonic() - self.started,
            "mem_mb": runtime.peak_memory_mb(self.device),
        }
        self.log.row(self.done, {"epoch": step.epoch, **named, **values, **usage})

    def is_due(self, every: int) -> bool:
        epoch_ends = self.done == self.sampler.first_step(self.sampler.epoch(self.done - 1) + 1)
        return self.done == self.total or (self.done % every == 0 if every else epoch_ends)

    def check_patience(self) -> None:
        if self.config.patience is not None and self.since_best >= self.config.patience and not self.stop.reason:
            self.stop.reason = "no improvement"

    def agree_to_stop(self) -> None:
        """Stop all processes at the same step: after a signal to one, at the time limit, or without improvement."""
        minutes = self.config.max_minutes
        if not self.stop.reason and minutes is not None and time.monotonic() - self.started > 60 * minutes:
            self.stop.reason = "time"
        self.check_patience()
        self.stop.reason = REASONS[distributed.all_reduce_max(REASONS.index(self.stop.reason))]

    def evaluate(self) -> None:
        with self.trainable.evaluation_mode() as model:
            if self.is_main:
                self.record_evaluation(self.task.setup.evaluate(model, self.config.eval_limit))
        distributed.wait_for_all()

    def record_evaluation(self, report: Report) -> None:
        """Log an evaluation and compare it with the best one; strictly greater wins."""
        self.metrics = report.metrics
        text = " ".join(f"{name} {value:.4g}" for name, value in report.metrics.items())
        if report.rows or text:
            self.log.note(f"step {self.done} evaluated: {text or 'training samples only; give --val for scores'}")
        for row in report.rows[:EXAMPLES]:
            prompt = row.get("question", row.get("sentence", ""))
            prediction = row.get("prediction", f"rank {row.get('rank')}")
            self.log.note(f"  {row['key']}: {prompt + ' ' if prompt else ''}{prediction}")
        if not report.metrics:
            return
        self.log.row(self.done, {f"val_{name}": value for name, value in report.metrics.items()})
        if self.task.best is not None:
            score = sum(_metric(report.metrics, key) for key in self.task.best.keys)
            self.since_best += 1
            if self.best is None or score > self.best[0]:
                self.best, self.since_best = (score, self.done), 0

    def save(self) -> None:
        with self.folder.new(self.done) if self.is_main else nullcontext():
            self.trainable.write(self.folder.temporary(self.done), self.values())
        if self.is_main:
            if self.best is not None and self.best[1] == self.done:
                self.folder.link("best", self.done)
            self.folder.prune(self.config.keep, None if self.best is None else self.best[1])
        distributed.wait_for_all()

    def finish(self) -> None:
        """Copy the model of the best checkpoint, or of the last one without a score, to `final/`."""
        if not self.is_main:
            return
        chosen = self.folder.checkpoint(self.done if self.best is None else self.best[1])
        target, temporary = self.folder.path / "final", self.folder.path / ".final.part"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(chosen, temporary, ignore=shutil.ignore_patterns(STATE, SHARDS))
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)

    def values(self) -> dict[str, Any]:
        """The state of the run except tensors."""
        return {
            "step": self.done,
            "best": self.best,
            "since_best": self.since_best,
            "metrics": self.metrics,
            "seconds": self.seconds + time.monotonic() - self.started,
            "batch": [self.batch_size, self.config.accumulate, self.config.seed, len(self.data)],
        }

    def restore(self, folder: Path, state: Mapping[str, Any]) -> None:
        current = self.values()["batch"]
        for name, saved, now in zip(
            ("batch_size", "accumulate", "seed", "samples"), state["batch"], current, strict=True
        ):
            if saved != now:
                raise ConfigError(f"{folder}: {name} {now}; must be {saved} to resume this run")
        try:
            self.trainable.read(folder, state)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, BlipError):
                raise
            raise CheckpointMismatch(
                f"{folder}: does not match this model or its trainable parameters ({error})"
            ) from error
        self.done, self.since_best, self.metrics = state["step"], state["since_best"], state["metrics"]
        self.best = None if state["best"] is None else (state["best"][0], state["best"][1])
        self.seconds = state["seconds"]


def _require_score_for_patience(task: Task, config: TrainConfig) -> None:
    if config.patience is not None and (task.best is None or not task.setup.has_validation):
        raise ConfigError(f"patience {config.patience}: needs a validation score; give val data and best.keys")


def effective_config(task: Task, config: TrainConfig) -> str:
    """Return all settings as YAML for `blip train --config`."""
    assert dataclasses.is_dataclass(task) and not isinstance(task, type)
    values = {"task": task.name, **_plain(dataclasses.asdict(task)), "train": _plain(dataclasses.asdict(config))}
    return OmegaConf.to_yaml(OmegaConf.create(values))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _metric(metrics: Mapping[str, float], key: str) -> float:
    if key not in metrics:
        raise ConfigError(f"best.keys '{key}'; must be one of {', '.join(metrics)}")
    return metrics[key]
