"""`fit`: one loop for all tasks, on a CPU, a GPU or under torchrun; stops and goes on at any step, bit for bit.

Which samples a step sees, how they are augmented and what is drawn at random follow from (seed, step, rank) alone, so
a checkpoint holds no generator and no position in the data.
"""

from __future__ import annotations

import dataclasses
import resource
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from blip import runtime
from blip.data.loader import EpochSampler, batches, sample_seed
from blip.errors import CheckpointMismatch, ConfigError, TrainingDiverged
from blip.io.atomic import write_text
from blip.model.blip import BlipModel
from blip.tasks.base import Batch, Report, Step, Task
from blip.train.config import TrainConfig
from blip.train.log import TrainLog
from blip.train.optim import Averaged, build_optimizer, rate, set_rate
from blip.train.state import STATE, RunFolder

SAMPLES = 3  # predictions shown at each evaluation


@dataclass(frozen=True)
class Fitted:
    """What came of a run: `reason` is "finished", "time", "interrupted" or "terminated"."""

    folder: Path
    step: int
    total_steps: int
    metrics: dict[str, float]
    reason: str


class LossModule(nn.Module):
    """Adapter whose `forward` is the task's loss: only what goes through `forward` has its gradients gathered."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        return self.task.loss(self.model, batch, step)


def fit(task: Task, config: TrainConfig, run_dir: str | Path, *, resume: str = "auto", quiet: bool = False) -> Fitted:
    """Trains a task and leaves `final/`, which `blip.load` reads, beside config, logs and checkpoints.

    resume: "auto" goes on where the folder's newest checkpoint stops, "none" refuses a folder that has one, else the
    path of a checkpoint. Raises TrainingDiverged when a loss or gradient is no longer finite. SIGTERM and Ctrl-C save
    a checkpoint first; a second one stops at once.
    """
    with ExitStack() as stack:
        device = stack.enter_context(runtime.distributed(runtime.choose_device(config.device)))
        if config.threads:
            stack.enter_context(runtime.threads(config.threads))
        if device.type == "cpu":
            runtime.hold_memory()
        stop = stack.enter_context(runtime.stopping())
        return _Run(task, config, RunFolder(Path(run_dir)), device, stop, resume, quiet).run()


@dataclass
class _Run:
    """The state of one run. Everything that survives a restart is in `state` and `restore`."""

    task: Task
    config: TrainConfig
    folder: RunFolder
    device: torch.device
    stop: runtime.Stop
    resume: str
    quiet: bool
    done: int = 0  # finished optimizer steps
    best: tuple[float, int] | None = None  # score and step
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # of earlier starts

    def __post_init__(self) -> None:
        config = self.config
        torch.manual_seed(config.seed)
        self.model = self.task.build_model().to(self.device)
        self.optimizer = build_optimizer(self.task.param_groups(self.model), config)
        self.average = Averaged(self.model, config.ema)
        self.dtype = runtime.choose_dtype(config.dtype, self.device)
        self.data = self.task.dataset("train")
        self.sampler = EpochSampler(
            len(self.data), config.batch_size, config.seed, rank=runtime.rank(), world_size=runtime.world_size(),
            parts=config.accumulate,
        )  # fmt: skip
        self.per_epoch = self.sampler.steps_per_epoch
        self.total = config.total_steps(self.per_epoch)
        start = self.folder.resume_from(self.resume)
        if start is not None:
            self.restore(*start)
        _prepare_blocks(self.model, config)
        self.wrapped = self._wrap()
        self.started = time.monotonic()
        self.log = TrainLog(
            self.folder.path, active=self.is_main, start_step=self.done, total_steps=self.total, quiet=self.quiet
        )

    @property
    def is_main(self) -> bool:
        return runtime.rank() == 0

    def _wrap(self) -> nn.Module:
        module = LossModule(self.task, self.model)
        if runtime.world_size() == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    def run(self) -> Fitted:
        if self.is_main:
            write_text(self.folder.path / "config.yaml", effective_config(self.task, self.config))
        if self.done:
            self.log.note(f"going on at step {self.done} of {self.total}")
        try:
            self.train()
            if not self.stop.reason:
                self.finish()
        finally:
            self.log.close()
        reason = self.stop.reason or "finished"
        return Fitted(self.folder.path, self.done, self.total, self.metrics, reason)

    def train(self) -> None:
        config = self.config
        parts = batches(
            self.data, self.task.collate, self.sampler, self.done * config.accumulate, config.workers,
            stop_step=self.total * config.accumulate, pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        self.model.train()
        since, since_step = time.monotonic(), self.done
        while self.done < self.total:
            step = Step(self.done, self.done // self.per_epoch, self.per_epoch)
            losses, values = self.one_step(step, parts)
            self.done += 1
            if self.done % config.log_every == 0 or self.done in (1, self.total):
                now = time.monotonic()
                speed = (self.done - since_step) * config.batch_size / (now - since)
                since, since_step = now, self.done
                self.report(step, losses, {**values, "images_per_s": speed})
            self.agree_to_stop()
            evaluate = self.is_due(config.eval_every)
            if evaluate:
                self.evaluate()
            if evaluate or self.is_due(config.save_every) or self.stop.reason:
                self.save()
            if evaluate or self.stop.reason:
                since, since_step = time.monotonic(), self.done
            if self.stop.reason:
                return

    def one_step(self, step: Step, parts: Iterator[tuple[int, Batch]]) -> tuple[dict[str, float], dict[str, float]]:
        """One optimizer step: mean losses of its parts, and the learning rate and the gradient's norm."""
        config = self.config
        lr = rate(config, step, self.total)
        set_rate(self.optimizer, lr)
        total: dict[str, float] = {}
        for part in range(config.accumulate):
            _, batch = next(parts)
            torch.manual_seed(sample_seed(config.seed, step.index * config.accumulate + part, runtime.rank()))
            last = part == config.accumulate - 1
            with self.gradients(last), runtime.autocast(self.device, self.dtype):
                losses = self.wrapped(_to_device(batch, self.device), step)
                (losses["loss"] / config.accumulate).backward()
            for name, value in losses.items():
                total[name] = total.get(name, 0.0) + float(value.detach()) / config.accumulate
        self.check(total, step, lr)
        norm = self.clip()
        if not norm < float("inf"):
            raise TrainingDiverged(self.diverged(step, f"the gradient's norm is {norm}", lr))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(step.index)
        return total, {"lr": lr, "grad_norm": norm}

    def gradients(self, last: bool) -> Any:
        """Gradients of all processes meet in the last part only."""
        return nullcontext() if last or runtime.world_size() == 1 else cast(Any, self.wrapped).no_sync()

    def clip(self) -> float:
        """The norm of all gradients, which are cut to `max_grad_norm` where that is set."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return float(torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm or float("inf")))

    def check(self, losses: Mapping[str, float], step: Step, lr: float) -> None:
        bad = [name for name, value in losses.items() if not abs(value) < float("inf")]
        if bad:
            named = [name for name in bad if name != "loss"] or bad
            raise TrainingDiverged(self.diverged(step, f"loss {', '.join(named)} is {losses[named[0]]}", lr))

    def diverged(self, step: Step, what: str, lr: float) -> str:
        saved = self.folder.steps()
        good = f"the checkpoint of step {saved[-1]} is good" if saved else "no checkpoint yet"
        return (
            f"{self.folder.path}: step {step.index + 1}: {what} (lr {lr:.3g}); {good}; try a lower lr or max_grad_norm"
        )

    def report(self, step: Step, losses: Mapping[str, float], values: Mapping[str, float]) -> None:
        named = {name if name == "loss" else f"loss_{name}": value for name, value in losses.items()}
        speed = values["images_per_s"]
        self.log.progress(self.done, {"epoch": float(step.epoch), **losses}, speed)
        self.log.row(
            self.done,
            {
                "epoch": step.epoch, **named, **values, "seconds": self.seconds + time.monotonic() - self.started,
                "mem_mb": _memory_mb(self.device),
            },
        )  # fmt: skip

    def is_due(self, every: int) -> bool:
        return self.done == self.total or self.done % (every or self.per_epoch) == 0

    def agree_to_stop(self) -> None:
        """All processes stop at the same step: when one was told to, or the time is over."""
        minutes = self.config.max_minutes
        if not self.stop.reason and minutes is not None and time.monotonic() - self.started > 60 * minutes:
            self.stop.reason = "time"
        if runtime.world_size() > 1:
            reasons: list[Any] = [None] * runtime.world_size()
            dist.all_gather_object(reasons, self.stop.reason)
            self.stop.reason = max(reasons)

    def evaluate(self) -> None:
        if self.is_main:
            self.model.eval()
            with self.average.applied(), torch.no_grad():
                found = self.task.evaluate(self.model, self.config.eval_limit)
            self.model.train()
            self.take(found)
        if runtime.world_size() > 1:
            dist.barrier()

    def take(self, found: Report) -> None:
        """Logs an evaluation and compares it with the best one; strictly greater wins."""
        self.metrics = found.metrics
        if not found.metrics:
            return
        self.log.row(self.done, {f"val_{name}": value for name, value in found.metrics.items()})
        text = " ".join(f"{name} {value:.4g}" for name, value in found.metrics.items())
        self.log.note(f"step {self.done} evaluated: {text}")
        for row in found.rows[:SAMPLES]:
            self.log.note(f"  {row['key']}: {row['prediction']}")
        if self.task.best is not None:
            score = sum(found.metrics[key] for key in self.task.best.keys)
            if self.best is None or score > self.best[0]:
                self.best = score, self.done

    def save(self) -> None:
        if self.is_main:
            self.folder.save(self.done, self.state(), self.save_model)
            if self.best is not None and self.best[1] == self.done:
                self.folder.link("best", self.done)
            self.folder.prune(self.config.keep, None if self.best is None else self.best[1])
        if runtime.world_size() > 1:
            dist.barrier()

    def save_model(self, folder: Path) -> None:
        with self.average.applied():
            self.task.save(self.model, folder)

    def finish(self) -> None:
        """`final/` is the best checkpoint's model, or the last one's where nothing chooses."""
        if not self.is_main:
            return
        chosen = self.folder.checkpoint(self.done if self.best is None else self.best[1])
        target, temporary = self.folder.path / "final", self.folder.path / ".final.part"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(chosen, temporary, ignore=shutil.ignore_patterns(STATE))
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)

    def state(self) -> dict[str, Any]:
        return {
            "step": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.shadow,
            "best": self.best,
            "metrics": self.metrics,
            "seconds": self.seconds + time.monotonic() - self.started,
            "batch": [self.config.batch_size, self.config.accumulate, self.config.seed, len(self.data)],
        }

    def restore(self, folder: Path, state: Mapping[str, Any]) -> None:
        mine = [self.config.batch_size, self.config.accumulate, self.config.seed, len(self.data)]
        for name, was, now in zip(("batch_size", "accumulate", "seed", "samples"), state["batch"], mine, strict=True):
            if was != now:
                raise ConfigError(f"{folder}: {name} {now}; must be {was} to go on with this run")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointMismatch(f"{folder}: is of another model or other trained parts ({error})") from error
        for name, value in self.average.shadow.items():
            value.copy_(state["average"][name])
        self.done, self.best, self.metrics = state["step"], state["best"], state["metrics"]
        self.seconds = state["seconds"]


def effective_config(task: Task, config: TrainConfig) -> str:
    """All settings as YAML that `blip train --config` takes."""
    assert dataclasses.is_dataclass(task) and not isinstance(task, type)
    options = {k: v for k, v in dataclasses.asdict(task).items() if k != "name"}
    values = {"task": task.name, **_plain(options), "train": _plain(dataclasses.asdict(config))}
    return OmegaConf.to_yaml(OmegaConf.create(values))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _prepare_blocks(model: nn.Module, config: TrainConfig) -> None:
    """Activation checkpoints and compilation, block by block."""
    for module in model.modules():
        if not isinstance(module, BlipModel):
            continue
        module.vision.checkpoint_layers = config.grad_checkpoint
        if config.compile:
            for name, block in module.named_modules():
                if name.split(".")[-2:-1] == ["blocks"] and "stem" not in name:
                    block.compile(dynamic=True)


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _memory_mb(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
