"""Images of requests: fetched from URLs within limits, decoded in threads.

Only the public internet is fetched from. A host is resolved once; all of its addresses must be public; the connection
goes to the checked address, so that a second lookup cannot lead elsewhere. The same holds for every redirect. No proxy
is used.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from blip.apps.serve.jobs import Problem
from blip.apps.serve.settings import MEGABYTE
from blip_lite.errors import MissingExtra, UnreadableImage
from blip_lite.image import read, square

if TYPE_CHECKING:
    import httpx2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[str]]  # host, port -> the address to connect to
Size = tuple[int, int]  # width, height

REDIRECTS = 5
URL_SAFE = str.maketrans("-_", "+/")  # the second alphabet of base64
MAX_SIDE = 1024  # pixels; for images that are returned below a heat-map
NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_RESOLVERS = ThreadPoolExecutor(8, thread_name_prefix="resolve")  # slow name servers must not block other threads


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image as sent: the bytes of a file, base64 of them, or a URL. field: named in errors."""

    key: str
    field: str
    content: bytes | str = b""
    url: str = ""


class Decoder:
    """Threads that decode images. Their number limits how many full-size images are in memory."""

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode")

    async def decode(self, source: ImageSource, content: bytes | str, side: int | None) -> tuple[Image.Image, Size]:
        """The image as a square of `side` pixels (None: at most MAX_SIDE wide and high), and its size as sent.

        Raises UnreadableImage, and Problem if the content is not base64.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, source, content, side)

    def _decode(self, source: ImageSource, content: bytes | str, side: int | None) -> tuple[Image.Image, Size]:
        data = _from_base64(content, source.field) if isinstance(content, str) else content
        try:
            image = read(data, key=source.key, max_pixels=self.max_pixels)
        except MissingExtra as error:
            raise UnreadableImage(source.key, "is HEIC, which this server cannot read; send JPEG or PNG") from error
        size = image.size
        if side is not None:
            image = square(image, side)
        elif max(size) > MAX_SIDE:
            image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC)
        image.info.clear()  # metadata that would be sent to the worker
        return image, size


def _from_base64(text: str, field: str) -> bytes:
    """Decode base64, with or without line breaks and padding, in either alphabet, or a data URL. Raises Problem."""
    head, comma, rest = text.partition(",")
    is_data_url = comma and head.strip().lower().startswith("data:")
    if is_data_url and not head.rstrip().lower().endswith(";base64"):
        raise Problem("bad_image", f"{field}: a data URL without ';base64'", field=field)
    if text[:8].lower().startswith(("http://", "https://")):
        raise Problem("bad_image", f"{field}: a URL; must be an image file in base64", field=field)
    encoded = "".join((rest if is_data_url else text).split()).translate(URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(encoded.encode("ascii") + b"=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Problem("bad_image", f"{field}: not base64 of an image file", field=field) from error


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Downloads with a size limit; the caller limits the total time."""

    max_bytes: int
    seconds: float  # without a byte
    resolve: Resolve

    async def fetch(self, url: str) -> bytes:
        """Content of a URL. Raises Problem (422)."""
        import httpx2

        options = {"follow_redirects": False, "trust_env": False, "timeout": self.seconds}
        async with httpx2.AsyncClient(**options) as client:  # type: ignore[arg-type]
            for _ in range(REDIRECTS + 1):
                try:
                    content = await self._request(client, url)
                except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
                    raise _bad_url(url, f"cannot be fetched ({error or type(error).__name__})") from error
                if isinstance(content, bytes):
                    return content
                url = content
        raise _bad_url(url, f"more than {REDIRECTS} redirects")

    async def _request(self, client: httpx2.AsyncClient, url: str) -> bytes | str:
        """The content, or the target of a redirect."""
        import httpx2

        target = httpx2.URL(url)
        if target.scheme not in ("http", "https") or not target.host or target.userinfo:
            raise _bad_url(url, "must start with http:// or https:// and must not contain a user name")
        port = target.port if target.port is not None else (443 if target.scheme == "https" else 80)
        if not 0 < port < 65536:
            raise _bad_url(url, f"port {port}; must be from 1 to 65535")
        host = target.raw_host.decode("ascii")  # encoded by IDNA 2008; Python's own codec is that of 2003
        address = await self.resolve(host, port)
        headers = {"Host": target.netloc.decode("ascii"), "Accept-Encoding": "identity", "User-Agent": "blip"}
        request = client.build_request(
            "GET", target.copy_with(host=address), headers=headers, extensions={"sni_hostname": host}
        )
        response = await client.send(request, stream=True)
        try:
            if response.is_redirect and "location" in response.headers:
                return str(target.join(response.headers["location"]))
            if response.status_code != 200:
                raise _bad_url(url, f"the server returned status {response.status_code}")
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > self.max_bytes:
                    raise _bad_url(url, f"more than {self.max_bytes / MEGABYTE:g} MB")
            return bytes(content)
        finally:
            await response.aclose()


async def public_address(host: str, port: int) -> str:
    """First address of a host, if all of its addresses are public. Raises Problem (422)."""
    lookup = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        results = await asyncio.get_running_loop().run_in_executor(_RESOLVERS, lookup)
    except (OSError, UnicodeError) as error:
        raise _bad_url(host, "no such host") from error
    addresses = [str(sockaddr[0]) for *_, sockaddr in results]
    if not addresses or not all(is_public(ipaddress.ip_address(address)) for address in addresses):
        raise _bad_url(host, "not a public address; this server fetches from the public internet only")
    return addresses[0]


def is_public(address: Address) -> bool:
    """Whether an address, and any IPv4 address embedded in it, is reachable on the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None or address.is_site_local or any(address in network for network in NAT64):
            return False
        embedded = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if any(inner is not None for inner in embedded):
            return address.ipv4_mapped is not None and is_public(address.ipv4_mapped)
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_loopback or address.is_link_local
    )


def _bad_url(url: str, reason: str) -> Problem:
    return Problem("bad_url", f"{url[:200]}: {reason}", field="url")
