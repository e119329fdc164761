"""The page that explains the API, and the programs on it."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blip.apps.serve.examples import FIELDS, programs
from blip.apps.serve.settings import Settings
from tests.apps.serve.conftest import TIMEOUT, Served, png
from tests.apps.serve.test_app import DirectEngine, get, responses


def test_the_start_page_explains_the_server_to_programs_and_browsers() -> None:
    browser = lambda client: client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})  # noqa: E731
    program, page, docs = responses(Settings(), DirectEngine(), get("/"), browser, get("/docs"))
    index = program.json()
    assert (index["name"], index["docs"], index["openapi"]) == ("blip", "/docs", "/openapi.json")
    assert "/v1/caption" in index["endpoints"]
    assert page.text == docs.text and page.headers["content-type"].startswith("text/html")


def test_the_page_loads_nothing_and_describes_every_endpoint() -> None:
    (docs,) = responses(Settings(), DirectEngine(), get("/docs"))
    assert not re.search(r"<script|<link|<img|src=|@import|url\(", docs.text)
    assert docs.headers["content-security-policy"].startswith("default-src 'none'")
    for endpoint in FIELDS:
        assert f"POST /v1/{endpoint}" in docs.text
        for program in programs(endpoint, "http://test", with_key=False).values():
            assert html.escape(program) in docs.text
    keyed = Settings(key_digests=(b"x",))
    assert html.escape('-H "X-API-Key: KEY"') in responses(keyed, DirectEngine(), get("/docs"))[0].text


def test_host_names_are_escaped() -> None:
    attack = lambda client: client.get("/docs", headers={"Host": "a<script>"})  # noqa: E731
    assert "<script" not in responses(Settings(), DirectEngine(), attack)[0].text


def test_request_ids_are_returned() -> None:
    named = lambda client: client.post("/v1/caption", headers={"X-Request-ID": "abc"})  # noqa: E731
    (response,) = responses(Settings(), DirectEngine(), named)
    assert response.status_code == 415 and response.headers["x-request-id"] == "abc"


@pytest.mark.parametrize("endpoint", FIELDS)
@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
def test_programs_on_the_page_work(server: Served, tmp_path: Path, endpoint: str, language: str) -> None:
    program = programs(endpoint, server.url, with_key=False)[language]
    commands = {
        "curl": shlex.split(program),
        "Python": [sys.executable, "-c", program],
        "JavaScript": ["node", "--input-type=module", "--eval", program],
    }
    if shutil.which(commands[language][0]) is None:
        pytest.skip(f"needs {commands[language][0]}")
    (tmp_path / "photo.jpg").write_bytes(png())
    done = subprocess.run(commands[language], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    if language == "curl":
        record = json.loads(done.stdout)
        first = record[0] if endpoint == "match" else record
        assert first["key"] == "photo.jpg" and "error" not in first
    else:
        assert "photo.jpg" in done.stdout
