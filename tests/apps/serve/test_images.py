"""URLs: only the public internet is fetched from, within limits."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from blip.apps.serve import images
from blip.apps.serve.jobs import Problem
from tests.apps.serve.conftest import png

PHOTO = png()


class Site(BaseHTTPRequestHandler):
    """A photo, redirects, a large response, and 404."""

    def do_GET(self) -> None:
        redirects = {
            "/redirect": "/a.png",
            "/internal": "http://127.0.0.1:1/a.png",
            "/loop": "/loop",
            "/file": "file:///etc/passwd",
        }
        if self.path in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[self.path])
            self.end_headers()
            return
        self.send_response(200 if self.path in ("/a.png", "/big") else 404)
        self.end_headers()
        self.wfile.write(PHOTO if self.path == "/a.png" else b"x" * 200_000)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_port
        site.shutdown()


def fetch(url: str, *, max_bytes: int = 100_000) -> bytes:
    """Fetch with a resolver for which photos.example is a public host, served by `Site`."""

    async def resolve(host: str, port: int) -> str:
        return "127.0.0.1" if host == "photos.example" else await images.public_address(host, port)

    return asyncio.run(images.Fetcher(max_bytes, 5.0, resolve).fetch(url))


@pytest.mark.parametrize("path", ["a.png", "redirect"])
def test_connects_to_the_checked_address(port: int, path: str) -> None:
    assert fetch(f"http://photos.example:{port}/{path}") == PHOTO


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("internal", "127.0.0.1: not a public address"),
        ("file", "must start with http"),
        ("loop", "more than 5 redirects"),
        ("big", "more than 0.1 MB"),
        ("none", "the server returned status 404"),
    ],
)
def test_redirects_and_sizes_are_checked(port: int, path: str, reason: str) -> None:
    with pytest.raises(Problem, match=reason) as caught:
        fetch(f"http://photos.example:{port}/{path}")
    assert (caught.value.status, caught.value.field) == (422, "url")


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/a.png",
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::]/",
        "http://0.0.0.0/",
        "http://10.1.2.3/",
        "http://192.168.0.1/",
        "http://172.16.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://100.64.0.1/",
        "http://[fe80::1]/",
        "http://[fc00::1]/",
        "http://224.0.0.1/",
        "http://[ff02::1]/",
        "http://240.0.0.1/",
        "http://user:pass@photos.example/",
        "ftp://photos.example/",
        "//photos.example",
        "http://",
        "nonsense",
        "http://no-such-host.invalid/",
        "http://photos.example:99999/",
        "http://a\x00b/",
        "http://[::1",
    ],
)
def test_internal_addresses_are_never_fetched(url: str) -> None:
    with pytest.raises(Problem) as caught:
        fetch(url)
    assert caught.value.code == "bad_url" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("::ffff:93.184.216.34", True),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:1::1", False),
        ("fec0::1", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("255.255.255.255", False),
        ("fe80::1%eth0", False),
    ],
)
def test_is_public(address: str, public: bool) -> None:
    assert images.is_public(ipaddress.ip_address(address)) is public


def test_host_names_are_encoded_by_idna_2008() -> None:
    """German sharp s is a letter of its own in IDNA 2008, and became "ss" in IDNA 2003."""
    hosts = []

    async def resolve(host: str, port: int) -> str:
        hosts.append(host)
        raise Problem("bad_url", "resolved")

    with pytest.raises(Problem, match="resolved"):
        asyncio.run(images.Fetcher(1000, 5.0, resolve).fetch("http://straße.example/"))
    assert hosts == ["xn--strae-oqa.example"]


def test_slow_name_resolution_does_not_block_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        end.wait(180)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", hang)

    async def run() -> None:
        waiting = [asyncio.create_task(images.public_address("slow.example", 80)) for _ in range(64)]
        await asyncio.sleep(0)  # starts all lookups
        async with asyncio.timeout(90):  # fails if the default threads wait for name resolution
            await asyncio.to_thread(len, "text")
        end.set()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(run())
