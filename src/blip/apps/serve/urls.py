"""Images behind addresses that strangers name: fetched only from the public internet, within limits.

A host is resolved once; every one of its addresses must be public; the connection goes to the address that was
checked, so that a second look-up cannot lead elsewhere. The same holds for every redirect. No proxy is used.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blip.apps.serve.problems import Problem
from blip.apps.serve.settings import MEGABYTE

if TYPE_CHECKING:
    import httpx2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[str]]  # host, port -> the address to connect to

REDIRECTS = 5
# threads of their own: names that are slow to resolve must not hold up those that everything else needs
_RESOLVERS = ThreadPoolExecutor(8, thread_name_prefix="resolve")
NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches with a limit of bytes; the caller limits the time."""

    max_bytes: int
    seconds: float  # without a byte
    resolve: Resolve

    async def fetch(self, url: str) -> bytes:
        """What lies behind a URL. Raises Problem 422 with the reason why not."""
        import httpx2

        settings = {"follow_redirects": False, "trust_env": False, "timeout": self.seconds}
        async with httpx2.AsyncClient(**settings) as client:  # type: ignore[arg-type]
            for _ in range(REDIRECTS + 1):
                try:
                    found = await self._try(client, url)
                except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
                    raise _bad(url, f"cannot be fetched ({error or type(error).__name__})") from error
                if isinstance(found, bytes):
                    return found
                url = found
        raise _bad(url, f"more than {REDIRECTS} redirects")

    async def _try(self, client: httpx2.AsyncClient, url: str) -> bytes | str:
        """The bytes, or the next address of a redirect."""
        import httpx2

        target = httpx2.URL(url)
        if target.scheme not in ("http", "https") or not target.host or target.userinfo:
            raise _bad(url, "must start with http:// or https:// and hold no user name")
        port = target.port if target.port is not None else (443 if target.scheme == "https" else 80)
        if not 0 < port < 65536:
            raise _bad(url, f"port {port}; must be from 1 to 65535")
        host = target.raw_host.decode("ascii")  # Python's own way from other letters is that of 2003
        address = await self.resolve(host, port)
        headers = {"Host": target.netloc.decode("ascii"), "Accept-Encoding": "identity", "User-Agent": "blip"}
        request = client.build_request(
            "GET", target.copy_with(host=address), headers=headers, extensions={"sni_hostname": host}
        )
        answer = await client.send(request, stream=True)
        try:
            if answer.is_redirect and "location" in answer.headers:
                return str(target.join(answer.headers["location"]))
            if answer.status_code != 200:
                raise _bad(url, f"the server answers {answer.status_code}")
            return await self._body(answer, url)
        finally:
            await answer.aclose()

    async def _body(self, answer: httpx2.Response, url: str) -> bytes:
        data = bytearray()
        async for part in answer.aiter_raw():
            data += part
            if len(data) > self.max_bytes:
                raise _bad(url, f"more than {self.max_bytes / MEGABYTE:g} MB")
        return bytes(data)


async def public_address(host: str, port: int) -> str:
    """The first address of a host, when all of them are public. Raises Problem 422 otherwise."""
    ask = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(_RESOLVERS, ask)
    except (OSError, UnicodeError) as error:
        raise _bad(host, "no such host") from error
    addresses = [str(sockaddr[0]) for *_, sockaddr in found]
    if not addresses or not all(is_public(ipaddress.ip_address(address)) for address in addresses):
        raise _bad(host, "not a public address; this server fetches from the public internet only")
    return addresses[0]


def is_public(address: Address) -> bool:
    """Whether an address, and any IPv4 address inside it, is reachable on the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None or address.is_site_local or any(address in network for network in NAT64):
            return False
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if any(inside is not None for inside in inner):
            return address.ipv4_mapped is not None and is_public(address.ipv4_mapped)
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_loopback or address.is_link_local
    )


def _bad(url: str, reason: str) -> Problem:
    return Problem("bad_url", f"{url[:200]}: {reason}", field="url")
