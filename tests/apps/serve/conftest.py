"""A server as users start it, in a process of its own, and pictures to send."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest
from PIL import Image

RANDOM = ("-m", "random-tiny", "-m", "random-tiny-vqa")
START_SECONDS = 60.0


@dataclass
class Served:
    """A running server: its process, its address, and a client."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    client: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx2.Client(base_url=self.url, timeout=30)

    def post(self, verb: str, body: object) -> httpx2.Response:
        return self.client.post(f"/v1/{verb}", json=body)

    def processes(self) -> list[psutil.Process]:
        """The server and all that it has started."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


@contextmanager
def serving(folder: Path, *args: str, port: int = 0) -> Iterator[Served]:
    """`blip serve ARGS` on any free port, ended by force at the end if it still runs."""
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
        left = running.children(recursive=True) if running.is_running() else []
        for one in [*left, running]:
            if one.is_running():
                one.kill()
        process.wait(10)


def _address(process: subprocess.Popen[str], log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    while "listening on " not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    return log.read_text().split("listening on ")[1].split()[0]


def _wait_ready(served: Served) -> None:
    end = time.monotonic() + START_SECONDS
    while served.client.get("/readyz").status_code != 200:
        assert served.process.poll() is None and time.monotonic() < end, served.log.read_text()
        time.sleep(0.05)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server with random weights for all tests that need nothing else."""
    with serving(
        tmp_path_factory.mktemp("serve"), *RANDOM, "--max-upload-mb", "1", "--max-megapixels", "0.5"
    ) as served:
        yield served


def error_of(answer: httpx2.Response) -> tuple[int, str, str | None]:
    """Status, code and field of a refusal, which says why in one line."""
    error = answer.json()["error"]
    assert error["message"] and "\n" not in error["message"]
    return answer.status_code, error["code"], error.get("field")


def all_gone(processes: list[psutil.Process]) -> bool:
    """Whether all have ended, or will in a moment."""
    end = time.monotonic() + 5
    while left := [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > end:
            return False
        psutil.wait_procs(left, timeout=0.1)
    return True


def low_port() -> int:
    """A free port that no system gives away to others who ask for any."""
    for port in range(21_000, 21_100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def png(seed: int = 0, size: tuple[int, int] = (40, 48)) -> bytes:
    """A picture of noise as a file."""
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
