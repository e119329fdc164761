"""A server in a process of its own, as users start it, and images to send."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.waiting import HANG_SECONDS

RANDOM = ("-m", "random-tiny", "-m", "random-tiny-vqa")
TIMEOUT = HANG_SECONDS  # never reached, also on a busy machine


@dataclass
class Served:
    """A running server: its process, its address, and a client."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    client: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx2.Client(base_url=self.url, timeout=TIMEOUT)

    def post(self, endpoint: str, body: object) -> httpx2.Response:
        return self.client.post(f"/v1/{endpoint}", json=body)

    def processes(self) -> list[psutil.Process]:
        """The server process and all of its children."""
        server = psutil.Process(self.process.pid)
        return [server, *server.children(recursive=True)]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT)


@contextmanager
def serving(folder: Path, *args: str, port: int = 0) -> Iterator[Served]:
    """`blip serve ARGS` on a free port; killed at the end if it is still running."""
    log = folder / "log"
    env = {name: value for name, value in os.environ.items() if not name.startswith("BLIP_")}
    with log.open("w") as err:
        command = [sys.executable, "-m", "blip", "serve", "--port", str(port), "--threads", "1", *args]
        process = subprocess.Popen(command, stdout=err, stderr=err, text=True, env=env)
    running = psutil.Process(process.pid)
    try:
        served = Served(process, _address(process, log), log)
        _wait_ready(served)
        yield served
        served.client.close()
    finally:
        children = running.children(recursive=True) if running.is_running() else []
        for remaining in [*children, running]:
            with suppress(psutil.NoSuchProcess):
                remaining.kill()
        process.wait(TIMEOUT)


def _address(process: subprocess.Popen[str], log: Path) -> str:
    end = time.monotonic() + TIMEOUT
    while "listening on " not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    return log.read_text().split("listening on ")[1].split()[0]


def _wait_ready(served: Served) -> None:
    end = time.monotonic() + TIMEOUT
    while served.client.get("/readyz").status_code != 200:
        assert served.process.poll() is None and time.monotonic() < end, served.log.read_text()
        time.sleep(0.05)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with random weights, shared by all tests that need nothing else."""
    with serving(
        tmp_path_factory.mktemp("serve"), *RANDOM, "--max-upload-mb", "1", "--max-megapixels", "0.5"
    ) as served:
        yield served


def error_of(response: httpx2.Response) -> tuple[int, str, str | None]:
    """Status, code and field of a refusal, whose message is one line."""
    error = response.json()["error"]
    assert error["message"] and "\n" not in error["message"]
    return response.status_code, error["code"], error.get("field")


def all_gone(processes: list[psutil.Process]) -> bool:
    """Whether all processes end, or have ended."""
    end = time.monotonic() + TIMEOUT
    while any(_is_alive(process) for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def low_port() -> int:
    """A free port below the range from which systems assign ports."""
    for port in range(21_000, 21_100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def png(seed: int = 0, size: tuple[int, int] = (40, 48)) -> bytes:
    """PNG file of random pixels."""
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
