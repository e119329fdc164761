"""A request from its body to its records: admitted, parsed, decoded, queued for a model, answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

from starlette.requests import Request

from blip.apps.serve.admission import AdmissionControl, BodyReader
from blip.apps.serve.images import Decoder, Fetcher, ImageSource, public_address
from blip.apps.serve.jobs import Engine, Job, JobResult, ModelInfo, Problem, Record
from blip.apps.serve.metrics import Metrics
from blip.apps.serve.parsing import ParsedRequest, parse_request
from blip.apps.serve.request_models import BODIES, Body
from blip.apps.serve.settings import Settings
from blip.io.records import error_record
from blip_lite.errors import UnreadableImage

DOWNLOADS = 8  # images fetched and decoded at the same time: limits their memory
RETRY_SECONDS = 2.0  # suggested to clients of a server that is starting or stopping


class Service:
    """State shared by the routes of a server."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self.admission, self.bodies, self.metrics = AdmissionControl(settings), BodyReader(settings), Metrics()
        self.decoder = Decoder(settings.max_pixels)
        self.fetcher = Fetcher(settings.max_upload, settings.timeout, public_address)
        self.draining = False
        self._downloads = asyncio.Semaphore(DOWNLOADS)

    def ready(self) -> bool:
        return bool(self.engine.models) and not self.draining and self.engine.ready()

    def not_ready(self) -> Problem:
        reason = "the server is stopping" if self.draining else "models are still loading"
        return Problem("not_ready", f"{reason}; try again later", retry_after=RETRY_SECONDS)

    async def answer(self, endpoint: str, request: Request) -> Record | list[Record]:
        """The record, or the list of records, for a request. Raises Problem."""
        if self.draining or not self.engine.models:
            raise self.not_ready()
        self.admission.check(1)  # before a byte of the body is read
        with ExitStack() as buffered:
            stream = self.bodies.read(request, buffered)
            parsed = await parse_request(request.headers, stream, BODIES[endpoint], self.settings)
            try:
                async with asyncio.timeout(self.settings.timeout):
                    return await self._answer(endpoint, parsed)
            except TimeoutError:
                raise Problem("timeout", f"no answer within {self.settings.timeout:g} s") from None

    async def _answer(self, endpoint: str, parsed: ParsedRequest) -> Record | list[Record]:
        body = parsed.body
        if parsed.sources and parsed.sources[0].url and not self.settings.allow_urls:
            raise Problem("bad_url", "URLs are disabled on this server (--allow-urls)", field="url")
        model = self._choose_model(body)
        count = len(parsed.sources) or len(body.all_texts)
        if count > self.settings.queue:
            raise Problem("too_many", f"{count} texts; at most {self.settings.queue} per request")
        with self.admission.admit(count):
            jobs = [self._run(endpoint, model, parsed, i) for i in range(count)]
            results = await asyncio.gather(*jobs, return_exceptions=True)  # waits for all, also after a failure
        return _join(body, parsed.sources, results)

    async def _run(self, endpoint: str, model: ModelInfo, parsed: ParsedRequest, index: int) -> list[Record]:
        """Records of one image or text. Raises UnreadableImage, Problem."""
        texts, params = parsed.body.texts_for(index), parsed.body.params()
        if parsed.sources:
            source, side = parsed.sources[index], None if endpoint == "explain" else model.image_size
            async with self._downloads if source.url else nullcontext():
                content = await self.fetcher.fetch(source.url) if source.url else source.content
                with self.admission.working():
                    image, size = await self.decoder.decode(source, content, side)
            job = Job(endpoint, model.name, source.key, image, size, texts, params)
        else:
            job = Job(endpoint, model.name, "".join(texts), None, (0, 0), texts, params)
        with self.admission.working():
            result: JobResult = await self.engine.submit(job, self.settings.timeout)
            self.admission.record_answer()
        self.metrics.images.labels(endpoint).inc()
        if result.batch:
            self.metrics.batches.observe(result.batch)
        if result.problem is not None:
            raise Problem(*result.problem)
        return list(result.records)

    def _choose_model(self, body: Body) -> ModelInfo:
        """The requested model, or the first with a required capability."""
        models = self.engine.models
        names = ", ".join(model.name for model in models)
        if body.model is not None:
            models = [model for model in models if model.name == body.model]
            if not models:
                message = f"model '{body.model[:80]}' is not served; must be one of {names}"
                raise Problem("unknown_model", message, field="model")
            names = body.model
        for capability in body.capabilities:
            for model in models:
                if capability in model.capabilities:
                    return model
        raise Problem("no_model", f"no served model can {body.capabilities[0]} (served: {names})", field="model")


def _join(
    body: Body, sources: Sequence[ImageSource], results: Sequence[list[Record] | BaseException]
) -> Record | list[Record]:
    """All records. A failed image becomes an error record in a list, and a Problem otherwise."""
    records: list[Record] = []
    for i, result in enumerate(results):
        if not isinstance(result, BaseException):
            records += result
        elif body.is_list and sources and _concerns_image(result):
            unreadable = isinstance(result, Problem) and result.status == 422  # a bad URL or base64
            error = UnreadableImage(sources[i].key, str(result)) if unreadable else result
            records.append(error_record(f"{body.record}/1", sources[i].key, error))
        elif isinstance(result, UnreadableImage):
            raise Problem("bad_image", f"{result.key[:200]}: {result.reason}", field=sources[i].field)
        else:
            raise result
    return records if body.is_list else records[0]


def _concerns_image(error: BaseException) -> bool:
    """Whether a failure concerns one image rather than the whole request."""
    return isinstance(error, UnreadableImage) or (isinstance(error, Problem) and error.status in (422, 500, 504))
