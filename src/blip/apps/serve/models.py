"""The models of one process and what they answer to a batch of jobs. One bad job never spoils its batch."""

from __future__ import annotations

import base64
import io
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blip.apps.serve.jobs import Card, Job, Outcome
from blip.apps.serve.settings import Settings
from blip_lite.errors import BlipError, MissingPart

if TYPE_CHECKING:
    from PIL.Image import Image

    from blip.torch_backend import TorchBackend
    from blip_lite.model import Model

Record = dict[str, Any]
Rows = list[list[Record]]  # the records of each job


class Models:
    """Loaded models by name."""

    def __init__(self, by_name: Mapping[str, Model[TorchBackend]]) -> None:
        self._by_name = by_name

    @classmethod
    def load(cls, settings: Settings, worker: int = 0) -> Models:
        """All models of the settings in this process, the `worker`-th of its machine."""
        from blip import api

        threads = settings.threads or max(1, (os.cpu_count() or 1) // settings.workers)
        device = _device(settings.device, worker)
        how: dict[str, Any] = {"device": device, "dtype": settings.dtype, "threads": threads}
        return cls({name: api.load(name, offline=settings.offline or None, **how) for name in settings.models})

    def cards(self) -> tuple[Card, ...]:
        return tuple(
            Card(
                name,
                model.family,
                tuple(sorted(model.capabilities)),
                model.config.vision.image_size,
                str(model.backend.device),
                str(model.backend.dtype).removeprefix("torch."),
            )
            for name, model in self._by_name.items()
        )

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcome of each job, in order. Jobs that differ in nothing but image and text are done together."""
        groups: dict[Any, list[int]] = {}
        for i, job in enumerate(jobs):
            groups.setdefault((job.verb, job.model, job.params), []).append(i)
        found: dict[int, Outcome] = {}
        for places in groups.values():
            found.update(zip(places, self._together([jobs[i] for i in places]), strict=True))
        outcomes = [found[i] for i in range(len(jobs))]
        return [replace(outcome, batch=len(jobs) if i == 0 else 0) for i, outcome in enumerate(outcomes)]

    def _together(self, jobs: Sequence[Job]) -> list[Outcome]:
        try:
            rows = VERBS[jobs[0].verb](self._by_name[jobs[0].model], jobs)
            return [Outcome(tuple(own)) for own in rows]
        except Exception as error:  # whatever it is, the caller waits for an answer
            if len(jobs) == 1:
                return [Outcome(problem=_problem(error))]
        half = len(jobs) // 2  # also what helps when memory is short
        return [*self._together(jobs[:half]), *self._together(jobs[half:])]


def _problem(error: Exception) -> tuple[str, str]:
    if isinstance(error, MissingPart):
        return "no_model", str(error)
    if isinstance(error, BlipError):
        return "bad_field", str(error)
    traceback.print_exception(error)
    return "internal", "this is a bug in blip; the server's log says more"


def _device(name: str, worker: int) -> str:
    """Workers take turns with the GPUs of a machine that has several."""
    import torch

    count = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    return f"cuda:{worker % count}" if count > 1 else name


def caption(model: Model, jobs: Sequence[Job]) -> Rows:
    from blip_lite.decoding import make_decoding, to_record

    params = dict(jobs[0].params)
    prompt, seed = params.pop("prompt"), params.pop("seed")
    decoding = make_decoding(**params)
    found = model.caption_batch(_images(jobs), decoding, prompt=prompt, seed=seed, keys=[job.key for job in jobs])
    rows: Rows = []
    for job, one in zip(jobs, found, strict=True):
        width, height = job.picture.original if job.picture is not None else (0, 0)
        rows.append([_record("caption", job, one.to_dict(), params=to_record(decoding), width=width, height=height)])
    return rows


def answer(model: Model, jobs: Sequence[Job]) -> Rows:
    params = dict(jobs[0].params)
    images = [image for job, image in zip(jobs, _images(jobs), strict=True) for _ in job.texts]
    found = iter(model.answer_batch(images, [line for job in jobs for line in job.texts], **params))
    return [[_record("answer", job, {"question": q, **next(found).to_dict()}) for q in job.texts] for job in jobs]


def match(model: Model, jobs: Sequence[Job]) -> Rows:
    params = dict(jobs[0].params)
    if all(len(job.texts) == 1 for job in jobs):
        found = model.match_batch(_images(jobs), [job.texts[0] for job in jobs], pairs=True, **params)
        return [[_matched(job, 0, found.itm, found.itc, i)] for i, job in enumerate(jobs)]
    rows = []
    for job in jobs:
        one = model.match_batch(_images([job]), list(job.texts), **params)
        itm, itc = (None if scores is None else scores[0] for scores in (one.itm, one.itc))
        rows.append([_matched(job, i, itm, itc, i) for i in range(len(job.texts))])
    return rows


def _matched(job: Job, text: int, itm: Any, itc: Any, row: int) -> Record:
    scores = {"itm": None if itm is None else float(itm[row]), "itc": None if itc is None else float(itc[row])}
    return _record("match", job, {"text": job.texts[text], "text_index": text, **scores})


def embed(model: Model, jobs: Sequence[Job]) -> Rows:
    params = dict(jobs[0].params)
    kind, projected = params["kind"], params["projected"]
    if kind == "text":
        found = model.embed_text([job.texts[0] for job in jobs], projected)
    elif kind == "image":
        found = model.embed_image_batch(_images(jobs), projected)
    else:
        found = model.embed_multimodal_batch(_images(jobs), [job.texts[0] for job in jobs])
    about = {"kind": kind, "projected": found.projected, "dim": found.vectors.shape[-1], "dtype": "float32"}
    return [
        [_record("embedding", job, {**about, "vector": vector})]
        for job, vector in zip(jobs, found.vectors, strict=True)
    ]


def explain(model: Model, jobs: Sequence[Job]) -> Rows:
    params = dict(jobs[0].params)
    overlay = params.pop("overlay")
    rows = []
    for job, image in zip(jobs, _images(jobs), strict=True):
        found = model.explain(image, job.texts[0] if job.texts else None, **params)
        shown = found.words()
        drawn: list[int | None] = {"mean": [None], "words": [*range(len(shown.tokens))], "none": []}[overlay]
        pictures = [{"token": "mean" if i is None else shown.tokens[i], "png": _png(shown.overlay(i))} for i in drawn]
        rows.append([_record("explain", job, {**shown.to_dict(), "maps": shown.maps, "overlays": pictures})])
    return rows


def _images(jobs: Sequence[Job]) -> list[Image]:
    return [job.picture.image() for job in jobs if job.picture is not None]


def _record(schema: str, job: Job, found: Record, **more: Any) -> Record:
    from blip.io.records import clean

    record: Record = clean({"schema": f"{schema}/1", "key": job.key, **found, "model": job.model, **more})
    return record


def _png(image: Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


VERBS: dict[str, Callable[[Any, Sequence[Job]], Rows]] = {
    "caption": caption,
    "answer": answer,
    "match": match,
    "embed": embed,
    "explain": explain,
}
