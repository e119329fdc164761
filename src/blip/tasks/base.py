"""What a task is to the training loop: a value that builds a model, makes batches, gives losses and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from blip.distributed import scale_to_global_mean
from blip.eval.base import Report

__all__ = ["Batch", "Best", "Dataset", "ParamGroup", "Report", "Split", "Step", "Task", "alpha_ramp", "of_whole_batch"]

Batch = dict[str, Any]
Split = Literal["train", "val"]


@dataclass(frozen=True)
class Step:
    """Where training is: `index` counts optimizer steps over the whole run.

    steps_per_epoch: of this epoch. first: index of its first step; None where all epochs are as long.
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
    """The metrics whose sum chooses the best checkpoint (strictly greater wins, as in the original)."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a factor on the learning rate; weight_decay None = the loop's."""

    params: list[nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float | None = None


class Dataset(Protocol):
    """Samples by `blip.data.loader.SampleRef`.

    One whose list changes has a method `epoch_length(epoch)` too, and gives the samples of `ref.epoch`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, ref: Any, /) -> Any: ...


class Task(Protocol):
    """See `blip.tasks.caption` for a whole one."""

    @property
    def name(self) -> str: ...

    @property
    def best(self) -> Best | None: ...

    def build_model(self) -> nn.Module:
        """The model to train, with its starting weights; may carry a momentum twin and queues."""
        ...

    def param_groups(self, model: nn.Module) -> list[ParamGroup]: ...

    def dataset(self, split: Split) -> Dataset: ...

    def collate(self, samples: Sequence[Any]) -> Batch: ...

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Losses by name; "loss" is what is minimised."""
        ...

    def evaluate(self, model: nn.Module, limit: int | None = None) -> Report: ...

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes a folder that `blip.load` reads."""
        ...


def alpha_ramp(alpha: float, step: Step, epochs: int) -> float:
    """Weight of the momentum targets: grows linearly over the first epochs (2 in pre-training, 1 in retrieval)."""
    return alpha * min(1.0, (step.epoch * step.steps_per_epoch + step.in_epoch) / (epochs * step.steps_per_epoch))


def of_whole_batch(mean: Tensor, labels: Tensor) -> Tensor:
    """A mean over this process's next tokens as its share of the mean over those of all processes.

    labels [R, T]: what is predicted one place to the right, -100 = ignored.
    """
    return scale_to_global_mean(mean, int((labels[:, 1:] != -100).sum()))
