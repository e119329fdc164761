"""A worker process without a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STUCK = """
import asyncio, time
from concurrent.futures.process import BrokenProcessPool
from blip.apps.serve.local import Worker
from blip.apps.serve.models import Models
from blip.apps.serve.settings import Settings

class Slow:
    def info(self):
        return ()

    def run(self, jobs):
        time.sleep(30)

async def main():
    worker = Worker(Settings(timeout=0.1, max_wait=0), 0)
    await worker.load()
    try:
        await worker.run([])
    except BrokenProcessPool:
        print(worker.exit_code())
    worker.close()

Models.load = lambda *given: Slow()
if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_batch_that_takes_too_long_kills_its_worker(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    done = subprocess.run([sys.executable, tmp_path / "stuck.py"], capture_output=True, text=True, timeout=180)
    assert (done.stdout, done.stderr) == ("-9\n", "a batch took more than 0.2 s; restarting the worker\n")
