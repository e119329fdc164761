"""`fit`: one training loop for all tasks, on a CPU, a GPU or under torchrun; resumes at any step, bit-exactly.

The samples of a step, their augmentation and all random numbers follow from (seed, step, rank) alone, so a checkpoint
contains no generator state and no position in the data.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from blip import distributed, runtime
from blip.data.loader import EpochSampler, batches
from blip.io.atomic import write_text
from blip.io.disk import disk_full, writing
from blip.io.lock import exclusive
from blip.signals import StopRequest, stop_on_signal
from blip.tasks.base import Step, Task
from blip.tasks.setup import trained_part
from blip.train import auto_batch
from blip.train.checkpoints import RunFolder
from blip.train.config import TrainConfig
from blip.train.config_sources import effective_config
from blip.train.log import TrainLog
from blip.train.notes import SkippedRows, held_out_note, layout_note, size_note
from blip.train.pace import Pace
from blip.train.result import TrainingResult, finished_result
from blip.train.sample_order import sample_order
from blip.train.step import Stepper
from blip.train.trainable import TrainableModel
from blip.train.validation import Validation
from blip_lite.errors import BlipError, CheckpointMismatch, ConfigError

REASONS = ("", "interrupted", "no improvement", "time", "terminated")  # to stop; the last one of all processes counts


def fit(
    task: Task, config: TrainConfig, run_dir: str | Path, *, resume: str = "auto", quiet: bool = False
) -> TrainingResult:
    """Train a task; write `final/`, which `blip.load` reads, with config, logs and checkpoints beside it.

    resume: "auto" resumes from the newest checkpoint of the folder, "none" refuses a folder that has one; else the path
    of a checkpoint. A finished run keeps no checkpoint unless `config.keep_state`; called again, it returns its result.
    Raises TrainingDiverged if a loss or gradient is not finite, EnvironmentProblem if another process of the run is
    lost or the disk is full, UsageError if another run uses the folder. SIGTERM and Ctrl-C save a checkpoint first; a
    second signal stops at once.
    """
    folder = RunFolder(Path(run_dir))
    with ExitStack() as stack:
        device = stack.enter_context(distributed.process_group(runtime.choose_device(config.device)))
        if config.threads:
            stack.enter_context(runtime.threads(config.threads))
        if device.type == "cpu":
            runtime.tune_glibc_malloc()
        stop = stack.enter_context(stop_on_signal())
        stack.enter_context(distributed.report_lost_peers())
        stack.enter_context(disk_full(run_dir))
        if distributed.rank() == 0:
            stack.enter_context(_locked(folder.path))
        finished = finished_result(task, config, folder, resume)
        return finished or _Run(task, config, folder, device, stop, resume, quiet).run()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which is removed again if nothing was written to it."""
    try:
        with exclusive(folder, folder=True):
            yield
    finally:
        with suppress(OSError):  # not empty
            folder.rmdir()


class _Run:
    """State of one run. Everything that survives a restart is in `values` and `restore`."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        folder: RunFolder,
        device: torch.device,
        stop: StopRequest,
        resume: str,
        quiet: bool,
    ) -> None:
        self.task, self.folder, self.device, self.stop = task, folder, device, stop
        self.settings = effective_config(task, config)  # before estimates
        self.done = 0  # finished optimizer steps
        self.seconds = 0.0  # of earlier runs that this one resumes
        self.evaluation_seconds = 0.0  # of the last evaluation
        self.skipped = SkippedRows()
        self.started = time.monotonic()
        self.validation = Validation(task, config)
        torch.manual_seed(config.seed)
        self.trainable = TrainableModel(task, config, device)
        self.data = task.dataset()
        start = folder.resume_from(resume)
        self.config = config
        self.config = config = self.with_batch_size(None if start is None else start[1])
        self.sampler = EpochSampler(
            getattr(self.data, "epoch_length", len(self.data)),
            self.batch_size,
            config.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            parts=config.accumulate,
            order=sample_order(self.data, config, len(self.data) // self.batch_size * self.batch_size),
        )
        self.config = config = auto_batch.length(config, self.sampler.steps_in(0))
        self.total = config.steps or self.sampler.first_step(config.epochs or 0)
        if start is not None:
            self.restore(*start)
        self.trainable.start()
        self.stepper = Stepper(self.trainable, config, folder, self.total)
        with writing(folder.path):
            self.log = TrainLog(
                folder.path, active=self.is_main, start_step=self.done, total_steps=self.total, quiet=quiet
            )

    @property
    def skips_bad(self) -> bool:
        reading = getattr(self.task, "reading", None)  # tasks outside the package may lack it
        return reading is not None and bool(reading.skip_bad)

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
        if self.done:
            self.log.note(f"resuming at step {self.done} of {self.total}")
        else:
            self.log.note(layout_note(self.task))
            self.log.note(held_out_note(self.task))
        if self.estimate:
            self.log.note(f"batch size {self.batch_size}: {self.estimate}; change it with --batch-size")
        try:
            if not self.done and self.validation.evaluates_start:
                self.evaluate()
            self.check_patience()
            if not self.stop.reason:
                self.train()
            if self.stop.reason in ("", "no improvement"):
                self.finish()
        finally:
            self.log.close()
        return self.result()

    def result(self) -> TrainingResult:
        best = None if self.validation.best is None else self.validation.best[1]
        reason = self.stop.reason or "finished"
        return TrainingResult(self.folder.path, self.done, self.total, self.validation.metrics, reason, best)

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
            on_bad=self.skipped.add if self.skips_bad else None,
        )
        pace = Pace(self.evaluation_seconds)
        while self.done < self.total:
            step = self.next_step()
            losses, values = self.stepper.take(step, parts)
            self.done += 1
            pace.step()
            seconds = pace.seconds_per_step()
            remaining = pace.remaining(self.total - self.done, self.evaluations_left())
            self.log.progress(self.done, step.epoch, losses, self.batch_size / seconds, remaining)
            if self.done % config.log_every == 0 or self.done in (1, self.total):
                self.log_step(step, losses, {**values, "images_per_s": self.batch_size / seconds})
            evaluate = self.is_due(config.eval_every)
            if evaluate:
                self.evaluate()
            self.agree_to_stop()
            if evaluate or self.is_due(config.save_every) or self.stop.reason:
                self.save()
                pace.pause()
            if self.stop.reason:
                return

    def next_step(self) -> Step:
        epoch = self.sampler.epoch(self.done)
        return Step(self.done, epoch, self.sampler.steps_in(epoch), self.sampler.first_step(epoch))

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

    def evaluations_left(self) -> int:
        """Return the number of evaluations until the last step, if all epochs are as long as this one."""
        every = self.config.eval_every or self.sampler.steps_in(self.sampler.epoch(max(self.done - 1, 0)))
        return -(-self.total // every) - self.done // every

    def check_patience(self) -> None:
        if self.validation.is_stalled and not self.stop.reason:
            self.stop.reason = "no improvement"

    def agree_to_stop(self) -> None:
        """Stop all processes at the same step: after a signal to one, at the time limit, or without improvement."""
        minutes = self.config.max_minutes
        if not self.stop.reason and minutes is not None and time.monotonic() - self.started > 60 * minutes:
            self.stop.reason = "time"
        self.check_patience()
        self.stop.reason = REASONS[distributed.all_reduce_max(REASONS.index(self.stop.reason))]

    def evaluate(self) -> None:
        start = time.monotonic()
        with self.trainable.evaluation_mode() as model:
            if self.is_main:
                self.validation.evaluate(trained_part(model), self.done, self.log)
        distributed.wait_for_all()
        self.evaluation_seconds = time.monotonic() - start

    def save(self) -> None:
        best = None if self.validation.best is None else self.validation.best[1]
        with self.folder.new(self.done) if self.is_main else nullcontext():
            self.trainable.write(self.folder.temporary(self.done), self.values())
        if self.is_main:
            if best == self.done:
                self.folder.link("best", self.done)
            self.folder.prune(self.config.keep, best)
        distributed.wait_for_all()

    def finish(self) -> None:
        """Write `final/`: the model of the best step, or of the last one without a score."""
        if not self.is_main:
            return
        best = self.validation.best
        if best is not None and best[1] == 0:
            self.folder.write_final(self.task.setup.save_start)
        else:
            self.folder.copy_final(self.done if best is None else best[1])
        if not self.config.keep_state:
            result = self.result()
            kept = {name: getattr(result, name) for name in ("step", "total_steps", "metrics", "reason", "best_step")}
            self.folder.drop_state({**kept, "settings": self.settings})
        for line in (self.skipped.summary(), *self.validation.conclusion()):
            self.log.note(line)
        self.log.note(size_note(self.folder.path, self.config.keep_state))

    def values(self) -> dict[str, Any]:
        """The state of the run except tensors."""
        return {
            "step": self.done,
            "validation": self.validation.state(),
            "seconds": self.seconds + time.monotonic() - self.started,
            "order": str(self.sampler.order),
            "batch": [self.batch_size, self.config.accumulate, self.config.seed, len(self.data)],
        }

    def restore(self, folder: Path, state: Mapping[str, Any]) -> None:
        current = self.values()["batch"]
        for name, saved, now in zip(
            ("batch_size", "accumulate", "seed", "samples"), state["batch"], current, strict=True
        ):
            if saved != now:
                raise ConfigError(f"{folder}: {name} {now}; must be {saved} to resume this run")
        if (order := state.get("order")) not in (None, str(self.sampler.order)):  # None: of an earlier version
            raise ConfigError(f"{folder}: samples from {self.sampler.order}; must be {order} to resume this run")
        try:
            self.trainable.read(folder, state)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, BlipError):
                raise
            raise CheckpointMismatch(
                f"{folder}: does not match this model or its trainable parameters ({error})"
            ) from error
        self.done, self.seconds = state["step"], state["seconds"]
        self.validation.restore(state["validation"])
