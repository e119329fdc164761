"""A request from its body to its records: admitted, read, decoded, queued for a model, answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from starlette.requests import Request

from blip.apps.serve import requests
from blip.apps.serve.jobs import Card, Engine, Job, Outcome, Picture
from blip.apps.serve.limits import Gate
from blip.apps.serve.metrics import Metrics
from blip.apps.serve.pictures import Decoder
from blip.apps.serve.problems import Problem
from blip.apps.serve.request_models import AnswerBody, Body, CaptionBody, EmbedBody, ExplainBody, MatchBody
from blip.apps.serve.requests import Asked, Source
from blip.apps.serve.settings import Settings
from blip.apps.serve.urls import Fetcher, public_address
from blip.io.records import error_record
from blip_lite.errors import UnreadableImage

Record = dict[str, Any]

BODIES: dict[str, type[Body]] = {
    "caption": CaptionBody,
    "answer": AnswerBody,
    "match": MatchBody,
    "embed": EmbedBody,
    "explain": ExplainBody,
}
SCHEMAS = {"caption": "caption", "answer": "answer", "match": "match", "embed": "embedding", "explain": "explain"}
DOWNLOADS = 8  # images fetched and decoded at once: bounds their memory
DRAINING = 2.0  # seconds that a server which stops asks its clients to wait


class Service:
    """What the routes of one server share."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self.gate, self.metrics = Gate(settings), Metrics()
        self.decoder = Decoder(settings.max_pixels)
        self.fetcher = Fetcher(settings.max_upload, settings.timeout, public_address)
        self.draining = False
        self._downloads = asyncio.Semaphore(DOWNLOADS)

    def ready(self) -> bool:
        return bool(self.engine.cards) and not self.draining and self.engine.ready()

    async def answer(self, verb: str, request: Request) -> Record | list[Record]:
        """The record, or the list of them, that a request is answered with. Raises Problem."""
        if self.draining or not self.engine.cards:
            raise Problem("not_ready", "the models are not there; try again later", retry_after=DRAINING)
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await self._answer(verb, request)
        except TimeoutError:
            raise Problem("timeout", f"no answer within {self.settings.timeout:g} s") from None

    async def _answer(self, verb: str, request: Request) -> Record | list[Record]:
        with self.gate.inside(1), ExitStack() as buffered:  # one place before a byte of the body is read
            stream = self.gate.body(request, buffered)
            asked = await requests.read(request.headers, stream, BODIES[verb], self.settings)
            body = asked.body
            if asked.sources and asked.sources[0].url and not self.settings.allow_urls:
                raise Problem("bad_url", "this server fetches no URLs; it runs without --allow-urls", field="url")
            card = self._card(body)
            count = max(1, len(asked.sources) or _texts(body))
            if count > self.settings.queue:
                raise Problem("too_many", f"{count} texts; at most {self.settings.queue} in one request")
            with self.gate.inside(count - 1):
                if not asked.sources:
                    each = [self._submit(_job(verb, card, body, i, _key(body, i), None)) for i in range(count)]
                else:
                    each = [self._one(verb, card, asked, i) for i in range(count)]
                rows = await asyncio.gather(*each, return_exceptions=True)  # none leaves while others work
        return self._joined(verb, asked, rows)

    def _joined(self, verb: str, asked: Asked, rows: Sequence[list[Record] | BaseException]) -> Record | list[Record]:
        """All records, a failed image's error among them; where one record is asked for, a failure is a Problem."""
        records: list[Record] = []
        for i, own in enumerate(rows):
            if isinstance(own, BaseException):
                if not asked.body.many or not asked.sources or _whole(own):
                    raise _as_problem(own, asked.sources[i].field if asked.sources else None)
                records.append(_failed(verb, asked.sources[i].key, own))
            else:
                records += own
        return records if asked.body.many else records[0]

    async def _one(self, verb: str, card: Card, asked: Asked, number: int) -> list[Record]:
        """The records of one image. Raises UnreadableImage for a bad one."""
        source = asked.sources[number]
        size = None if verb == "explain" else card.image_size
        picture = await self._picture(source, size)
        return await self._submit(_job(verb, card, asked.body, number, source.key, picture))

    async def _picture(self, source: Source, size: int | None) -> Picture:
        if not source.url:
            return await self._decoded(await source.decoded(), source.key, size)
        async with self._downloads:
            return await self._decoded(await self.fetcher.fetch(source.url), source.key, size)

    async def _decoded(self, data: bytes, key: str, size: int | None) -> Picture:
        with self.gate.working():
            return await self.decoder.picture(data, key, size)

    async def _submit(self, job: Job) -> list[Record]:
        with self.gate.working():
            outcome: Outcome = await self.engine.submit(job, self.settings.timeout)
            self.gate.answered()
        self.metrics.images.labels(job.verb).inc()
        if outcome.batch:
            self.metrics.batches.observe(outcome.batch)
        if outcome.problem is not None:
            raise Problem(*outcome.problem)
        return list(outcome.records)

    def _card(self, body: Body) -> Card:
        """The model that a request names, or the first that can serve it."""
        cards = self.engine.cards
        names = ", ".join(card.name for card in cards)
        if body.model is not None:
            cards = [card for card in cards if card.name == body.model]
            if not cards:
                message = f"model '{body.model[:80]}' is not served; must be one of {names}"
                raise Problem("unknown_model", message, field="model")
            names = body.model
        for need in body.needs:
            for card in cards:
                if need in card.capabilities:
                    return card
        raise Problem("no_model", f"{names} cannot {body.needs[0]}; the server needs a model that can", field="model")


def _texts(body: Body) -> int:
    """Texts to embed where there is no image."""
    return len(getattr(body, "texts", None) or [1])


def _key(body: Body, number: int) -> str:
    return "".join(body.lines(number))


def _job(verb: str, card: Card, body: Body, number: int, key: str, picture: Picture | None) -> Job:
    return Job(verb, card.name, key, picture, body.lines(number), body.params())


def _whole(error: BaseException) -> bool:
    """Whether a failure is one of the request rather than of an image."""
    return not isinstance(error, UnreadableImage | Problem) or (
        isinstance(error, Problem) and error.status not in (422, 500, 504)
    )


def _as_problem(error: BaseException, field: str | None) -> BaseException:
    if isinstance(error, UnreadableImage):
        return Problem("bad_image", f"{error.key[:200]}: {error.reason}", field=field)
    return error


def _failed(verb: str, key: str, error: BaseException) -> Record:
    """The record of a failed image. What is wrong with an address or base64 is wrong with the image."""
    unreadable = UnreadableImage(key, str(error)) if isinstance(error, Problem) and error.status == 422 else error
    return error_record(f"{SCHEMAS[verb]}/1", key, unreadable)
