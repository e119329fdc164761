"""The evaluations by name, and running one: predictions of a model, or of another program, scored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from blip.data.sources import SampleList, Source
from blip.eval.base import Evaluation, Predictions, Report, Tick
from blip.eval.caption import CaptionEval
from blip.eval.judgements import JudgementsEval
from blip.eval.nlvr import NlvrEval
from blip.eval.photos import Photos
from blip.eval.retrieval import RetrievalEval
from blip.eval.video import VideoEval
from blip.eval.vqa import VqaEval
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip_lite.errors import UsageError

EVALUATIONS: dict[str, type[Any]] = {
    "caption": CaptionEval,
    "nocaps": CaptionEval,
    "retrieval": RetrievalEval,
    "vqa": VqaEval,
    "nlvr": NlvrEval,
    "video-retrieval": VideoEval,
    "judgements": JudgementsEval,
}


def run(
    evaluation: Evaluation,
    model: BlipModel,
    tokenizer: Tokenizer,
    source: Source,
    *,
    limit: int | None = None,
    photos: Photos | None = None,
    tick: Tick | None = None,
) -> Report:
    """Predict on the first `limit` rows of a source and score. The model is left in evaluation mode."""
    reader = photos or Photos()
    chosen = first(source, limit)
    model.eval()
    predictions = evaluation.predict(model, tokenizer, chosen, reader, tick)
    failed = tuple(str(error) for error in reader.bad)
    if not predictions:
        reason = f"; the first of {len(failed)}: {failed[0]}" if failed else ""
        raise UsageError(f"nothing to evaluate: no row could be used{reason}")
    report = evaluation.score(chosen, predictions, allow_missing=True)  # unreadable images are missing
    return replace(report, failed=(*report.failed, *failed))


def score_predictions(
    evaluation: Evaluation,
    source: Any,  # Any: a source or a list of rated captions
    predictions: Predictions,
    *,
    limit: int | None = None,
    allow_missing: bool = False,
) -> Report:
    """Score predictions of another program on the first `limit` rows of a source.

    Raises UsageError for missing, surplus and repeated ids unless allow_missing. With a limit, predictions of the other
    rows are not surplus.
    """
    if limit is None or limit >= len(source):
        return evaluation.score(source, predictions, allow_missing=allow_missing)
    report = evaluation.score(first(source, limit), predictions, allow_missing=True)
    everything = evaluation.score(source, predictions, allow_missing=True).coverage
    coverage = replace(report.coverage, surplus=everything.surplus)
    coverage.check(allow_missing=allow_missing)
    return replace(report, coverage=coverage)


def first(source: Any, limit: int | None) -> Any:  # Any: a source or a list of rated captions
    """Return the first `limit` rows of a source (or of a list of rated captions)."""
    if limit is None or limit >= len(source):
        return source
    return source[:limit] if isinstance(source, list) else SampleList([source[i] for i in range(limit)])
