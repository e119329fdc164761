"""`blip serve` from the command line: start-up errors and Ctrl-C. Responses: tests/apps/serve."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from tests.cli.conftest import Blip

RANDOM = ("-m", "random-tiny")
TIMEOUT = 180  # seconds; never reached, also on a busy machine


def test_help_imports_neither_torch_nor_a_web_framework() -> None:
    code = (
        "import sys; from blip.cli import main; code = main(['serve', '--help']);"
        "heavy = ('torch', 'async_batcher', 'ray', 'starlette', 'pydantic', 'PIL');"
        "print(code, [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []" and "--max-upload-mb" in done.stdout


def test_port_in_use_is_one_line_and_exit_code_4(blip: Blip) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = blip("serve", *RANDOM, "--port", str(port))
    assert result.code == 4
    assert result.err == f"blip: error: 127.0.0.1:{port}: address already in use; use another --port or --host\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--engine", "other"), 2, "--engine other; must be local or ray"),
        (("--max-batch", "0"), 2, "--max-batch 0; must be an integer from 1 to 1024"),
        (("--timeout", "1", "--max-wait-ms", "1000"), 2, "max wait 1 s; must be from 0 to below the timeout of 1 s"),
        ((*RANDOM,), 2, "models random-tiny, random-tiny; must be distinct"),
        (("--host", "no-such-host.invalid"), 2, "--host no-such-host.invalid; no such address on this machine"),
        (("--host", "192.0.2.77"), 4, "192.0.2.77:8000: cannot assign requested address"),
        (("--api-key-file", "missing"), 2, "--api-key-file missing; cannot be read (No such file or directory)"),
        (("-m", "caption-bse"), 3, "unknown model 'caption-bse'; did you mean 'caption-base'?"),
        (("-m", "caption-base", "--offline"), 3, "model 'caption-base' is not cached and --offline is set"),
        (("-m", "missing.pth"), 3, "missing.pth: no such file or folder"),
    ],
)
def test_usage_errors_are_one_line(
    blip: Blip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.setenv("BLIP_CACHE", str(tmp_path))
    result = blip("serve", *RANDOM, *args)
    assert (result.code, result.out) == (code, "")
    assert message in result.err and len(result.err.splitlines()) == 1


@pytest.mark.parametrize(("engine", "extras"), [("local", "serve"), ("ray", "serve,ray")])
def test_missing_extra_is_named(blip: Blip, monkeypatch: pytest.MonkeyPatch, engine: str, extras: str) -> None:
    module = {"local": "async_batcher", "ray": "ray"}[engine]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    result = blip("serve", "--engine", engine, *RANDOM)
    assert result.code == 4
    assert result.err == f'blip: error: serve --engine {engine} needs an extra: pip install "blip-vlm[{extras}]"\n'


def test_invalid_model_is_exit_code_3(blip: Blip, tmp_path: Path) -> None:
    import blip as package

    folder = tmp_path / "broken"
    package.load_random().save(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"surplus": 1}))
    command = [sys.executable, "-m", "blip", "serve", "-m", str(folder), "--port", "0", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("blip: error: ") and "surplus" in done.stderr and done.stderr.count("\n") == 1


def test_missing_device_is_exit_code_4() -> None:
    command = [sys.executable, "-m", "blip", "serve", *RANDOM, "--device", "cuda:99", "--port", "0", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 4
    assert done.stderr.startswith("blip: error: device 'cuda:99'") and done.stderr.count("\n") == 1


def test_worker_crash_while_loading_ends_the_server(tmp_path: Path) -> None:
    command = _with_load(tmp_path, "os._exit(9)")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        errors = _wait(process)
    assert process.returncode == 4
    assert errors.startswith("blip: error: a worker crashed while loading the models (exit code 9); if memory is short")


CTRL_C = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be blocked")


@CTRL_C
def test_ctrl_c_while_models_load_is_one_line(tmp_path: Path) -> None:
    loading = tmp_path / "loading"
    command = _with_load(tmp_path, f"open({str(loading)!r}, 'w').close(); time.sleep(600)")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        end = time.monotonic() + TIMEOUT
        while not loading.exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        errors = _wait(process)
    assert (process.returncode, errors) == (130, "blip: error: interrupted\n")


@CTRL_C
@pytest.mark.parametrize("ready", [False, True], ids=["starting", "serving"])
def test_ctrl_c_is_one_line_and_130(ready: bool) -> None:
    command = [sys.executable, "-m", "blip", "serve", *RANDOM, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        url = process.stderr.readline().removeprefix("listening on ").split()[0]
        end = time.monotonic() + TIMEOUT
        while ready and httpx2.get(f"{url}/readyz", timeout=TIMEOUT).status_code != 200:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        errors = _wait(process)
    assert (process.returncode, errors) == (130, "blip: error: interrupted\n")


def _with_load(folder: Path, load: str) -> list[str]:
    """A command that serves, with this code in place of loading models."""
    script = folder / "server.py"
    script.write_text(
        "import os, sys, time\n"
        "from blip.apps.serve.models import Models\n"
        f"def load(*args):\n    {load}\n"
        "Models.load = load\n"
        "if __name__ == '__main__':\n"
        "    from blip.cli import main\n"
        "    sys.exit(main(['serve', '-m', 'random-tiny', '--port', '0', '-q']))\n"
    )
    return [sys.executable, str(script)]


def _wait(process: subprocess.Popen[str]) -> str:
    """Standard error of a server until it ends; it is killed after TIMEOUT."""
    try:
        return process.communicate(timeout=TIMEOUT)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        raise
