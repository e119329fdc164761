"""`blip demo`, without the page itself."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Blip


@pytest.fixture(autouse=True)
def installed() -> None:
    for name in ("gradio", "usearch"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


def test_usage_errors_are_one_line_before_a_model_is_loaded(blip: Blip, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for args, code, message in (
            (("--port", str(taken.getsockname()[1])), 4, "use another --port"),
            (("--port", "0", "--search-root", tmp_path / "x"), 2, "no such folder"),
            (("--port", "70000"), 2, "--port 70000; must be an integer from 0 to 65535"),
            (("--port", "0", "-m", "tinny"), 3, "unknown model 'tinny'"),
        ):
            result = blip("demo", *args)
            assert (result.code, result.out) == (code, "") and message in result.err
            assert len(result.err.splitlines()) == 1


def test_a_missing_extra_is_named(blip: Blip, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else find(name, *rest)
    )
    result = blip("demo")
    assert result.code == 4 and 'pip install "blip-vlm[demo]"' in result.err


def test_help_needs_neither_torch_nor_gradio() -> None:
    heavy = "bool({'torch', 'gradio'} & {*sys.modules})"
    code = f"import sys; from blip.cli import main; main(['demo', '--help']); sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
