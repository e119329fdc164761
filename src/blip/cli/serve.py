"""`blip serve`: the models behind HTTP."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from blip.cli import options as o
from blip.cli.commands import SERVER, command, option
from blip.io.extras import require_extras

if TYPE_CHECKING:
    from blip.apps.serve.settings import Settings

EXTRAS = {"local": ("serve",), "ray": ("serve", "ray")}


@dataclass(kw_only=True)
class ServerFlags:
    """Flags of listening, batching and limits."""

    group = SERVER
    host: o.Host = "127.0.0.1"
    port: o.Port = 8000
    max_batch: Annotated[int, option(min=1, max=1024, help="Maximum images per batch.")] = 16
    max_wait_ms: Annotated[float, option(min=0, max=1000, help="Maximum wait for a batch to fill, in ms.")] = 5.0
    queue: Annotated[int, option(min=1, help="Maximum images in flight; further requests get 429.")] = 256
    timeout: Annotated[float, option(min=0.1, help="Seconds for a body (408), then for the answer (504).")] = 30.0
    max_upload_mb: Annotated[float, option(min=0.001, help="Maximum request body in MB; larger ones get 413.")] = 20.0
    max_megapixels: o.MaxServedMegapixels = 50.0
    workers: Annotated[int, option(min=1, max=64, help="Processes that hold the models.")] = 1
    engine: Annotated[Literal["local", "ray"], option(help="local (this machine) or ray (a Ray cluster).")] = "local"


@command
def serve(
    *,
    model: o.ModelNames = (),
    allow_urls: Annotated[bool, option(help="Fetch images from addresses on the public internet.")] = False,
    api_key_file: Annotated[
        Path | None, option(metavar="FILE", help="API keys that clients must send, one per line.")
    ] = None,
    cors: Annotated[
        tuple[str, ...], option(metavar="ORIGIN", help="Origin of web pages that may call (repeatable).")
    ] = (),
    server: ServerFlags,
    run: o.Device,
) -> int:
    """Serve models over HTTP (REST, OpenAPI).

    Example: blip serve -m caption-base -m vqa-base --port 8000
    """
    require_extras(f"serve --engine {server.engine}", *EXTRAS[server.engine])
    from blip.apps.serve.settings import BUNDLED, MEGABYTE, Settings, read_keys
    from blip.cli.sockets import listen

    names = tuple(model or filter(None, [os.environ.get("BLIP_MODEL")]))
    settings = Settings(
        models=names or BUNDLED,
        max_batch=server.max_batch,
        max_wait=server.max_wait_ms / 1000,
        queue=server.queue,
        timeout=server.timeout,
        max_upload=int(server.max_upload_mb * MEGABYTE),
        max_pixels=int(server.max_megapixels * 1e6),
        allow_urls=allow_urls,
        key_digests=read_keys(api_key_file) if api_key_file is not None else (),
        origins=cors,
        workers=server.workers,
        device=run.device,
        dtype=run.dtype,
        threads=run.threads,
        offline=run.offline,
    )
    _obtain(settings)
    if not names:
        text = "serving the bundled models tiny and tiny-vqa; published ones are far better: -m caption-base"
        o.note(text, run.quiet)
    with listen(server.host, server.port) as listening:
        port = listening.getsockname()[1]
        address = f"[{server.host}]" if ":" in server.host else server.host
        text = f"listening on http://{address}:{port} (description: /openapi.json); Ctrl-C or SIGTERM ends it"
        if server.engine == "local":
            from blip.apps.serve import local

            local.run(settings, listening, lambda: o.note(text, run.quiet))
            return 0
    from blip.apps.serve import ray_app

    ray_app.run(settings, server.host, port, lambda: o.note(text, run.quiet))
    return 0


def _obtain(settings: Settings) -> None:
    """Download the models before several processes load them."""
    from blip.checkpoint.locate import locate, obtain
    from blip.cli.output import progress_bar

    for name in settings.models:
        location = locate(name)
        if location.entry is None or location.entry.source != "random":
            obtain(location, offline=settings.offline or None, progress=progress_bar(name))
