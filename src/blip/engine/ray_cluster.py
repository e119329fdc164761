"""A connection to a Ray cluster, or a cluster on this machine, without Ray's own output and usage reports."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from blip.io.extras import require_extras
from blip_lite.errors import EnvironmentProblem

OBJECT_STORE = 100_000_000  # bytes, of a cluster on this machine; only names and counts pass through it
STARTS = 3  # of a cluster on this machine: Ray waits 30 s for its parts, which is too short if others use the processor
# read when Ray is imported or started: no usage report to its makers, no lines of its processes among ours, and the
# priority of this process instead of a low one, at which other programs would stop the work
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_niceness": "0",
}


@contextmanager
def connected(address: str | None, *, cpus: int | None = None, object_store: int = OBJECT_STORE) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster; by default that of RAY_ADDRESS, else one is started here.

    cpus (default: all) and object_store (bytes) are those of a cluster that is started. A connection that the caller
    has opened is used and kept. Raises `MissingExtra`, `EnvironmentProblem`.
    """
    require_extras("--engine ray", "ray")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray: Any = importlib.import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local = {"num_cpus": cpus or os.cpu_count(), "object_store_memory": object_store, "include_dashboard": False}
    try:
        start(ray, address, local if address == "local" else {})
        yield ray
    finally:
        ray.shutdown()


def start(ray: Any, address: str, options: Mapping[str, Any]) -> None:  # Any: Ray has no types
    """Connect to a cluster; one on this machine is started again if that fails. Raises `EnvironmentProblem`."""
    for attempt in range(1, STARTS + 1):
        try:
            with _kept_signals(), _muted():
                ray.init(address, log_to_driver=False, configure_logging=False, **options)
            return
        except Exception as error:  # Ray raises many kinds
            if address != "local" or attempt == STARTS:
                reason = " ".join(str(error).split())
                raise EnvironmentProblem(f"Ray cluster '{address}': cannot be used ({reason[:200]})") from error
            ray.shutdown()


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Keep this program's handlers of signals, which Ray replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    terminated = False
    try:
        yield
    except SystemExit:  # raised by Ray's handler of SIGTERM
        terminated = True
    finally:
        for number, handler in handlers.items():
            with suppress(ValueError):  # not in the main thread
                signal.signal(number, handler)
    if terminated:
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def _muted() -> Iterator[None]:
    """Discard what libraries write to standard error."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
