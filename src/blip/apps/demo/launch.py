"""Server of the page: runs until it is stopped, calls no other machine and leaves no files behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from blip.apps.demo.models import Models
from blip.apps.demo.uploads import Limits
from blip.signals import stop_on_signal
from blip_lite.errors import UsageError

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


def serve(models: Models, settings: Settings, port: int, ready: Callable[[str], None]) -> None:
    """Serve on a free port until SIGTERM or Ctrl-C. ready: called with the address of the page."""
    with (
        tempfile.TemporaryDirectory(prefix="blip-demo-", ignore_cleanup_errors=True) as scratch,
        _environment({**ENVIRONMENT, "GRADIO_TEMP_DIR": str(Path(scratch, "files")), "NO_PROXY": _no_proxy()}),
    ):
        _serve(models, settings, port, Path(scratch), ready)


def _serve(models: Models, settings: Settings, port: int, scratch: Path, ready: Callable[[str], None]) -> None:
    import gradio as gr
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
    try:
        _, address, _ = demo.launch(
            server_name=settings.url_host,
            server_port=port,
            share=False,
            quiet=True,
            show_error=True,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            prevent_thread_lock=True,
            max_file_size=settings.limits.bytes,
            theme=page.theme(),
            css=page.CSS,
            app_kwargs={"middleware": guards if settings.local else []},
        )
        with stop_on_signal() as stop:
            ready(address)
            while not stop.reason:
                time.sleep(0.1)
    finally:
        gr.close_all(verbose=False)


def _no_proxy() -> str:
    """Return NO_PROXY with this machine added: gradio calls its own server at startup."""
    return ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), *LOOPBACK]))


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
