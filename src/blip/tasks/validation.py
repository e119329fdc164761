"""What tasks report while they train: scores on validation data, or without those what the model says of its own."""

from __future__ import annotations

from dataclasses import replace

from blip.data.sources import Source
from blip.eval.base import Evaluation, Report
from blip.eval.run import run
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer

SHOWN = 3  # rows of the training data


def evaluated(
    evaluation: Evaluation,
    model: BlipModel,
    tokenizer: Tokenizer,
    source: Source,
    limit: int | None,
    *,
    unseen: bool,
) -> Report:
    """The evaluation of validation data; of training data (`unseen` False) rows about the first few, no score."""
    report = run(evaluation, model, tokenizer, source, limit=limit if unseen else SHOWN)
    return report if unseen else replace(report, measures={})
