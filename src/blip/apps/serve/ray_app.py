"""The engine on several machines: Ray Serve, with its batching, under our application.

`blip serve --engine ray` starts or joins a cluster; `build(settings)` is the application for those who deploy it
with `serve.run` or a Serve config file of their own.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette

from blip.apps.serve.app import build_app
from blip.apps.serve.jobs import Card, Job, Outcome
from blip.apps.serve.models import Models
from blip.apps.serve.problems import Problem
from blip.apps.serve.settings import Settings
from blip_lite.errors import EnvironmentProblem

NAME, MODELS = "blip", "models"
OBJECT_STORE = 200_000_000  # bytes; pictures of 0.5 MB pass through it


class Replica:
    """One process with all models, on any machine of the cluster."""

    def __init__(self, settings: Settings) -> None:
        self.models = Models.load(settings)

    async def cards(self) -> tuple[Card, ...]:
        return self.models.cards()

    async def run(self, jobs: list[Job]) -> list[Outcome]:
        """Called with one job, gets a batch: Ray Serve wraps it."""
        return await asyncio.to_thread(self.models.run, jobs)


class RayEngine:
    """Jobs to the replicas of a deployment."""

    def __init__(self, handle: Any) -> None:
        self.cards: Sequence[Card] = ()
        self._handle = handle

    def ready(self) -> bool:
        return bool(self.cards)

    async def submit(self, job: Job, seconds: float) -> Outcome:
        from ray.exceptions import RayError

        try:
            outcome: Outcome = await self._handle.run.remote(job)
        except RayError as error:
            raise Problem("worker_lost", "the process that worked on it has ended; try again", retry_after=5) from error
        return outcome

    async def started(self) -> None:
        self.cards = await self._handle.cards.remote()


def build(settings: Settings) -> Any:
    """The Ray Serve application: a deployment of `workers` replicas behind one of our web application."""
    serve: Any = importlib.import_module("ray.serve")

    together = serve.batch(max_batch_size=settings.max_batch, batch_wait_timeout_s=settings.max_wait)
    batching = type(MODELS, (Replica,), {"run": together(Replica.run)})
    replicas = serve.deployment(
        batching,
        name=MODELS,
        num_replicas=settings.workers,
        max_ongoing_requests=settings.queue,
        ray_actor_options={"num_cpus": 1, "num_gpus": 0 if settings.device == "cpu" else _gpus()},
    ).bind(settings)
    web = serve.deployment(
        serve.ingress(lambda: _web(settings))(Web),
        name="web",
        max_ongoing_requests=4 * settings.queue,
        ray_actor_options={"num_cpus": 0},
    )
    return web.bind(replicas)


class Web:
    """Holds the reference that makes Ray deploy the replicas first."""

    def __init__(self, replicas: Any) -> None:
        self.replicas = replicas


def _web(settings: Settings) -> Starlette:
    serve: Any = importlib.import_module("ray.serve")

    engine = RayEngine(serve.get_deployment_handle(MODELS, app_name=NAME))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await engine.started()
        yield

    return build_app(settings, engine, lifespan)


def _gpus() -> int:
    ray: Any = importlib.import_module("ray")
    return 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0


def run(settings: Settings, host: str, port: int, announce: Callable[[], None]) -> None:
    """Serves until SIGTERM or Ctrl-C. Joins the cluster of RAY_ADDRESS, else starts one on this machine.

    announce: called when models are loaded and requests are answered.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray: Any = importlib.import_module("ray")
    serve: Any = importlib.import_module("ray.serve")

    own = {"num_cpus": max(2, settings.workers), "object_store_memory": OBJECT_STORE}
    own = {} if os.environ.get("RAY_ADDRESS") else own
    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False, **own)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # Ray has put its own in place
        signal.signal(number, lambda *_: stop.set())
    try:
        serve.start(http_options={"host": host, "port": port, "location": "HeadOnly"})
        serve.run(build(settings), name=NAME, route_prefix="/", blocking=False)
        announce()
        stop.wait()
        serve.shutdown()
    except RuntimeError as error:
        raise EnvironmentProblem(f"Ray Serve did not start: {str(error).strip().splitlines()[-1]}") from error
    finally:
        ray.shutdown()
