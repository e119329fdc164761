"""The web application: routes, authentication, error responses. Independent of the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Lifespan, Message

from blip.apps.serve import docs_page
from blip.apps.serve.jobs import CODES, Engine, Problem, log_bug
from blip.apps.serve.openapi import build_openapi
from blip.apps.serve.request_models import BODIES
from blip.apps.serve.service import Service
from blip.apps.serve.settings import Settings, is_authorized

Handler = Callable[[Request], Awaitable[Response]]
Respond = Callable[[Service, Request], Response]
ALLOWED_HEADERS = ("Authorization", "Content-Type", "X-API-Key", "X-Request-ID")
DRAIN_SECONDS = 5.0
MAX_REQUEST_ID = 200  # characters


class BodyTracker:
    """A request's `receive` that knows whether the body has ended; `receive` itself would wait forever then."""

    def __init__(self, request: Request) -> None:
        self._receive, self.ended = request.receive, False
        self.request = Request(request.scope, self)

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drain(self, limit: int) -> None:
        """Discard the rest of a body, within limits, so that a client that is still sending can read the response."""
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.ended and size <= limit:
                    size += len((await self()).get("body", b""))


def build_app(settings: Settings, engine: Engine, lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """The application over an engine; `app.state.service` is its `Service`."""
    service = Service(settings, engine)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["GET", "POST"],
        allow_headers=ALLOWED_HEADERS,
        expose_headers=["Retry-After", "X-Request-ID"],
    )
    app = Starlette(
        routes=[
            *(_post_route(service, endpoint) for endpoint in BODIES),
            _get_route(service, "/v1/models", _models, protected=True),
            _get_route(service, "/metrics", _metrics, protected=True),
            _get_route(service, "/healthz", _healthz),
            _get_route(service, "/readyz", _readyz),
            _get_route(service, "/openapi.json", _openapi),
            _get_route(service, "/docs", _docs),
            _get_route(service, "/", _index),
        ],
        lifespan=lifespan,
        middleware=[cors] if settings.origins else [],
        exception_handlers={HTTPException: _http_error},
    )
    app.state.service = service
    return app


def _post_route(service: Service, endpoint: str) -> Route:
    async def handle(request: Request) -> Response:
        _authenticate(service, request)
        return JSONResponse(await service.answer(endpoint, request))

    return Route(f"/v1/{endpoint}", _handle_errors(service, endpoint, handle), methods=["POST"])


def _get_route(service: Service, path: str, respond: Respond, *, protected: bool = False) -> Route:
    async def handle(request: Request) -> Response:
        if protected:
            _authenticate(service, request)
        return respond(service, request)

    endpoint = path.rpartition("/")[2].removesuffix(".json") or "index"
    return Route(path, _handle_errors(service, endpoint, handle))


def _authenticate(service: Service, request: Request) -> None:
    if not is_authorized(request.headers, service.settings.key_digests):
        headers = "'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
        raise Problem("unauthorized", f"an API key is required: header {headers}")


def _handle_errors(service: Service, endpoint: str, handle: Handler) -> Handler:
    """The handler, with every failure turned into a response, and recorded in the metrics."""

    async def call(request: Request) -> Response:
        start, tracker = time.perf_counter(), BodyTracker(request)
        try:
            response = await handle(tracker.request)
        except ClientDisconnect:  # the response is not read
            response = Response(status_code=400)
        except Problem as problem:
            response = await _refuse(service, tracker, problem)
        except Exception as error:
            log_bug(error)
            bug = Problem("internal", "this is a bug in blip; details are in the server's log")
            response = await _refuse(service, tracker, bug)
        if (request_id := request.headers.get("x-request-id")) is not None:
            response.headers["X-Request-ID"] = request_id[:MAX_REQUEST_ID]
        service.metrics.record_response(endpoint, response.status_code, time.perf_counter() - start)
        return response

    return call


async def _refuse(service: Service, tracker: BodyTracker, problem: Problem) -> Response:
    if problem.code != "slow_body":  # then the client has had its time to send
        await tracker.drain(service.settings.max_upload)
    response = _problem_response(problem)
    if not tracker.ended:  # the rest of the body would be taken for the next request
        response.headers["Connection"] = "close"
    return response


def _problem_response(problem: Problem) -> Response:
    return JSONResponse(problem.body(), problem.status, problem.headers())


async def _http_error(request: Request, error: Exception) -> Response:
    """Response for errors of Starlette itself: unknown paths and methods."""
    assert isinstance(error, HTTPException), "registered for these"
    code = CODES.get(error.status_code, ("bad_request",))[0]
    messages = {
        404: f"no such path: {request.url.path[:200]}; see /docs",
        405: f"method {request.method} is not allowed here",
    }
    problem = Problem(code, messages.get(error.status_code, error.detail))
    return JSONResponse(problem.body(), error.status_code, error.headers)


def _models(service: Service, request: Request) -> Response:
    return JSONResponse([asdict(model) for model in service.engine.models])


def _metrics(service: Service, request: Request) -> Response:
    metrics = service.metrics
    metrics.queue.set(service.admission.jobs)
    metrics.buffered.set(service.bodies.buffered)
    metrics.ready.set(service.ready())
    return Response(metrics.to_text(), media_type=CONTENT_TYPE_LATEST)


def _healthz(service: Service, request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _readyz(service: Service, request: Request) -> Response:
    return JSONResponse({"status": "ready"}) if service.ready() else _problem_response(service.not_ready())


def _openapi(service: Service, request: Request) -> Response:
    return JSONResponse(build_openapi(service.settings))


def _docs(service: Service, request: Request) -> Response:
    page = docs_page.render(service.settings, str(request.base_url).rstrip("/"))
    return HTMLResponse(page, headers=docs_page.HEADERS)


def _index(service: Service, request: Request) -> Response:
    """The page for browsers, and where to go from here for programs."""
    if "text/html" in request.headers.get("accept", ""):
        return _docs(service, request)
    from blip import __version__

    endpoints = [f"/v1/{endpoint}" for endpoint in BODIES]
    links = {"docs": "/docs", "openapi": "/openapi.json", "endpoints": endpoints}
    return JSONResponse({"name": "blip", "version": __version__, **links}, headers={"Vary": "Accept"})
