"""Middleware that rejects requests from other web sites."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class SameOriginOnly:
    """Answers 403 to requests whose `Origin`, which browsers send, is not `http://` and one of the hosts."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        if origin is not None and origin.removeprefix("http://").partition(":")[0] not in self.hosts:
            await PlainTextResponse("cross-origin requests are not allowed", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
