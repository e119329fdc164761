"""`blip serve` as a user types it: what it says when it cannot start. What it serves: tests/apps/serve."""

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

import pytest

from tests.cli.conftest import Blip

RANDOM = ("-m", "random-tiny")


def test_help_loads_neither_torch_nor_a_web_framework() -> None:
    code = (
        "import sys; from blip.cli import main; code = main(['serve', '--help']);"
        "heavy = ('torch', 'async_batcher', 'ray', 'starlette', 'pydantic', 'PIL');"
        "print(code, [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []" and "--max-upload-mb" in done.stdout


def test_a_port_in_use_is_one_line_and_4(blip: Blip) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = blip("serve", *RANDOM, "--port", str(port))
    assert said.code == 4
    assert said.err == f"blip: error: 127.0.0.1:{port}: address already in use; use another --port or --host\n"


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
def test_what_is_wrong_is_one_line(
    blip: Blip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.setenv("BLIP_CACHE", str(tmp_path))
    said = blip("serve", *RANDOM, *args)
    assert (said.code, said.out) == (code, "")
    assert message in said.err and len(said.err.splitlines()) == 1


@pytest.mark.parametrize(("engine", "extras"), [("local", "serve"), ("ray", "serve,ray")])
def test_a_missing_extra_is_named(blip: Blip, monkeypatch: pytest.MonkeyPatch, engine: str, extras: str) -> None:
    module = {"local": "async_batcher", "ray": "ray"}[engine]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    said = blip("serve", "--engine", engine, *RANDOM)
    assert said.code == 4
    assert said.err == f'blip: error: serve --engine {engine} needs an extra: pip install "blip-vlm[{extras}]"\n'


def test_a_model_that_does_not_load_ends_the_server_with_3(blip: Blip, tmp_path: Path) -> None:
    import blip as package

    folder = tmp_path / "broken"
    package.load_random().save(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"surplus": 1}))
    command = [sys.executable, "-m", "blip", "serve", "-m", str(folder), "--port", "0", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("blip: error: ") and "surplus" in done.stderr and done.stderr.count("\n") == 1


def test_a_device_that_is_not_there_is_4_as_with_other_verbs() -> None:
    command = [sys.executable, "-m", "blip", "serve", *RANDOM, "--device", "cuda:99", "--port", "0", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert done.stderr.startswith("blip: error: device 'cuda:99'") and done.stderr.count("\n") == 1


def test_a_worker_that_dies_while_it_loads_ends_the_server(tmp_path: Path) -> None:
    command = _with_load(tmp_path, "os._exit(9)")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        said = _ended(process)
    assert process.returncode == 4
    assert said.startswith("blip: error: a worker crashed while loading the models (exit code 9); if memory is short")


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signals that can be held back")
def test_ctrl_c_while_models_load_is_one_line(tmp_path: Path) -> None:
    loading = tmp_path / "loading"
    command = _with_load(tmp_path, f"open({str(loading)!r}, 'w').close(); time.sleep(120)")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        end = time.monotonic() + 60
        while not loading.exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        said = _ended(process)
    assert (process.returncode, said) == (130, "blip: error: interrupted\n")


def _with_load(folder: Path, load: str) -> list[str]:
    """A command that serves, whose every process does this instead of loading models."""
    script = folder / "server.py"
    script.write_text(
        "import os, sys, time\n"
        "from blip.apps.serve.models import Models\n"
        f"def load(*given):\n    {load}\n"
        "Models.load = load\n"
        "if __name__ == '__main__':\n"
        "    from blip.cli import main\n"
        "    sys.exit(main(['serve', '-m', 'random-tiny', '--port', '0', '-q']))\n"
    )
    return [sys.executable, str(script)]


def _ended(process: subprocess.Popen[str]) -> str:
    """What a server said on standard error until it ended by itself; one that does not is killed."""
    try:
        return process.communicate(timeout=30)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        raise
