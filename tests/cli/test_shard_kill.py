"""Runs over shards that are killed at any moment, restarted by the same command, end with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.data.test_sources import tar_sample, write_tar
from tests.waiting import HANG_SECONDS, wait_until

SHARDS, IMAGES = 8, 12
RAY = ("--engine", "ray", "--actors", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(SHARDS):
        members = [member for i in range(IMAGES) for member in tar_sample(f"{i:03}", shade=20 * i + number)]
        write_tar(folder / f"{number}.tar", [*members, (f"{IMAGES:03}.png", b"\x89PNG\r\n\x1a\n")])
    return folder


@pytest.fixture(scope="module")
def expected(data: Path) -> dict[str, bytes]:
    """Files of an undisturbed run in one process."""
    finish(start(data, "expected"))
    return files(data / "expected")


def start(data: Path, output: str, *flags: str) -> subprocess.Popen[str]:
    shards = [f"{number}.tar" for number in range(SHARDS)]
    command = ["caption", *shards, "-m", "random-tiny", "--sample", "-n", "3", "--threads", "1", "--no-progress"]
    command += ["-o", f"{output}/", *flags]
    return subprocess.Popen(
        [sys.executable, "-m", "blip", *command], cwd=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a run; nothing but its own summary is printed."""
    out, err = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 1 and out == "", err
    assert f"{SHARDS} shards" in err and f"{SHARDS * IMAGES} done, {SHARDS} failed" in err
    assert len(err.splitlines()) == 2, err  # the summary and one reason


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def kill_after(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    wait_until(condition, process)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_one_process_killed_again_and_again(data: Path, expected: dict[str, bytes]) -> None:
    rng = random.Random(0)
    for number in range(1, SHARDS):
        process = start(data, "local")
        wait_until(lambda count=number: len(files(data / "local")) >= count, process)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
    finish(start(data, "local"))
    assert files(data / "local") == expected
    assert not list((data / "local").glob(".*")), "killed runs left files"


@pytest.mark.slow
def test_ray_with_a_worker_killed_and_then_everything(data: Path, expected: dict[str, bytes]) -> None:
    pytest.importorskip("ray.data")
    process = start(data, "ray", *RAY)
    try:
        wait_until(lambda: len(files(data / "ray")) >= 1, process)
        os.kill(workers(process)[0].pid, signal.SIGKILL)
        count = len(files(data / "ray"))
        kill_after(process, lambda: len(files(data / "ray")) > count)
        finish(start(data, "ray", *RAY))
    finally:
        process.kill()
    assert files(data / "ray") == expected


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Processes of a run that hold the models."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "MapWorker" in " ".join(child.cmdline())]
