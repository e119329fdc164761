"""A request from its body to its records: admitted, parsed, decoded, queued for a model, answered."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from starlette.requests import Request

from blip.apps.serve.images import Decoder, Fetcher, ImageSource, public_address
from blip.apps.serve.jobs import Engine, Job, JobResult, ModelInfo, Problem, Record
from blip.apps.serve.parsing import ParsedRequest, parse_request
from blip.apps.serve.request_models import BODIES, Body
from blip.apps.serve.settings import MEGABYTE, Settings
from blip.io.records import error_record
from blip_lite.errors import UnreadableImage

DOWNLOADS = 8  # images fetched and decoded at the same time: limits their memory
RETRY_SECONDS = 2.0  # suggested to clients of a server that is starting or stopping
PACE_WINDOW = 65  # latest responses that the pace is computed from
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Prometheus metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("blip_requests", "Requests answered.", ["endpoint", "status"], registry=registry)
        self.seconds = Histogram(
            "blip_request_seconds", "From first byte to response.", ["endpoint"], buckets=SECONDS, registry=registry
        )
        self.images = Counter("blip_images", "Images and texts processed.", ["endpoint"], registry=registry)
        self.queue = Gauge("blip_queue_images", "Images in flight.", registry=registry)
        self.buffered = Gauge("blip_buffered_bytes", "Request bodies in memory.", registry=registry)
        self.batches = Histogram("blip_batch_size", "Images per batch.", buckets=SIZES, registry=registry)
        self.ready = Gauge("blip_ready", "1 if models are loaded and a worker is alive.", registry=registry)

    def record_response(self, endpoint: str, status: int, seconds: float) -> None:
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def to_text(self) -> bytes:
        return generate_latest(self.registry)


class AdmissionControl:
    """Counts jobs and bytes in flight; refuses with 429 and a retry time what cannot be answered in time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.jobs = self.buffered = 0
        self._working = 0  # jobs in the decoder or the engine
        self._answered: deque[float] = deque(maxlen=PACE_WINDOW)  # times of responses, since there is work

    @contextmanager
    def admit(self, jobs: int) -> Iterator[None]:
        """Count jobs as in flight. Raises Problem (429)."""
        if self.jobs + jobs > self.settings.queue:
            raise self.busy(f"{self.jobs} of at most {self.settings.queue} images are in flight")
        if self.jobs and self.expected_wait(jobs) > self.settings.timeout:
            raise self.busy(f"{self.jobs} images are in flight; more cannot be answered in time")
        self.jobs += jobs
        try:
            yield
        finally:
            self.jobs -= jobs

    def record_answer(self) -> None:
        """Update the pace."""
        self._answered.append(time.monotonic())

    @contextmanager
    def working(self) -> Iterator[None]:
        """Mark that a job is being worked on: idle time, as while a slow client sends, does not count as pace."""
        if not self._working:
            self._answered.clear()
            self._answered.append(time.monotonic())
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1

    def expected_wait(self, jobs: int = 0) -> float:
        """Seconds until all jobs in flight, and `jobs` more, are answered; 0 if the pace is unknown."""
        if len(self._answered) < 2 or not self._working:
            return 0.0
        pace = (time.monotonic() - self._answered[0]) / (len(self._answered) - 1)
        return (self.jobs + jobs) * pace

    def busy(self, reason: str) -> Problem:
        return Problem("busy", f"{reason}; try again later", retry_after=min(self.expected_wait() / 2, 60))

    async def read(self, request: Request, stack: ExitStack) -> AsyncGenerator[bytes, None]:
        """Chunks of a body; they count as buffered until the stack is closed. Raises Problem (413, 429)."""
        limit, size = self.settings.max_upload, 0
        too_large = Problem("too_large", f"body of more than {limit / MEGABYTE:g} MB, the limit of this server")
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise too_large
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large
            if self.buffered + len(chunk) > self.settings.max_buffered:
                raise self.busy(f"request bodies of {self.buffered / MEGABYTE:.0f} MB are in memory")
            self.buffered += len(chunk)
            stack.callback(self._release, len(chunk))
            yield chunk

    def _release(self, size: int) -> None:
        self.buffered -= size


class Service:
    """State shared by the routes of a server."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self.admission, self.metrics = AdmissionControl(settings), Metrics()
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
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await self._answer(endpoint, request)
        except TimeoutError:
            raise Problem("timeout", f"no answer within {self.settings.timeout:g} s") from None

    async def _answer(self, endpoint: str, request: Request) -> Record | list[Record]:
        with self.admission.admit(1), ExitStack() as buffered:  # admitted before a byte of the body is read
            stream = self.admission.read(request, buffered)
            parsed = await parse_request(request.headers, stream, BODIES[endpoint], self.settings)
            body = parsed.body
            if parsed.sources and parsed.sources[0].url and not self.settings.allow_urls:
                raise Problem("bad_url", "URLs are disabled on this server (--allow-urls)", field="url")
            model = self._choose_model(body)
            count = len(parsed.sources) or len(body.all_texts)
            if count > self.settings.queue:
                raise Problem("too_many", f"{count} texts; at most {self.settings.queue} per request")
            with self.admission.admit(count - 1):
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
