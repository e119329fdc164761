"""The web application: routes, keys, errors of one form, figures. Knows nothing of the engine below."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Lifespan

from blip.apps.serve import auth, metrics
from blip.apps.serve.jobs import Engine
from blip.apps.serve.limits import BodyTracker
from blip.apps.serve.openapi import description
from blip.apps.serve.problems import CODES, Problem
from blip.apps.serve.service import BODIES, Service
from blip.apps.serve.settings import Settings

Handler = Callable[[Request], Awaitable[Response]]
PREFIX = "/v1/"
ALLOWED_HEADERS = ("Authorization", "Content-Type", "X-API-Key")


def build_app(settings: Settings, engine: Engine, lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """The application over an engine; `app.state.service` is its `Service`."""
    service = Service(settings, engine)
    routes = [
        *(Route(f"{PREFIX}{verb}", _posted(service, verb), methods=["POST"]) for verb in BODIES),
        Route(f"{PREFIX}models", _got(service, _models, secret=True)),
        Route("/metrics", _got(service, _metrics, secret=True)),
        Route("/healthz", _got(service, _healthz)),
        Route("/readyz", _got(service, _readyz)),
        Route("/openapi.json", _got(service, _openapi)),
    ]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["GET", "POST"],
        allow_headers=ALLOWED_HEADERS,
        expose_headers=["Retry-After"],
    )
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[cors] if settings.origins else [],
        exception_handlers={HTTPException: _http_error},
    )
    app.state.service = service
    return app


def _posted(service: Service, verb: str) -> Handler:
    """The route of a verb."""

    async def handle(request: Request) -> Response:
        auth.check(request.headers, service.settings.key_digests)
        return _json(await service.answer(verb, request))

    return _guarded(service, verb, handle)


def _got(service: Service, call: Callable[[Service], Response], *, secret: bool = False) -> Handler:
    """A route that only tells something."""

    async def handle(request: Request) -> Response:
        if secret:
            auth.check(request.headers, service.settings.key_digests)
        return call(service)

    return _guarded(service, call.__name__.lstrip("_"), handle)


def _guarded(service: Service, endpoint: str, handle: Handler) -> Handler:
    """The handler, with every failure turned into an answer, and counted."""

    async def call(request: Request) -> Response:
        start, inflow = time.perf_counter(), BodyTracker(request)
        try:
            answer = await handle(inflow.request)
        except ClientDisconnect:  # nobody is there to read it
            answer = Response(status_code=400)
        except Problem as problem:
            answer = await _refused(service, inflow, problem)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            answer = await _refused(service, inflow, Problem("internal", "this is a bug in blip; the log says more"))
        service.metrics.answered(endpoint, answer.status_code, time.perf_counter() - start)
        return answer

    return call


async def _refused(service: Service, inflow: BodyTracker, problem: Problem) -> Response:
    if problem.code != "timeout":  # a client that has not sent its body by now will not
        await inflow.drain(service.settings.max_upload)
    return JSONResponse(problem.body(), problem.status, problem.headers())


async def _http_error(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException), "registered for these"
    code = CODES.get(error.status_code, ("bad_request",))[0]
    about = {404: f"no such path: {request.url.path[:200]}", 405: f"method {request.method} is not for this path"}
    problem = Problem(code, about.get(error.status_code, error.detail))
    return JSONResponse(problem.body(), error.status_code, error.headers)


def _models(service: Service) -> Response:
    return _json(
        [
            {
                "name": card.name,
                "kind": card.kind,
                "capabilities": list(card.capabilities),
                "image_size": card.image_size,
                "device": card.device,
                "dtype": card.dtype,
            }
            for card in service.engine.cards
        ]
    )


def _metrics(service: Service) -> Response:
    figures = service.metrics
    figures.queue.set(service.gate.jobs)
    figures.buffered.set(service.gate.buffered)
    figures.ready.set(service.ready())
    return Response(figures.text(), media_type=metrics.TYPE)


def _healthz(service: Service) -> Response:
    return _json({"status": "ok"})


def _readyz(service: Service) -> Response:
    if service.ready():
        return _json({"status": "ready"})
    problem = Problem("not_ready", "stopping" if service.draining else "the models are not there", retry_after=2)
    return JSONResponse(problem.body(), problem.status, problem.headers())


def _openapi(service: Service) -> Response:
    return _json(description(service.settings))


def _json(value: Any) -> Response:
    return JSONResponse(value)
