"""At four times the server's capacity every request gets a response, and its own record."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import psutil

from benchmarks.serve import REFUSED, Client, Load, closed_loop, open_loop
from tests.apps.serve.conftest import RANDOM, Served, serving


async def overload(served: Served) -> tuple[Load, Load]:
    async with httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=None)) as http:
        client = Client(served.url, http)
        await client.record_expected()
        base = await closed_loop(client, 8, 1.5)
        rate = 4 * base.statuses[200] / base.wall
        return base, await open_loop(client, rate, 3.0, psutil.Process(served.process.pid))


def test_overload_answers_every_request(tmp_path: Path) -> None:
    with serving(tmp_path, *RANDOM, "--queue", "8") as served:
        base, load = asyncio.run(overload(served))
        metrics = served.client.get("/metrics").text
    assert set(base.statuses) == {200} and not base.wrong
    assert set(load.statuses) <= {200, *REFUSED} and load.statuses[200] and load.statuses[429]
    assert not load.wrong
    assert "blip_queue_images 0.0" in metrics and "blip_buffered_bytes 0.0" in metrics
