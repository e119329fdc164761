"""A worker process by itself."""

from __future__ import annotations

import subprocess
import sys

STUCK = """
import time
from blip.apps.serve.settings import Settings
from blip.apps.serve.worker import Worker

class Slow:
    def run(self, jobs):
        time.sleep(30)

worker = Worker(Settings(timeout=0.1, max_wait=0), None)
worker.models = Slow()
worker.predict([b"a job"])
"""


def test_a_batch_that_nobody_waits_for_any_more_ends_its_worker() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=25, check=False)
    assert (done.returncode, done.stderr) == (1, "a batch was not done after 0.2 s; its worker ends, another starts\n")
