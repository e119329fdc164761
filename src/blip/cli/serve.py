"""`blip serve`: the models behind HTTP."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blip.cli import options as o

if TYPE_CHECKING:
    from blip.apps.serve.settings import Settings

ENGINES = {
    "local": ("async_batcher", "serve"),
    "ray": ("ray.serve", "serve,ray"),
}  # its module, and the extras it needs
PARTS = ("prometheus_client", "python_multipart", "starlette", "uvicorn", "pydantic")


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option("-m", "--model", help="May be given again; default BLIP_MODEL, else tiny and tiny-vqa."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any that is free.")] = 8000,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Images that a model sees at once.")] = 16,
    max_wait_ms: Annotated[float, typer.Option(min=0, max=1000, help="That a first image waits for others.")] = 5,
    queue: Annotated[int, typer.Option(min=1, help="Images waiting or worked on; more are answered 429.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request; later it is answered 504.")] = 30,
    max_upload_mb: Annotated[float, typer.Option(min=0.001, help="Of a request's body; more is answered 413.")] = 20,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Larger images are refused.")] = 50,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch images from addresses on the public internet.")
    ] = False,
    api_key_file: Annotated[Path | None, typer.Option(help="Keys that clients must show, one a line.")] = None,
    cors: Annotated[
        list[str] | None, typer.Option(help="Origin of web pages that may call; may be given again.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that hold the models.")] = 1,
    engine: Annotated[str, typer.Option(help="local (this machine) or ray (a Ray cluster).")] = "local",
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Serve models over HTTP (REST, OpenAPI). Example: blip serve -m caption-base -m vqa-base --port 8000"""
    from blip_lite.errors import UsageError

    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}; must be local or ray")
    _check_extras(engine)
    from blip.apps.serve.settings import MEGABYTE, Settings, read_keys

    names = tuple(model or filter(None, [os.environ.get("BLIP_MODEL")]))
    settings = Settings(
        **({"models": names} if names else {}),
        max_batch=max_batch,
        max_wait=max_wait_ms / 1000,
        queue=queue,
        timeout=timeout,
        max_upload=int(max_upload_mb * MEGABYTE),
        max_pixels=int(max_megapixels * 1e6),
        allow_urls=allow_urls,
        key_digests=read_keys(api_key_file) if api_key_file is not None else (),
        origins=tuple(cors or ()),
        workers=workers,
        device=device,
        dtype=dtype,
        threads=threads,
        offline=offline,
    )
    _obtain(settings)
    if not names:
        o.note("serving the bundled models tiny and tiny-vqa; published ones are far better: -m caption-base", quiet)
    with _listen(host, port) as listening:
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        text = f"listening on http://{shown}:{port} (description: /openapi.json); Ctrl-C or SIGTERM ends it"
        if engine == "local":
            from blip.apps.serve import local

            o.note(text, quiet)
            local.run(settings, listening)
            return 0
    from blip.apps.serve import ray_app

    ray_app.run(settings, host, port, lambda: o.note(text, quiet))
    return 0


def _check_extras(engine: str) -> None:
    from blip_lite.errors import MissingExtra

    module, extras = ENGINES[engine]
    for name in (module.partition(".")[0], *PARTS):
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(f'serve --engine {engine} needs an extra: pip install "blip-vlm[{extras}]"')


def _obtain(settings: Settings) -> None:
    """Every model on disk, before several processes want it."""
    from blip.checkpoint.locate import locate, obtain
    from blip.cli.output import progress_bar

    for name in settings.models:
        found = locate(name)
        if found.entry is None or found.entry.source != "random":
            obtain(found, offline=settings.offline or None, progress=progress_bar(name))


def _listen(host: str, port: int) -> socket.socket:
    """A socket of its own, so that a port in use is noticed before a model is loaded."""
    from blip_lite.errors import EnvironmentProblem, UsageError

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}; no such address on this machine") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        reason = (error.strerror or str(error)).lower()
        raise EnvironmentProblem(f"{host}:{port}: {reason}; use another --port or --host") from error
    listening.set_inheritable(False)
    return listening
