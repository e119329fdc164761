"""The engine on several machines: Ray Serve with its batching, below the same web application.

`blip serve --engine ray` starts or joins a cluster. `build(settings)` returns the application for deployment with
`serve.run` or a Serve config file.
"""

from __future__ import annotations

import asyncio
import importlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

from starlette.applications import Starlette

from blip.apps.serve.app import build_app
from blip.apps.serve.jobs import Job, JobResult, ModelInfo, Problem
from blip.apps.serve.models import Models
from blip.apps.serve.settings import Settings
from blip.engine.ray_cluster import connected
from blip_lite.errors import EnvironmentProblem

NAME, MODELS = "blip", "models"
OBJECT_STORE = 200_000_000  # bytes; images of 0.5 MB pass through it


class Replica:
    """A process with all models, on any machine of the cluster."""

    def __init__(self, settings: Settings) -> None:
        self.models = Models.load(settings)

    async def info(self) -> tuple[ModelInfo, ...]:
        return self.models.info()

    async def run(self, jobs: list[Job]) -> list[JobResult]:
        """Called with one job, receives a batch: wrapped by Ray Serve."""
        return await asyncio.to_thread(self.models.run, jobs)


class RayEngine:
    """Sends jobs to the replicas of a deployment."""

    def __init__(self, handle: Any) -> None:
        self.models: Sequence[ModelInfo] = ()
        self._handle = handle

    def ready(self) -> bool:
        return bool(self.models)

    async def submit(self, job: Job, seconds: float) -> JobResult:
        from ray.exceptions import RayError

        try:
            result: JobResult = await self._handle.run.remote(job)
        except RayError as error:
            raise Problem("worker_lost", "the worker crashed; try again", retry_after=5) from error
        return result

    async def load(self) -> None:
        self.models = await self._handle.info.remote()


def build(settings: Settings) -> Any:  # Any: ray is an optional dependency
    """The Ray Serve application: a deployment of `workers` replicas behind one of the web application."""
    serve: Any = importlib.import_module("ray.serve")

    batch = serve.batch(max_batch_size=settings.max_batch, batch_wait_timeout_s=settings.max_wait)
    batching = type(MODELS, (Replica,), {"run": batch(Replica.run)})
    replicas = serve.deployment(
        batching,
        name=MODELS,
        num_replicas=settings.workers,
        max_ongoing_requests=settings.queue,
        ray_actor_options={"num_cpus": 1, "num_gpus": 0 if settings.device == "cpu" else _num_gpus()},
    ).bind(settings)
    web = serve.deployment(
        serve.ingress(lambda: _web_app(settings))(Web),
        name="web",
        max_ongoing_requests=4 * settings.queue,
        ray_actor_options={"num_cpus": 0},
    )
    return web.bind(replicas)


class Web:
    """Holds the reference that makes Ray deploy the replicas first."""

    def __init__(self, replicas: Any) -> None:
        self.replicas = replicas


def _web_app(settings: Settings) -> Starlette:
    serve: Any = importlib.import_module("ray.serve")

    engine = RayEngine(serve.get_deployment_handle(MODELS, app_name=NAME))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await engine.load()
        yield

    return build_app(settings, engine, lifespan)


def _num_gpus() -> int:
    ray: Any = importlib.import_module("ray")
    return 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0


def run(settings: Settings, host: str, port: int, announce: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. Joins the cluster of RAY_ADDRESS, or starts one on this machine.

    announce: called as soon as models are loaded and requests are answered. Raises KeyboardInterrupt after Ctrl-C.
    """
    stop, received = threading.Event(), set[int]()

    def handle_exit(number: int, frame: FrameType | None) -> None:
        received.add(number)
        stop.set()

    with connected(None, cpus=max(2, settings.workers), object_store=OBJECT_STORE):
        serve: Any = importlib.import_module("ray.serve")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handle_exit)
        try:
            serve.start(http_options={"host": host, "port": port, "location": "HeadOnly"})
            serve.run(build(settings), name=NAME, route_prefix="/", blocking=False)
            announce()
            stop.wait()
            serve.shutdown()
        except RuntimeError as error:
            raise EnvironmentProblem(f"Ray Serve did not start: {str(error).strip().splitlines()[-1]}") from error
    if signal.SIGINT in received:
        raise KeyboardInterrupt
