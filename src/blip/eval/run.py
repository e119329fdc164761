"""Running an evaluation; reading predictions of other programs, writing submissions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blip.data.sources import SampleList, Source
from blip.eval.base import Evaluation, Report, Row, Tick
from blip.eval.caption import CaptionEval
from blip.eval.judgements import JudgementsEval
from blip.eval.nlvr import NlvrEval
from blip.eval.photos import Photos
from blip.eval.retrieval import RetrievalEval
from blip.eval.video import VideoEval
from blip.eval.vqa import VqaEval
from blip.io.atomic import write_text
from blip.io.records import image_id
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
    report = evaluation.score(chosen, evaluation.predict(model, tokenizer, chosen, reader, tick))
    return replace(report, failed=(*report.failed, *(str(error) for error in reader.bad)))


def first(source: Any, limit: int | None) -> Any:  # Any: a source or a list of rated captions
    """Return the first `limit` rows of a source (or of a list of rated captions)."""
    if limit is None or limit >= len(source):
        return source
    return source[:limit] if isinstance(source, list) else SampleList([source[i] for i in range(limit)])


def read_predictions(path: Path) -> list[Row]:
    """Read predictions: a JSON list, or JSON lines, including records of `blip caption` and `blip ask`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines() if x]
    except OSError as error:
        raise UsageError(f"--predictions {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--predictions {path}: not a JSON list or JSON lines ({error})") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"--predictions {path}: must be a non-empty list of objects")
    return [_from_record(row) for row in rows if "error" not in row]


def _from_record(row: Mapping[str, Any]) -> Row:
    if str(row.get("schema", "")).startswith("caption/"):
        return {"image_id": image_id(str(row["key"])), "caption": row["text"]}
    if str(row.get("schema", "")).startswith("answer/"):
        return {"question_id": row.get("question_id", row["key"]), "answer": row["text"]}
    return dict(row)


SUBMISSION_FIELDS = {
    "caption": ("image_id", "caption"),
    "nocaps": ("image_id", "caption"),
    "vqa": ("question_id", "answer"),
}


def write_submission(path: Path, task: str, predictions: Sequence[Row]) -> None:
    """Write predictions in the format of the task's evaluation server: JSON for captions and VQA, CSV for NLVR2."""
    if task == "nlvr":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([p["identifier"], p["prediction"]] for p in predictions)
        write_text(path, text.getvalue())
        return
    if task not in SUBMISSION_FIELDS:
        raise UsageError(
            f"--submission: no format for {task}; must be one of {', '.join([*SUBMISSION_FIELDS, 'nlvr'])}"
        )
    rows = [{name: p[name] for name in SUBMISSION_FIELDS[task]} for p in predictions]
    write_text(path, json.dumps(rows, ensure_ascii=False) + "\n")
