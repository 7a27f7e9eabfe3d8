"""Dials from the port of a listener.

A NAT gives them the port by which it may let others in to that listener (RFC 5382, section 4.1): remotes observe an address
that may be of use to others, and a hole can be punched.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

__all__ = ["TAKEN", "borrow"]

LENDS: Final = sys.platform.startswith("linux")
"""Other systems lend no port that they do not lend to other programs, too, and for as long as it is listened on."""

TAKEN: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})
"""What the system says if there is a connection between the two ports already, or it remembers one that it cannot tell from a
new one."""


def borrow(listening: Iterable[socket.socket], family: int, host: str, *, always: bool) -> socket.socket | None:
    """A socket that leaves from the port of one of the ``listening`` ones: the first that takes connections to the IP address
    from which the system dials ``host``. None if there is none.

    Unless ``always`` this is for what a NAT may see: from a private address to a public one. Between two public addresses, two
    peers that dial each other at the same moment would make one connection of which each believes that it has dialed it.
    """
    candidates = [one for one in listening if LENDS and one.family == family]
    if not candidates or not (always or _is_public(host)):
        return None
    source = _source(family, host)
    if source is None or (source.is_global and not always):
        return None
    for one in candidates:
        ip = ip_address(one.getsockname()[0])
        if ip.is_unspecified or ip == source:
            return _beside(one)
    return None


def _is_public(host: str) -> bool:
    try:
        return ip_address(host).is_global
    except ValueError:
        return False  # a name


def _source(family: int, host: str) -> IPv4Address | IPv6Address | None:
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 1))  # sends nothing
        return ip_address(probe.getsockname()[0])
    return None


def _beside(listening: socket.socket) -> socket.socket | None:
    """A socket bound as the ``listening`` one is, which lends its port only in here. Linux then lets other programs of the same
    user bind it, too, if they ask for a shared port; those of other users get it no more than before."""
    # As for listening sockets: asyncio sets TCP_NODELAY where it sees this protocol.
    made = socket.socket(listening.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # it does not keep others from listening later
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the port of IPv4 may be another's
        shared = listening.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            made.bind(listening.getsockname())
        finally:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    except OSError:
        made.close()
        return None
    return made
