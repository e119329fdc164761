"""Clients that send slowly, over real sockets: they are cut off and do not keep out others."""

from __future__ import annotations

import base64
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.apps.serve.conftest import RANDOM, TIMEOUT, Served, png, serving

BODY = {"image": base64.b64encode(png()).decode(), "beams": 1}
HEAD = b"POST /v1/caption HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
CLIENTS = 100


def connect(served: Served, start: bytes, stack: ExitStack) -> socket.socket:
    raw = stack.enter_context(socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])), TIMEOUT))
    raw.sendall(start)
    return raw


def response(raw: socket.socket) -> bytes:
    """Everything the server sends until it closes the connection."""
    result = b""
    with suppress(ConnectionResetError):
        while chunk := raw.recv(4096):
            result += chunk
    return result


def test_slow_clients_are_cut_off_and_do_not_keep_out_others(tmp_path: Path) -> None:
    with serving(tmp_path, *RANDOM, "--queue", "8") as served, ExitStack() as stack:
        bodies = [connect(served, HEAD, stack) for _ in range(CLIENTS)]
        heads = [connect(served, b"POST /v1/caption HTTP/1.1\r\nX-Slow: ", stack) for _ in range(CLIENTS)]
        idle = [connect(served, b"", stack) for _ in range(3)]
        start = time.monotonic()
        while time.monotonic() - start < 4:  # below the limits
            for raw in bodies + heads:
                raw.sendall(b" ")
            assert served.post("caption", BODY).status_code == 200
            assert "blip_queue_images 0.0" in served.client.get("/metrics").text
            time.sleep(0.5)
        for raw in bodies:
            text = response(raw)
            assert text.startswith(b"HTTP/1.1 408 ") and b'"slow_body"' in text and b"connection: close" in text.lower()
        for raw in heads:
            assert response(raw).startswith(b"HTTP/1.1 408 ")
        assert [response(raw) for raw in idle] == [b""] * 3
        assert served.post("caption", BODY).status_code == 200
        assert "blip_buffered_bytes 0.0" in served.client.get("/metrics").text


def test_a_connection_with_slow_but_allowed_requests_stays_open(tmp_path: Path) -> None:
    """The time limit of headers starts again with each request."""
    with serving(tmp_path, *RANDOM) as served, ExitStack() as stack:
        raw = connect(served, b"", stack)
        for _ in range(3):
            raw.sendall(b"GET /healthz HTTP/1.1\r\n")
            time.sleep(4)
            raw.sendall(b"Host: x\r\n\r\n")
            text = b""
            while b"}" not in text:
                text += raw.recv(4096)
            assert text.startswith(b"HTTP/1.1 200 ")
