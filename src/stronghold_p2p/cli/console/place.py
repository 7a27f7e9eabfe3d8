"""Where the page is served: on this machine alone."""

from __future__ import annotations

import ipaddress
import os
import re
import socket

from ...errors import ListenError
from ..command import UsageError

__all__ = ["Place", "listen_at", "parse_place", "url_of"]

BACKLOG = 64
PORT = re.compile("[0-9]{1,5}")
MAX_PORT = 65_535

Place = tuple[str, int]
"""An IP address and a port; 0: a free one."""


def parse_place(text: str) -> Place:
    """``8080``, ``127.0.0.1:8080``, ``[::1]:8080`` or ``localhost:8080``; an empty text is a free port.

    Raises:
        UsageError: it is none of these, or an address that other machines reach.
    """
    host, _, port = (text or "0").rpartition(":")
    if host in ("", "localhost"):
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        address = None
    if address is None or not PORT.fullmatch(port) or int(port) > MAX_PORT:
        raise UsageError(f"--console {text}: expected PORT or ADDR:PORT, such as 127.0.0.1:8080")
    if not address.is_loopback:
        raise UsageError(
            f"--console {text}: the page is for this machine alone, so the address must be a loopback one, such as"
            " 127.0.0.1; to see it on another machine, forward the port with ssh -L"
        )
    return str(address), int(port)


def listen_at(place: Place) -> socket.socket:
    """Raises ListenError: the port is taken, or the machine has no such address."""
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    try:
        listener = socket.create_server(place, family=family, backlog=BACKLOG)
    except OSError as error:
        # Python adds the address to the reason.
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise ListenError(_in_url(*place), reason) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """Without a path."""
    return f"http://{_in_url(*listener.getsockname()[:2])}"


def _in_url(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
