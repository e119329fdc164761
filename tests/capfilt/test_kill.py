"""A run that is killed at any moment and started again ends with the bytes of an undisturbed one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.test_sources import tar_sample, write_tar

pytest.importorskip("pyarrow")

# Each line of standard output is the exit of a process that ran to the end, or that was killed before its n-th step.
# The processes are forked, so that torch is imported once.
SCRIPT = """
import os, random, signal, sys
import blip.capfilt, blip.capfilt.models
from blip.capfilt import score_file
from blip.io import atomic
from blip_lite.image import read

data, output, whole = sys.argv[1].split(","), *sys.argv[2:]
steps = 0

def counted(module, name, kill_before):
    original = getattr(module, name)
    def call(*args, **options):
        step(kill_before)
        result = original(*args, **options)
        step(kill_before)
        return result
    setattr(module, name, call)

def step(kill_before):
    global steps
    steps += 1
    if steps == kill_before:
        os.kill(os.getpid(), signal.SIGKILL)

def run(output, kill_before=0):
    process = os.fork()
    if not process:
        for module, name in ((score_file.ScoreFile, "add"), (score_file.ScoreFile, "write"), (atomic.os, "replace")):
            counted(module, name, kill_before)
        options = dict(captioner="random-tiny", filter="random-tiny", device="cpu", threads=1, workers=1, batch_size=2)
        blip.capfilt.run(data, output, **options)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))

run(whole)
for kill_before in (1, 3, 6, 13, 15, 17, 18, 19, 21, 23):
    run(output, kill_before)
run(output)
"""


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_runs_end_with_the_bytes_of_an_undisturbed_run(tmp_path: Path) -> None:
    data = [
        write_tar(tmp_path / f"{n}.tar", [m for i in range(5) for m in tar_sample(f"{i}", i, caption=f"text {i}")])
        for n in range(4)
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    call = [sys.executable, "-c", SCRIPT, ",".join(map(str, data)), str(killed), str(whole)]
    done = subprocess.run(call, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True)
    codes = done.stdout.decode().split()
    assert codes[0] == codes[-1] == "0" and codes[1:-1].count("-9") >= 8, done.stderr.decode()
    assert files(killed) == files(whole) and len(files(whole)) == 6


def files(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
