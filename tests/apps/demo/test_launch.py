"""Settings of the server and its environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blip.apps.demo.launch import Settings, _environment, _no_proxy
from blip_lite.errors import UsageError


def test_ipv6_host_has_brackets_in_urls() -> None:
    assert [Settings(host=host).url_host for host in ("::1", "0.0.0.0")] == ["[::1]", "0.0.0.0"]


def test_missing_search_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--search-root .*; no such folder"):
        Settings(search_root=tmp_path / "x")


def test_environment_is_restored_and_localhost_bypasses_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "a.example")
    monkeypatch.delenv("GRADIO_SHARE", raising=False)
    with _environment({"NO_PROXY": _no_proxy(), "GRADIO_SHARE": "False"}):
        assert os.environ["NO_PROXY"] == "a.example,127.0.0.1,localhost" and os.environ["GRADIO_SHARE"] == "False"
    assert os.environ["NO_PROXY"] == "a.example" and "GRADIO_SHARE" not in os.environ
