"""The models of one process and how they run a batch of jobs. A failing job never fails the others of its batch."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from blip.apps.serve.jobs import Job, JobResult, ModelInfo, Record, log_bug
from blip.apps.serve.settings import Settings
from blip_lite.errors import BlipError, MissingPart

if TYPE_CHECKING:
    from blip.torch_backend import TorchBackend
    from blip_lite.model import Model

Records = list[list[Record]]  # of each job
Images = list[Image.Image]
Params = dict[str, Any]


class Models:
    """Loaded models by name."""

    def __init__(self, by_name: Mapping[str, Model[TorchBackend]]) -> None:
        self._by_name = by_name

    @classmethod
    def load(cls, settings: Settings, worker: int = 0) -> Models:
        """Load all models of the settings. worker: number of this process on its machine."""
        from blip import api

        threads = settings.threads or max(1, (os.cpu_count() or 1) // settings.workers)
        options: dict[str, Any] = {
            "device": _device(settings.device, worker),
            "dtype": settings.dtype,
            "threads": threads,
            "offline": settings.offline or None,
        }
        return cls({name: api.load(name, **options) for name in settings.models})

    def info(self) -> tuple[ModelInfo, ...]:
        return tuple(
            ModelInfo(
                name,
                model.family,
                tuple(sorted(model.capabilities)),
                model.config.vision.image_size,
                str(model.backend.device),
                str(model.backend.dtype).removeprefix("torch."),
            )
            for name, model in self._by_name.items()
        )

    def run(self, jobs: Sequence[Job]) -> list[JobResult]:
        """The result of each job, in order. Jobs that differ only in image and text share a call of the model."""
        groups: dict[Any, list[int]] = {}
        for i, job in enumerate(jobs):
            groups.setdefault((job.endpoint, job.model, job.params), []).append(i)
        results = [JobResult()] * len(jobs)
        for indices in groups.values():
            for i, result in zip(indices, self._run_group([jobs[i] for i in indices]), strict=True):
                results[i] = result
        return [replace(results[0], batch=len(jobs)), *results[1:]]

    def _run_group(self, jobs: Sequence[Job]) -> list[JobResult]:
        run, model = ENDPOINTS[jobs[0].endpoint], self._by_name[jobs[0].model]
        try:
            records = run(model, jobs, [job.image for job in jobs if job.image is not None], dict(jobs[0].params))
            return [JobResult(tuple(rows)) for rows in records]
        except Exception as error:  # of any type: the client waits for a response
            if len(jobs) == 1:
                return [JobResult(problem=_problem(error))]
        half = len(jobs) // 2  # smaller batches also help when memory is short
        return [*self._run_group(jobs[:half]), *self._run_group(jobs[half:])]


def _problem(error: Exception) -> tuple[str, str]:
    if isinstance(error, MissingPart):
        return "no_model", str(error)
    if isinstance(error, BlipError):
        return "bad_field", str(error)
    log_bug(error)
    return "internal", "this is a bug in blip; details are in the server's log"


def _device(name: str, worker: int) -> str:
    """Device of a worker: workers take turns with the GPUs of a machine that has several."""
    import torch

    count = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    return f"cuda:{worker % count}" if count > 1 else name


def caption(model: Model, jobs: Sequence[Job], images: Images, params: Params) -> Records:
    from blip_lite.decoding import make_decoding, to_record

    prompt, seed = params.pop("prompt"), params.pop("seed")
    decoding = make_decoding(**params)
    captions = model.caption_batch(images, decoding, prompt=prompt, seed=seed, keys=[job.key for job in jobs])
    settings = to_record(decoding)
    return [
        [_record("caption", job, caption.to_dict(), params=settings, width=job.size[0], height=job.size[1])]
        for job, caption in zip(jobs, captions, strict=True)
    ]


def answer(model: Model, jobs: Sequence[Job], images: Images, params: Params) -> Records:
    repeated = [image for job, image in zip(jobs, images, strict=True) for _ in job.texts]
    questions = [question for job in jobs for question in job.texts]
    answers = iter(model.answer_batch(repeated, questions, **params))
    return [[_record("answer", job, {"question": q, **next(answers).to_dict()}) for q in job.texts] for job in jobs]


def match(model: Model, jobs: Sequence[Job], images: Images, params: Params) -> Records:
    if all(len(job.texts) == 1 for job in jobs):
        scores = model.match_batch(images, [job.texts[0] for job in jobs], pairs=True, **params)
        return [[_match_record(job, 0, scores.itm, scores.itc, i)] for i, job in enumerate(jobs)]
    records = []
    for job, image in zip(jobs, images, strict=True):
        scores = model.match_batch([image], list(job.texts), **params)
        itm, itc = (None if values is None else values[0] for values in (scores.itm, scores.itc))
        records.append([_match_record(job, i, itm, itc, i) for i in range(len(job.texts))])
    return records


def _match_record(job: Job, text: int, itm: Any, itc: Any, row: int) -> Record:
    scores = {"itm": None if itm is None else float(itm[row]), "itc": None if itc is None else float(itc[row])}
    return _record("match", job, {"text": job.texts[text], "text_index": text, **scores})


def embed(model: Model, jobs: Sequence[Job], images: Images, params: Params) -> Records:
    kind, projected = params["kind"], params["projected"]
    if kind == "text":
        result = model.embed_text([job.texts[0] for job in jobs], projected)
    elif kind == "image":
        result = model.embed_image_batch(images, projected)
    else:
        result = model.embed_multimodal(images, [job.texts[0] for job in jobs])
    fields = {"kind": kind, "projected": result.projected, "dim": result.vectors.shape[-1], "dtype": "float32"}
    return [
        [_record("embedding", job, {**fields, "vector": vector})]
        for job, vector in zip(jobs, result.vectors, strict=True)
    ]


def explain(model: Model, jobs: Sequence[Job], images: Images, params: Params) -> Records:
    overlay = params.pop("overlay")
    records = []
    for job, image in zip(jobs, images, strict=True):
        words = model.explain(image, job.texts[0] if job.texts else None, **params).words()
        indices: list[int | None] = {"mean": [None], "words": [*range(len(words.tokens))], "none": []}[overlay]
        overlays = [{"token": "mean" if i is None else words.tokens[i], "png": _png(words.overlay(i))} for i in indices]
        records.append([_record("explain", job, {**words.to_dict(), "maps": words.maps, "overlays": overlays})])
    return records


def _record(schema: str, job: Job, fields: Record, **others: Any) -> Record:
    from blip.io.records import clean

    record: Record = clean({"schema": f"{schema}/1", "key": job.key, **fields, "model": job.model, **others})
    return record


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


ENDPOINTS: dict[str, Callable[[Any, Sequence[Job], Images, Params], Records]] = {
    "caption": caption,
    "answer": answer,
    "match": match,
    "embed": embed,
    "explain": explain,
}
