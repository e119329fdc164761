"""Settings of the server and its environment."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blip.apps.demo.launch import Settings, _environment
from blip_lite.errors import UsageError


def test_ipv6_host_has_brackets_in_urls() -> None:
    assert [Settings(host=host).url_host for host in ("::1", "0.0.0.0")] == ["[::1]", "0.0.0.0"]


def test_missing_search_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--search-root .*; no such folder"):
        Settings(search_root=tmp_path / "x")


def test_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADIO_SHARE", raising=False)
    with _environment({"GRADIO_SHARE": "False"}):
        assert os.environ["GRADIO_SHARE"] == "False"
    assert "GRADIO_SHARE" not in os.environ


BUSY = """
import os, signal, sys, threading, time
import torch
from blip.apps.demo import calls, launch
from blip.apps.demo.models import Models
from blip.cli.sockets import listen

started = threading.Event()

def compute():
    with calls.running():
        started.set()
        end = time.monotonic() + float(sys.argv[2])
        while time.monotonic() < end:
            torch.randn(600, 600) @ torch.randn(600, 600)

def ready(address):
    threading.Thread(target=compute, daemon=True).start()
    started.wait()
    print(address, flush=True)
    os.kill(os.getpid(), int(sys.argv[1]))

launch.GRACE_SECONDS = 1.0
try:
    with listen("127.0.0.1", 0) as listening:
        launch.serve(Models(()), launch.Settings(), listening, ready)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")
@pytest.mark.parametrize("seconds", ["0.1", "600"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_during_a_computation_end_cleanly(tmp_path: Path, number: int, code: int, seconds: str) -> None:
    command = [sys.executable, "-c", BUSY, str(int(number)), seconds]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=env)
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith("http://127.0.0.1:") and "Traceback" not in done.stderr
    assert list(tmp_path.glob("blip-demo-*")) == []
