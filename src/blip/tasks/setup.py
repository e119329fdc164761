"""Starting model, data and evaluations of a task: what all tasks do alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from torch import nn

from blip.data.sources import Reading, SampleCheck, Source
from blip.eval.base import Evaluation, Report
from blip.eval.run import run
from blip.model.blip import BlipModel
from blip.model.momentum import MomentumModel
from blip.tasks.base import ParamGroup
from blip.tasks.initialize import FineTune, InitializedModel, Start, save_model, start_model
from blip_lite.config import BlipConfig, Family

EXAMPLES = 3  # training samples shown in place of an evaluation


class TaskInputs(Protocol):
    """Fields that all tasks have: training and validation data, starting weights, trainable parameters."""

    @property
    def data(self) -> str | Sequence[str]: ...

    @property
    def val(self) -> str | Sequence[str] | None: ...

    @property
    def reading(self) -> Reading: ...

    @property
    def start(self) -> Start: ...

    @property
    def tune(self) -> FineTune: ...


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Model and data sources of one run, each loaded once, on first use.

    evaluations: reported together; the rows are those of the first. need_text, check: requirements on training rows,
    `check` raises BadRecord. keep_family: the model keeps the family it starts from, with all its heads.
    queue_size: number of features in the contrastive queue; None = training without momentum encoders.
    """

    task: TaskInputs
    family: Family
    evaluations: tuple[Evaluation, ...]
    need_text: bool = False
    check: SampleCheck | None = None
    keep_family: bool = False
    queue_size: int | None = None
    momentum: float = 0.995

    @cached_property
    def initialized(self) -> InitializedModel:
        return start_model(self.task.start, self.family, self.keep_family)

    @property
    def has_validation(self) -> bool:
        return self.task.val is not None

    @property
    def config(self) -> BlipConfig:
        return self.initialized.config

    @cached_property
    def training_source(self) -> Source:
        return self.task.reading.open(self.task.data, need_text=self.need_text, check=self.check)

    @cached_property
    def _validation_source(self) -> Source:
        assert self.task.val is not None
        return self.evaluations[0].open(self.task.val, self.task.reading)

    def build_model(self) -> nn.Module:
        """Return the model to train, with its starting weights; with a queue size as a MomentumModel."""
        model = self.task.tune.prepare(self.initialized)
        if self.queue_size is None:
            return model
        return MomentumModel(model, self.queue_size, self.momentum, self.initialized.training)

    def param_groups(self, model: nn.Module) -> list[ParamGroup]:
        return self.task.tune.groups(model)

    def evaluate(self, model: nn.Module, limit: int | None = None) -> Report:
        """Report on the validation data; without it, a few training samples and no metrics."""
        source, limit = (self._validation_source, limit) if self.has_validation else (self.training_source, EXAMPLES)
        tokenizer = self.initialized.tokenizer
        reports = [run(e, _trained(model), tokenizer, source, limit=limit) for e in self.evaluations]
        scored = reports if self.has_validation else []
        return replace(reports[0], measures={name: m for report in scored for name, m in report.measures.items()})

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write a folder that `blip.load` reads."""
        save_model(_trained(model), self.initialized, folder)


def _trained(model: nn.Module) -> BlipModel:
    inner = model.model if isinstance(model, MomentumModel) else model
    assert isinstance(inner, BlipModel)
    return inner
