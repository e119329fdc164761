"""Starting model, data and evaluations of a task: what all tasks do alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from torch import nn

from blip.data.indexed_source import open_for_training
from blip.data.readable import readable
from blip.data.row_reader import SampleCheck
from blip.data.sources import Reading, Source
from blip.data.split import hold_out, is_share
from blip.eval.base import Evaluation, Report
from blip.eval.photos import Photos
from blip.eval.run import run
from blip.model.blip import BlipModel
from blip.model.momentum import MomentumModel
from blip.tasks.base import ParamGroup
from blip.tasks.initialize import FineTune, InitializedModel, Start, save_model, start_model
from blip_lite.checks import check_int
from blip_lite.config import BlipConfig, Family

EXAMPLES = 3  # training samples shown in place of an evaluation
QUEUE_OF_THE_DATA = -1  # queue size: as many features as there are training rows
LONGEST_QUEUE = 57600  # the original's


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
    `check` raises BadRecord. needs_all_rows: the task goes through all training rows before it starts, so they are held
    in memory, however many. keep_family: the model keeps the family it starts from, with all its heads.
    queue_size: number of features in the contrastive queue; None = training without momentum encoders,
    QUEUE_OF_THE_DATA = as many as there are training rows.
    """

    task: TaskInputs
    family: Family
    evaluations: tuple[Evaluation, ...]
    need_text: bool = False
    check: SampleCheck | None = None
    needs_all_rows: bool = True
    keep_family: bool = False
    queue_size: int | None = None
    momentum: float = 0.995

    @cached_property
    def initialized(self) -> InitializedModel:
        return start_model(self.task.start, self.family, self.keep_family)

    @property
    def has_validation(self) -> bool:
        return self.task.val is not None and (not is_share(self.task.val) or self._split[1] is not None)

    @property
    def held_out(self) -> Source | None:
        """The rows of the training data that are held out for evaluation, if any."""
        return self._split[1]

    @property
    def config(self) -> BlipConfig:
        return self.initialized.config

    @cached_property
    def _split(self) -> tuple[Source, Source | None]:
        open_source = self.task.reading.open if self.needs_all_rows else partial(open_for_training, self.task.reading)
        source = open_source(self.task.data, need_text=self.need_text, check=self.check)
        return hold_out(source, str(self.task.val)) if is_share(self.task.val) else (source, None)

    @property
    def training_source(self) -> Source:
        return self._split[0]

    @cached_property
    def validation_source(self) -> Source:
        """Validation data, with `reading.skip_bad` those with readable images; only if `has_validation`."""
        source = self.held_out
        if source is None:
            assert self.task.val is not None
            source = self.evaluations[0].open(self.task.val, self.task.reading)
        return readable(source) if self.task.reading.skip_bad else source

    def rows(self, source: Source | None) -> Source:
        """Return `source`, by default the rows to train on."""
        return self.training_source if source is None else source

    def build_model(self) -> nn.Module:
        """Return the model to train, with its starting weights; with a queue size as a MomentumModel."""
        model = self.task.tune.prepare(self.initialized)
        if self.queue_size is None:
            return model
        size = self.queue_size
        if size == QUEUE_OF_THE_DATA:
            size = min(len(self.training_source), LONGEST_QUEUE)
        check_int("queue_size", size, 1)
        return MomentumModel(model, size, self.momentum, self.initialized.training)

    def param_groups(self, model: nn.Module) -> list[ParamGroup]:
        return self.task.tune.groups(model)

    def evaluate(self, model: nn.Module, limit: int | None = None) -> Report:
        """Report on the validation data; without it, a few training samples and no metrics."""
        source, limit = (self.validation_source, limit) if self.has_validation else (self.training_source, EXAMPLES)
        tokenizer = self.initialized.tokenizer
        photos = [Photos(skip_bad=self.task.reading.skip_bad) for _ in self.evaluations]
        reports = [
            run(e, trained_part(model), tokenizer, source, limit=limit, photos=p)
            for e, p in zip(self.evaluations, photos, strict=True)
        ]
        scored = reports if self.has_validation else []
        return replace(reports[0], measures={name: m for report in scored for name, m in report.measures.items()})

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write a folder that `blip.load` reads."""
        save_model(trained_part(model), self.initialized, folder)

    def save_start(self, folder: Path) -> None:
        """Write the starting model as `save` does; it is loaded again, since training changes the loaded one."""
        started = start_model(self.task.start, self.family, self.keep_family)
        save_model(started.model, started, folder)


def trained_part(model: nn.Module) -> BlipModel:
    """Return the model itself, without momentum encoders and queue."""
    inner = model.model if isinstance(model, MomentumModel) else model
    assert isinstance(inner, BlipModel)
    return inner
