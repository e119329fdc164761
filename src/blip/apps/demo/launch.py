"""Server of the page: runs until it is stopped, calls no other machine and leaves no files behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from blip.apps.demo import calls
from blip.apps.demo.models import Models
from blip.apps.demo.uploads import Limits
from blip_lite.errors import UsageError

GRACE_SECONDS = 3.0  # for computations in progress when the server ends
MAX_QUEUE = 20  # waiting requests; further ones get an error
LOOPBACK = ("127.0.0.1", "localhost")
ENVIRONMENT = {  # set before gradio is imported, which reads it then
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SHARE": "False",
}


@dataclass(frozen=True)
class Settings:
    """Server configuration. `search_root`: the only folder that may be searched; None allows any, for local users."""

    host: str = "127.0.0.1"
    limits: Limits = field(default_factory=Limits)
    index: Path | None = None
    search_root: Path | None = None

    def __post_init__(self) -> None:
        if self.search_root is not None and not self.search_root.is_dir():
            raise UsageError(f"--search-root {self.search_root}; no such folder")

    @property
    def local(self) -> bool:
        return self.host in LOOPBACK

    @property
    def url_host(self) -> str:
        """Host as written in a URL, with brackets around IPv6."""
        return f"[{self.host}]" if ":" in self.host else self.host


class Server(uvicorn.Server):
    """Remembers whether Ctrl-C ended it."""

    interrupted = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or sig == signal.SIGINT
        super().handle_exit(sig, frame)


def serve(models: Models, settings: Settings, listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM, or Ctrl-C, which raises KeyboardInterrupt. ready: called with the address of the page.

    A computation that takes longer than `GRACE_SECONDS` ends with the process: it runs in a thread, which cannot be
    stopped.
    """
    with (
        tempfile.TemporaryDirectory(prefix="blip-demo-", ignore_cleanup_errors=True) as scratch,
        _environment({**ENVIRONMENT, "GRADIO_TEMP_DIR": str(Path(scratch, "files"))}),
    ):
        server = _server(models, settings, Path(scratch))
        # uvicorn installs the same handlers while it runs; these are for signals before and after
        previous = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ready(f"http://{settings.url_host}:{listening.getsockname()[1]}/")
            server.run(sockets=[listening])
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    if not calls.wait_until_idle(GRACE_SECONDS):
        _exit(server.interrupted)
    if server.interrupted:
        raise KeyboardInterrupt


def _exit(interrupted: bool) -> NoReturn:
    """End the process at once: an interpreter that ends while torch computes in a thread aborts (exit code 134)."""
    if interrupted:
        print("blip: interrupted", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130 if interrupted else 0)


def _server(models: Models, settings: Settings, scratch: Path) -> Server:
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from blip.apps.demo import page
    from blip.apps.demo.folder import Folders
    from blip.apps.demo.same_origin import SameOriginOnly

    searchable = settings.local or settings.search_root is not None
    folders = Folders(settings.index or scratch / "index", settings.search_root) if searchable else None
    demo = page.build(models, settings.limits, folders).queue(max_size=MAX_QUEUE, default_concurrency_limit=1)
    # reject other host names that resolve to this machine, and requests sent by pages of other sites
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK)),
        Middleware(SameOriginOnly, hosts=LOOPBACK),
    ]
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None, middleware=guards if settings.local else []),
        demo,
        path="",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=settings.limits.bytes,
        theme=page.theme(),
        css=page.CSS,
    )
    return Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=int(GRACE_SECONDS)
        )
    )


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
