"""Keeps other web sites out of a page that is for this machine alone."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from blip.apps.demo.launch import LOOPBACK


class SameOriginOnly:
    """Refuses what a page of another site sends here: the browser says where a request comes from."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        if origin is not None and origin.removeprefix("http://").partition(":")[0] not in LOOPBACK:
            await PlainTextResponse("only this page itself may send here", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
