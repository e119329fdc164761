"""Every evaluation by the name that `blip eval` knows it under."""

from __future__ import annotations

from typing import Any

from blip.eval.caption import CaptionEval
from blip.eval.judgements import JudgementsEval
from blip.eval.nlvr import NlvrEval
from blip.eval.retrieval import RetrievalEval
from blip.eval.video import VideoEval
from blip.eval.vqa import VqaEval

EVALUATIONS: dict[str, type[Any]] = {
    "caption": CaptionEval,
    "nocaps": CaptionEval,
    "retrieval": RetrievalEval,
    "vqa": VqaEval,
    "nlvr": NlvrEval,
    "video-retrieval": VideoEval,
    "judgements": JudgementsEval,
}
