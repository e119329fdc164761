"""Interface between a task and the training loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from blip.distributed import scale_to_global_mean
from blip.runtime import upload

if TYPE_CHECKING:
    from blip.data.sources import Source
    from blip.model.blip import BlipModel
    from blip.tasks.setup import Setup

Batch = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """Position in training: `index` counts optimizer steps over the whole run.

    steps_per_epoch: steps of this epoch. first: index of the epoch's first step; None if all epochs have equal length.
    """

    index: int
    epoch: int
    steps_per_epoch: int
    first: int | None = None

    @property
    def in_epoch(self) -> int:
        return self.index - (self.epoch * self.steps_per_epoch if self.first is None else self.first)


@dataclass(frozen=True)
class Best:
    """Metrics whose sum selects the best checkpoint (strictly greater wins, as in the original)."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning-rate factor; weight_decay None = the value of the training config."""

    params: list[nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """Properties of a task that the command line shows and uses.

    columns: columns of the training data. usage: `blip` command that uses the trained model. learning_rate:
    the original's, for runs without a config; None = such runs keep the default of `TrainConfig`.
    """

    description: str
    columns: str
    usage: str
    learning_rate: float | None = None


class Dataset(Protocol):
    """Training samples, indexed with `blip.data.loader.SampleRef`.

    A dataset whose list changes also has `epoch_length(epoch)`, and returns the samples of `ref.epoch`. One whose
    samples are the rows of a source, in order, has it as `source`, for orders by its shards and parts.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, ref: Any, /) -> Any: ...


class Task(Protocol):
    """A frozen dataclass whose fields are the config of the task; `blip.tasks.caption` is a complete example."""

    @property
    def name(self) -> str:
        """Name or import path under which `blip.tasks.build_task` finds the class."""
        ...

    @property
    def info(self) -> TaskInfo: ...

    @property
    def best(self) -> Best | None: ...

    @property
    def setup(self) -> Setup:
        """The same object at every access."""
        ...

    def dataset(self, source: Source | None = None) -> Dataset:
        """Return the training samples; with `source` the samples of its rows, their images read as for inference."""
        ...

    def collate(self, samples: Sequence[Any]) -> Batch: ...

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return losses by name; "loss" is minimised. model: built by `setup.build_model`."""
        ...

    def validation_loss(self, model: BlipModel, batch: Batch) -> Tensor:
        """Return a loss by which the steps of a run can be compared: without momentum model, queue and reward."""
        ...


def alpha_ramp(alpha: float, step: Step, epochs: int) -> float:
    """Weight of the momentum targets: grows linearly over the first epochs (2 in pre-training, 1 in retrieval)."""
    return alpha * min(1.0, (step.epoch * step.steps_per_epoch + step.in_epoch) / (epochs * step.steps_per_epoch))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors of a batch; from pinned memory while the device computes."""
    return {k: upload(v, device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def global_token_mean(mean: Tensor, labels: Tensor) -> Tensor:
    """Scale a mean over this process's next tokens to its share of the mean over all processes.

    labels [R, T]: targets, shifted by one place against the logits; -100 = ignored.
    """
    return scale_to_global_mean(mean, int((labels[:, 1:] != -100).sum()))
