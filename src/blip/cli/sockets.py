"""Listening sockets, opened before models are loaded so that an address in use is reported at once."""

from __future__ import annotations

import socket

from blip_lite.errors import EnvironmentProblem, UsageError


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Raises UsageError for an unknown host, EnvironmentProblem if the port is not free."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}; no such address on this machine") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        reason = (error.strerror or str(error)).lower()
        raise EnvironmentProblem(f"{host}:{port}: {reason}; use another --port or --host") from error
    listening.set_inheritable(False)
    return listening
