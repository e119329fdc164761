"""Serves the page on this machine until somebody stops it. Nothing is sent anywhere, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from blip.apps.demo.models import Models
from blip.apps.demo.uploads import Limits
from blip.signals import stopping
from blip_lite.errors import EnvironmentProblem, MissingExtra, UsageError

QUEUE = 20  # people that wait; more are told that it is full
LOOPBACK = ("127.0.0.1", "localhost")
SETTINGS = {  # before gradio is imported: it reads them then
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SHARE": "False",
}


@dataclass(frozen=True)
class Settings:
    """`search_root`: the only folder that may be searched; without it, any by people at this machine."""

    host: str = "127.0.0.1"
    port: int = 7860
    limits: Limits = field(default_factory=Limits)
    index: Path | None = None
    search_root: Path | None = None

    @property
    def local(self) -> bool:
        return self.host in LOOPBACK

    @property
    def written_host(self) -> str:
        """As in an address, which has brackets around IPv6."""
        return f"[{self.host}]" if ":" in self.host else self.host


def check(settings: Settings) -> int:
    """The port to use; before models are loaded. Raises where the page could not be served."""
    if settings.search_root is not None and not settings.search_root.is_dir():
        raise UsageError(f"--search-root {settings.search_root}; no such folder")
    try:
        address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UsageError(f"--host {settings.host}; no such address ({error.strerror or error})") from error
    with socket.socket(address[0], socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address[4])
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise EnvironmentProblem(f"{settings.host}:{settings.port}: {reason}; use another --port") from error
        return int(probe.getsockname()[1])


def serve(models: Models, settings: Settings, port: int, ready: Callable[[str], None]) -> None:
    """Runs until SIGTERM or Ctrl-C. ready: told the page's address."""
    with (
        tempfile.TemporaryDirectory(prefix="blip-demo-", ignore_cleanup_errors=True) as scratch,
        _environment({**SETTINGS, "GRADIO_TEMP_DIR": str(Path(scratch, "files")), "NO_PROXY": _no_proxy()}),
    ):
        _serve(models, settings, port, Path(scratch), ready)


def _serve(models: Models, settings: Settings, port: int, scratch: Path, ready: Callable[[str], None]) -> None:
    try:
        import gradio as gr
    except ImportError as error:
        raise MissingExtra('the web page needs an extra: pip install "blip-vlm[demo]"') from error
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from blip.apps.demo import page
    from blip.apps.demo.folder import Folders
    from blip.apps.demo.same_origin import SameOriginOnly

    searchable = settings.local or settings.search_root is not None
    folders = Folders(settings.index or scratch / "index", settings.search_root) if searchable else None
    built = page.build(models, settings.limits, folders).queue(max_size=QUEUE, default_concurrency_limit=1)
    # another site's name that points to this machine is not this page, and another site's page is not this one
    guard = [Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK)), Middleware(SameOriginOnly)]
    guard = guard if settings.local else []
    try:
        _, address, _ = built.launch(
            server_name=settings.written_host,
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
            app_kwargs={"middleware": guard},
        )
        with stopping() as stop:
            ready(address)
            while not stop.reason:
                time.sleep(0.1)
    finally:
        gr.close_all(verbose=False)


def _no_proxy() -> str:
    """A proxy of the environment is not for this machine itself, which gradio calls to see whether it answers."""
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
