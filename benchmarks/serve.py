"""`python -m benchmarks.serve`: the capacity of the server, then its behaviour at a multiple of that.

Fails (exit code 1) unless every request gets a response, every record is the right one and memory stays flat.
Client and server share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOS = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".png", ".jpg"))
TIMEOUT = 120.0  # seconds to start and to stop
MAX_GROWTH = 1.10  # of memory between the first and the last third of the overload
REFUSED = (429, 503, 504)


@dataclass
class Load:
    """Responses: statuses (0: none), seconds of served and refused requests, keys of wrong records, lost requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    wall: float = 0.0

    def percentile(self, share: float) -> float:
        return sorted(self.seconds)[int(share * (len(self.seconds) - 1))] if self.seconds else 0.0


class Client:
    """Sends photos in turn, each with a key of its own, and checks the records."""

    def __init__(self, url: str, http: httpx2.AsyncClient) -> None:
        self.url, self.http = url, http
        self.bodies = [base64.b64encode(path.read_bytes()).decode() for path in PHOTOS]
        self.texts: list[str] = []
        self.numbers = itertools.count()

    async def record_expected(self) -> None:
        """Store the caption of each photo from an idle server."""
        for number in range(len(PHOTOS)):
            self.texts.append((await self._post(number, str(number))).json()["text"])

    async def send(self, load: Load) -> None:
        number = next(self.numbers)
        key, start = f"photo-{number}", time.perf_counter()
        try:
            response = await self._post(number % len(PHOTOS), key)
        except httpx2.HTTPError as error:
            load.statuses[0] += 1
            load.lost[f"{type(error).__name__}: {error}"] += 1
            return
        elapsed = time.perf_counter() - start
        load.statuses[response.status_code] += 1
        if response.status_code != 200:
            load.refused.append(elapsed)
            return
        load.seconds.append(elapsed)
        if (response.json()["key"], response.json()["text"]) != (key, self.texts[number % len(PHOTOS)]):
            load.wrong.append(key)

    async def _post(self, photo: int, key: str) -> httpx2.Response:
        return await self.http.post(f"{self.url}/v1/caption", json={"image": self.bodies[photo], "keys": [key]})


async def closed_loop(client: Client, clients: int, seconds: float) -> Load:
    """Capacity: `clients` clients, each waiting for its response before it sends again."""
    load, end = Load(), time.perf_counter() + seconds

    async def run_client() -> None:
        while time.perf_counter() < end:
            await client.send(load)

    start = time.perf_counter()
    await asyncio.gather(*(run_client() for _ in range(clients)))
    load.wall = time.perf_counter() - start
    return load


async def open_loop(client: Client, rate: float, seconds: float, server: psutil.Process) -> Load:
    """`rate` requests per second regardless of the responses; memory is sampled twice a second."""
    load = Load()
    start = time.perf_counter()
    sent: list[asyncio.Task[None]] = []
    sampled = 0.0
    while (now := time.perf_counter() - start) < seconds:
        while len(sent) < now * rate:
            sent.append(asyncio.create_task(client.send(load)))
        if now > sampled + 0.5:
            load.memory.append(memory(server))
            sampled = now
        await asyncio.sleep(0.002)
    await asyncio.gather(*sent)
    load.wall = time.perf_counter() - start
    return load


def memory(server: psutil.Process) -> int:
    """Resident bytes of the server and its children."""
    return sum(process.memory_info().rss for process in (server, *server.children(recursive=True)))


async def measure(url: str, server: psutil.Process, options: argparse.Namespace) -> bool:
    """Print the table and return whether all requirements are met."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx2.AsyncClient(timeout=options.timeout + 30, limits=limits) as http:
        client = Client(url, http)
        await client.record_expected()
        await closed_loop(client, options.clients, options.seconds / 6)  # warms up
        base = await closed_loop(client, options.clients, options.seconds / 3)
        capacity = base.statuses[200] / base.wall
        load = await open_loop(client, options.times * capacity, options.seconds, server)
        time.sleep(1)
        after = memory(server)
        metrics = (await http.get(f"{url}/metrics")).text
    return report(base, load, capacity, after, metrics, options)


def report(base: Load, load: Load, capacity: float, after: int, metrics: str, options: argparse.Namespace) -> bool:
    third = max(1, len(load.memory) // 3)
    first, last = (sorted(part)[len(part) // 2] for part in (load.memory[:third], load.memory[-third:]))
    batch = _value(metrics, "blip_batch_size_sum") / max(1.0, _value(metrics, "blip_batch_size_count"))
    offered = sum(load.statuses.values())
    rows = {
        f"capacity, {options.clients} clients": f"{capacity:.1f} img/s",
        "  median, 99 %": f"{base.percentile(0.5):.2f}, {base.percentile(0.99):.2f} s",
        f"offered, {options.times:g} times": f"{offered} in {options.seconds:g} s ({offered / options.seconds:.1f}/s)",
        "  served (200)": f"{load.statuses[200]} ({load.statuses[200] / load.wall:.1f} img/s)",
        "  refused (429, 503, 504)": ", ".join(str(load.statuses[status]) for status in REFUSED),
        "  other statuses": str({s: n for s, n in load.statuses.items() if s not in (0, 200, *REFUSED)} or 0),
        "  no response": f"{load.statuses[0]} {dict(load.lost) or ''}".strip(),
        "  wrong records": str(len(load.wrong)),
        "  served: median, 99 %": f"{load.percentile(0.5):.2f}, {load.percentile(0.99):.2f} s",
        "  slowest refusal": f"{max(load.refused, default=0.0):.2f} s",
        "images per batch": f"{batch:.1f}",
        "memory, first and last third": f"{first / 1e6:.0f}, {last / 1e6:.0f} MB (after: {after / 1e6:.0f} MB)",
        "left in the queue": f"{_value(metrics, 'blip_queue_images'):g}",
    }
    for name, value in rows.items():
        print(f"{name:<30}{value}")
    all_answered = set(load.statuses) <= {200, *REFUSED}
    return all_answered and not load.wrong and last <= MAX_GROWTH * first and not _value(metrics, "blip_queue_images")


def _value(metrics: str, name: str) -> float:
    match = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
    return float(match[1]) if match else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="duration of the overload; measuring the capacity takes half of it"
    )
    parser.add_argument("--times", type=float, default=4.0, help="load as a multiple of the capacity")
    parser.add_argument("--clients", type=int, default=32, help="number of clients that measure the capacity")
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, help="per worker; default: the cores divided by the number of workers")
    options = parser.parse_args()
    args = ("-m", options.model, "--port", "0", "--queue", str(options.queue), "--timeout", str(options.timeout))
    threads = ("--threads", str(options.threads)) if options.threads else ()
    command = [sys.executable, "-m", "blip", "serve", *args, "--workers", str(options.workers), *threads]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"BLIP_OFFLINE": "1"})
    try:
        url = _ready(process)
        passed = asyncio.run(measure(url, psutil.Process(process.pid), options))
        process.send_signal(signal.SIGTERM)
        code = process.wait(TIMEOUT)
        print(f"{'exit code after SIGTERM':<30}{code}")
    finally:
        process.kill()
    return 0 if passed and code == 0 else 1


def _ready(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None, "is a pipe"
    line = next((line for line in process.stderr if line.startswith("listening on ")), "")
    if not line:
        raise SystemExit("the server did not start")
    url, end = line.split()[2], time.monotonic() + TIMEOUT
    while httpx2.get(f"{url}/readyz").status_code != 200:
        if time.monotonic() > end:
            raise SystemExit("the server did not become ready")
        time.sleep(0.1)
    return url


if __name__ == "__main__":
    sys.exit(main())
