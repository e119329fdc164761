"""At four times the server's capacity every request gets a response, and its own record."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import psutil

from benchmarks.serve import REFUSED, Client, Load, closed_loop, open_loop
from tests.apps.serve.conftest import RANDOM, TIMEOUT, Served, serving


async def overload(served: Served) -> tuple[Load, Load, Load]:
    async with httpx2.AsyncClient(timeout=TIMEOUT, limits=httpx2.Limits(max_connections=None)) as http:
        client = Client(served.url, http)
        await client.record_expected()
        base = await closed_loop(client, 8, 1.5)
        rate = 4 * base.statuses[200] / base.wall
        load = await open_loop(client, rate, 3.0, psutil.Process(served.process.pid))
        burst = Load()  # more at once than fit, whatever the pace of this machine
        await asyncio.gather(*(client.send(burst) for _ in range(64)))
        return base, load, burst


def test_overload_answers_every_request(tmp_path: Path) -> None:
    with serving(tmp_path, *RANDOM, "--queue", "8") as served:
        base, load, burst = asyncio.run(overload(served))
        metrics = served.client.get("/metrics").text
    assert set(base.statuses) == {200} and not base.wrong
    for result in (load, burst):
        assert set(result.statuses) <= {200, *REFUSED} and result.statuses[200] and not result.wrong
    assert burst.statuses[429]
    assert "blip_queue_images 0.0" in metrics and "blip_buffered_bytes 0.0" in metrics
