"""Listening sockets and their errors."""

from __future__ import annotations

import pytest

from blip.cli.sockets import listen
from blip_lite.errors import EnvironmentProblem, UsageError


def test_port_in_use() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert port > 0
        with pytest.raises(EnvironmentProblem, match=f"127.0.0.1:{port}: .*in use; use another --port"):
            listen("127.0.0.1", port)
    with listen("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


def test_unknown_host() -> None:
    with pytest.raises(UsageError, match="--host no such host"):
        listen("no such host", 0)
