"""Four times what the server can do: nobody is left without an answer, nobody gets another's record."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import psutil

from benchmarks.serve import REFUSED, Client, Load, closed, opened
from tests.apps.serve.conftest import RANDOM, Served, serving


async def overload(served: Served) -> tuple[Load, Load]:
    async with httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=None)) as http:
        client = Client(served.url, http)
        await client.learn()
        base = await closed(client, 8, 1.5)
        rate = 4 * base.statuses[200] / base.wall
        return base, await opened(client, rate, 3.0, psutil.Process(served.process.pid))


def test_at_four_times_its_capacity_every_request_gets_an_answer(tmp_path: Path) -> None:
    with serving(tmp_path, *RANDOM, "--queue", "8") as served:
        base, load = asyncio.run(overload(served))
        figures = served.client.get("/metrics").text
    assert set(base.statuses) == {200} and not base.wrong
    assert set(load.statuses) <= {200, *REFUSED} and load.statuses[200] and load.statuses[429]
    assert not load.wrong
    assert "blip_queue_images 0.0" in figures and "blip_buffered_bytes 0.0" in figures
