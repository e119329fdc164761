"""Runs over shards that are killed at any moment, restarted by the same command, end with the same bytes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.data.test_sources import tar_sample, write_tar
from tests.waiting import HANG_SECONDS, wait_until

KILLS = 10
SHARDS, IMAGES = KILLS + 1, 12
RAY = ("--engine", "ray", "--actors", "2")
COMMANDS = {
    "caption": ("caption", "-m", "random-tiny", "--sample", "-n", "3"),
    "capfilt": ("capfilt", "run", "--captioner", "random-tiny", "--filter", "random-tiny", "--captions", "2"),
}
COUNTS = {"caption": f"{SHARDS * IMAGES} done, {SHARDS} failed", "capfilt": f"{SHARDS * (IMAGES + 1)} images, "}


@dataclass(frozen=True)
class Job:
    """A command over shards in the folder `data`; every shard has one broken image."""

    name: str
    data: Path

    def start(self, output: str, *flags: str) -> subprocess.Popen[str]:
        shards = [f"{number}.tar" for number in range(SHARDS)]
        command = [*COMMANDS[self.name], *shards, "--threads", "1", "--no-progress", "-o", f"{output}/", *flags]
        return subprocess.Popen(
            [sys.executable, "-m", "blip", *command],
            cwd=self.data,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> None:
        """Wait for a run; nothing but its own summary is printed."""
        out, err = process.communicate(timeout=HANG_SECONDS)
        assert process.returncode == 1 and out == "", err
        assert f"{SHARDS} shards" in err and COUNTS[self.name] in err and f"{SHARDS} failed: truncated" in err
        assert len(err.splitlines()) == 2, err  # the summary and one reason

    def files(self, output: str) -> dict[str, bytes]:
        """All files of an output, also hidden ones and those that a killed run has left."""
        folder = self.data / output
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def done(self, output: str) -> int:
        """Number of finished shards."""
        return sum(1 for path in (self.data / output).rglob("*.parquet") if ".part" not in str(path))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(SHARDS):
        images = [tar_sample(f"{i:03}", shade=20 * i + number, caption=f"text {i}") for i in range(IMAGES)]
        broken = (f"{IMAGES:03}.png", b"\x89PNG\r\n\x1a\n")
        write_tar(folder / f"{number}.tar", [*(member for members in images for member in members), broken])
    return folder


@pytest.fixture(scope="module", params=COMMANDS)
def job(request: pytest.FixtureRequest, data: Path) -> Job:
    return Job(request.param, data)


@pytest.fixture(scope="module")
def expected(job: Job) -> dict[str, bytes]:
    """Files of an undisturbed run in one process."""
    job.finish(job.start(f"{job.name}-expected"))
    return job.files(f"{job.name}-expected")


@pytest.mark.slow
def test_one_process_killed_ten_times(job: Job, expected: dict[str, bytes]) -> None:
    output, rng = f"{job.name}-local", random.Random(0)
    for number in range(KILLS):
        process = job.start(output)
        wait_until(lambda count=number: job.done(output) >= count, process)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
    job.finish(job.start(output))
    assert job.files(output) == expected and len(expected) == SHARDS + 2


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["nothing", "a worker", "the run"])
def test_ray_with_two_workers(job: Job, expected: dict[str, bytes], loss: str) -> None:
    pytest.importorskip("ray.data")
    output = f"{job.name}-{loss.replace(' ', '-')}"
    process = job.start(output, *RAY)
    children: list[psutil.Process] = []
    try:
        wait_until(lambda: job.done(output) >= 1, process)
        children = psutil.Process(process.pid).children(recursive=True)
        if loss == "a worker":
            os.kill(next(child.pid for child in children if "MapWorker" in " ".join(child.cmdline())), signal.SIGKILL)
        if loss == "the run":
            kill([process, *children])
            process.communicate()
            assert job.done(output) < SHARDS
            process = job.start(output, *RAY)
        job.finish(process)
    finally:
        kill([process, *children])
    assert job.files(output) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_an_interrupted_run_names_how_to_continue(
    job: Job, expected: dict[str, bytes], engine: str, number: signal.Signals
) -> None:
    if engine == "ray":
        pytest.importorskip("ray.data")
    output, flags = f"{job.name}-{engine}-{number.name}", RAY if engine == "ray" else ()
    process = job.start(output, *flags)
    children: list[psutil.Process] = []
    try:
        wait_until(lambda: job.done(output) >= 1, process)
        children = psutil.Process(process.pid).children(recursive=True)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        err = process.communicate(timeout=HANG_SECONDS)[1]
        hidden = list((job.data / output).rglob(".*"))  # locks, and folders of files that are not complete
        reason = "interrupted" if number == signal.SIGINT else "terminated"
        match = re.fullmatch(rf"blip: error: {reason}; (\d+) of {SHARDS} shards are done, the same command.*\n", err)
        assert process.returncode == 128 + number and match is not None, err
        assert int(match[1]) == job.done(output) < SHARDS and hidden == []
        wait_until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    finally:
        kill([process, *children])
    job.finish(job.start(output))
    assert job.files(output) == expected


def kill(processes: list[psutil.Process | subprocess.Popen[str]]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
