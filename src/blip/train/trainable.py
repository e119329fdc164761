"""A model in training with its optimizer and averaged weights: on one process, replicated, or sharded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from blip import distributed, runtime
from blip.model.blip import BlipModel
from blip.model.momentum import MomentumModel
from blip.tasks.base import Batch, Step, Task, to_device
from blip.train import shard
from blip.train.averages import AveragedWeights
from blip.train.checkpoints import SHARDS, STATE, write_values
from blip.train.config import TrainConfig
from blip.train.optim import build_optimizer, clip, load_optimizer, set_learning_rate


class LossModule(nn.Module):
    """Adapter whose `forward` is the task's loss: DDP and FSDP reduce gradients of `forward` only."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        return self.task.loss(self.model, batch, step)


class TrainableModel:
    """A model in training. `model` is the model that the task built, with sharded parameters if `is_sharded`.

    All processes must call every method at the same time.
    """

    def __init__(self, task: Task, config: TrainConfig, device: torch.device) -> None:
        self.task, self.config, self.device = task, config, device
        self.dtype = runtime.choose_dtype(config.dtype, device)
        self.model = task.setup.build_model().to(device)
        _prepare_blocks(self.model, config)
        self.is_sharded = config.strategy == "fsdp" and distributed.world_size() > 1
        self._module: nn.Module = LossModule(task, self.model)
        self._whole: nn.Module | None = None  # copy of a sharded model on the first process
        if self.is_sharded:
            self._whole = deepcopy(self.model).cpu() if distributed.rank() == 0 else None
            shard.shard_model(self._module, device)
        self.optimizer = build_optimizer(task.setup.param_groups(self.model), config)
        # half of random starting weights would be of no use
        share = 0.0 if task.setup.initialized.random else config.start_share
        self.average = AveragedWeights(self.model, config.ema, share)

    def start(self) -> None:
        """Prepare for training; called when the weights have their starting values."""
        if distributed.world_size() > 1 and not self.is_sharded:
            devices = [self.device] if self.device.type == "cuda" else None
            self._module = DistributedDataParallel(self._module, device_ids=devices)
        self.model.train()

    def backward(self, batch: Batch, step: Step, *, last: bool) -> dict[str, float]:
        """Return the losses of one part of a batch and accumulate its gradients. last: last part of the batch."""
        if isinstance(self.model, MomentumModel):
            self.model.before_step()
        on_device = to_device(batch, self.device)
        # all-reduce only on the last micro-batch; sharded models reduce on each
        synchronized = last or self.is_sharded or distributed.world_size() == 1
        reduction = nullcontext() if synchronized else cast(Any, self._module).no_sync()
        with reduction, runtime.autocast(self.device, self.dtype, cached=not self.is_sharded):
            losses = self._module(on_device, step)
            (losses["loss"] / self.config.accumulate).backward()
        return {name: float(value.detach()) for name, value in losses.items()}

    def clip(self) -> float:
        """Return the norm of all gradients; clip them to `max_grad_norm` if it is set."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.is_sharded:
            shard.average_unsharded_gradients(parameters)
        return clip(parameters, self.config.max_grad_norm or float("inf"))

    def update(self, lr: float, steps_done: int) -> None:
        """Take an optimizer step."""
        set_learning_rate(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(steps_done)

    @contextmanager
    def averaged_model(self) -> Iterator[nn.Module]:
        """Yield the whole model with averaged weights, for evaluation and saving. Only the first process may use it."""
        with self.average.applied():
            if self.is_sharded:
                shard.copy_to_whole(self._whole, self.model)
            else:
                yield self.model
                return
        yield self._whole or self.model

    @contextmanager
    def evaluation_mode(self) -> Iterator[nn.Module]:
        """Yield `averaged_model` on the device, in evaluation mode."""
        with self.averaged_model() as model, torch.no_grad():
            yield model.to(self.device).eval() if distributed.rank() == 0 else model
        if self._whole is not None:
            self._whole.cpu()
        self.model.train()

    def write(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Write a checkpoint: a model that `blip.load` reads, and the state of the run (`values` and all tensors)."""
        if self.is_sharded:
            distributed.wait_for_all()  # until the folder exists
            shard.write_shards(folder / SHARDS, shard.named_tensors(self.model, self.optimizer, self.average))
        if distributed.rank() == 0:
            if self.is_sharded:
                write_values(folder, values)
            else:
                torch.save({**values, **self._state()}, folder / STATE)
        with self.averaged_model() as model:
            if distributed.rank() == 0:
                self.task.setup.save(model, folder)

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.shadow,
        }

    def read(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Load the tensors of a state, from one file or from shards, into whole or sharded parameters."""
        if "model" not in state:
            stored = shard.stored_names(folder / SHARDS)
            shard.read_shards(folder / SHARDS, shard.named_tensors(self.model, self.optimizer, self.average, stored))
        elif self.is_sharded:
            names = {parameter: name for name, parameter in self.model.named_parameters()}
            trained = [names[p] for group in self.task.setup.param_groups(self.model) for p in group.params]
            whole = shard.named_state(state, trained)
            shard.copy_from_whole(shard.named_tensors(self.model, self.optimizer, self.average, set(whole)), whole)
        else:
            self.model.load_state_dict(state["model"])
            load_optimizer(self.optimizer, state["optimizer"])
            for name, value in self.average.shadow.items():
                value.copy_(state["average"][name])


def _prepare_blocks(model: nn.Module, config: TrainConfig) -> None:
    """Set up activation checkpointing and compilation, block by block."""
    for module in model.modules():
        if not isinstance(module, BlipModel):
            continue
        module.vision.checkpoint_layers = config.grad_checkpoint
        if config.compile:
            for name, block in module.named_modules():
                if name.split(".")[-2:-1] == ["blocks"] and "stem" not in name:
                    block.compile(dynamic=True)
