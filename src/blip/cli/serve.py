"""`blip serve`: the models behind HTTP."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from blip.cli import options as o
from blip.cli.commands import SERVER, command, option
from blip_lite.errors import MissingExtra

if TYPE_CHECKING:
    from blip.apps.serve.settings import Settings

ENGINES = {"local": ("async_batcher", "serve"), "ray": ("ray.serve", "serve,ray")}  # required module and extras
PARTS = ("prometheus_client", "python_multipart", "starlette", "uvicorn", "pydantic")


@command
def serve(
    model: o.ModelNames = (),
    allow_urls: Annotated[bool, option(help="Fetch images from addresses on the public internet.")] = False,
    api_key_file: Annotated[
        Path | None, option(metavar="FILE", help="API keys that clients must send, one per line.")
    ] = None,
    cors: Annotated[
        tuple[str, ...], option(metavar="ORIGIN", help="Origin of web pages that may call (repeatable).")
    ] = (),
    host: Annotated[str, option(group=SERVER, help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, option(min=0, max=65535, group=SERVER, help="Port; 0 for any free one.")] = 8000,
    max_batch: Annotated[int, option(min=1, max=1024, group=SERVER, help="Maximum images per batch.")] = 16,
    max_wait_ms: Annotated[
        float, option(min=0, max=1000, group=SERVER, help="How long to wait for a batch to fill, in ms.")
    ] = 5.0,
    queue: Annotated[
        int, option(min=1, group=SERVER, help="Maximum images in flight; further requests get 429.")
    ] = 256,
    timeout: Annotated[
        float, option(min=0.1, group=SERVER, help="Seconds until an unanswered request gets 504.")
    ] = 30.0,
    max_upload_mb: Annotated[
        float, option(min=0.001, group=SERVER, help="Maximum request body in MB; larger ones get 413.")
    ] = 20.0,
    max_megapixels: Annotated[float, option(min=0.001, group=SERVER, help="Refuse images of more megapixels.")] = 50.0,
    workers: Annotated[int, option(min=1, max=64, group=SERVER, help="Processes that hold the models.")] = 1,
    engine: Annotated[
        Literal["local", "ray"], option(group=SERVER, help="local (this machine) or ray (a Ray cluster).")
    ] = "local",
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
    quiet: o.Quiet = False,
) -> int:
    """Serve models over HTTP (REST, OpenAPI).

    Example: blip serve -m caption-base -m vqa-base --port 8000
    """
    _check_extras(engine)
    from blip.apps.serve.settings import MEGABYTE, Settings, read_keys
    from blip.cli.sockets import listen

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
        origins=cors,
        workers=workers,
        device=device,
        dtype=dtype,
        threads=threads,
        offline=offline,
    )
    _obtain(settings)
    if not names:
        o.note("serving the bundled models tiny and tiny-vqa; published ones are far better: -m caption-base", quiet)
    with listen(host, port) as listening:
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
    module, extras = ENGINES[engine]
    for name in (module.partition(".")[0], *PARTS):
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(f'serve --engine {engine} needs an extra: pip install "blip-vlm[{extras}]"')


def _obtain(settings: Settings) -> None:
    """Every model on disk, before several processes want it."""
    from blip.checkpoint.locate import locate, obtain
    from blip.cli.output import progress_bar

    for name in settings.models:
        location = locate(name)
        if location.entry is None or location.entry.source != "random":
            obtain(location, offline=settings.offline or None, progress=progress_bar(name))
