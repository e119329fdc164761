"""Waiting for facts instead of sleeping; the limit only keeps a broken test from hanging."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

HANG_SECONDS = 900.0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[Any] | None = None) -> None:
    """Poll until the condition holds. Fails if the process has ended before that, or after HANG_SECONDS."""
    limit = time.monotonic() + HANG_SECONDS
    while True:
        ended = process is not None and process.poll() is not None
        if condition():
            return
        assert not ended, f"the process ended with {process and process.returncode}"
        assert time.monotonic() < limit, f"still waiting after {HANG_SECONDS:.0f} seconds"
        time.sleep(0.02)
