"""Checks of the settings before models are loaded."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from blip.apps.demo.launch import Settings, _environment, _no_proxy, check
from blip_lite.errors import EnvironmentProblem, UsageError


def test_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=f"127.0.0.1:{port}: .*in use; use another --port"):
            check(Settings(port=port))
    assert check(Settings(port=port)) == port
    assert check(Settings(port=0)) > 0


def test_ipv6_host_has_brackets_in_urls() -> None:
    assert [Settings(host=host).url_host for host in ("::1", "0.0.0.0")] == ["[::1]", "0.0.0.0"]


def test_unknown_host_and_missing_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--host no such host"):
        check(Settings(host="no such host"))
    with pytest.raises(UsageError, match=r"--search-root .*; no such folder"):
        check(Settings(port=0, search_root=tmp_path / "x"))


def test_environment_is_restored_and_localhost_bypasses_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "a.example")
    monkeypatch.delenv("GRADIO_SHARE", raising=False)
    with _environment({"NO_PROXY": _no_proxy(), "GRADIO_SHARE": "False"}):
        assert os.environ["NO_PROXY"] == "a.example,127.0.0.1,localhost" and os.environ["GRADIO_SHARE"] == "False"
    assert os.environ["NO_PROXY"] == "a.example" and "GRADIO_SHARE" not in os.environ
