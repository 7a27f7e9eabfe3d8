"""The router that our traffic leaves by."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from ..transport.lookups import in_thread

__all__ = ["Gateway", "find_gateway", "parse_route", "parse_routes"]

ROUTES: Final = "/proc/net/route"

MAX_ROUTES: Final = 256 * 1024
"""Characters that are read of it, in which the default route comes first."""

ROUTE_COMMAND: Final = ("/sbin/route", "-n", "get", "default")

PATIENCE: Final = 5.0
"""Seconds for that command, which takes some milliseconds."""

RTF_UP_AND_GATEWAY: Final = 0x3  # linux/route.h

PORT: Final = 5351
"""Of PCP and NAT-PMP (RFC 6887, section 19.1)."""

SEARCH: Final = ("239.255.255.250", 1900)
"""Where UPnP devices hear searches (UPnP Device Architecture 1.1, section 1.3.2)."""


class Gateway(NamedTuple):
    """A router, as we reach it. The last two are other ones in tests."""

    address: IPv4Address
    local: IPv4Address
    """Our own address towards it."""
    port: int = PORT
    search: tuple[str, int] = SEARCH


async def find_gateway() -> Gateway:
    """The gateway of the default route. That of a VPN which leaves the default route alone is none.

    Raises:
        OSError: there is none, or the system does not tell.
    """
    if sys.platform == "linux":
        with open(ROUTES) as routes:  # noqa: ASYNC230  no file: the kernel answers at once
            address = parse_routes(routes.read(MAX_ROUTES))
    else:
        async with asyncio.timeout(PATIENCE):
            address = parse_route(await in_thread(_ask_for_route))
    if address is None:
        raise OSError("there is no default route over IPv4")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((str(address), PORT))  # sends nothing
        return Gateway(address, IPv4Address(probe.getsockname()[0]))


def parse_routes(table: str) -> IPv4Address | None:
    """The gateway in Linux's table of routes (proc_pid_net(5)): that of the default route of the smallest metric."""
    found: list[tuple[int, IPv4Address]] = []
    for line in table.splitlines()[1:]:
        match line.split():
            case [_, "00000000", gateway, flags, _, _, metric, "00000000", *_]:
                if int(flags, 16) & RTF_UP_AND_GATEWAY == RTF_UP_AND_GATEWAY:
                    found.append((int(metric), IPv4Address(int(gateway, 16).to_bytes(4, sys.byteorder))))
    return min(found)[1] if found else None


def parse_route(text: str) -> IPv4Address | None:
    """The gateway in what the command ``route`` of macOS and the BSDs prints."""
    for line in text.splitlines():
        name, _, value = line.strip().partition(": ")
        if name == "gateway":
            try:
                return IPv4Address(value.strip())
            except ValueError:  # a link, such as that of a VPN
                return None
    return None


def _ask_for_route() -> str:
    return subprocess.run(ROUTE_COMMAND, capture_output=True, text=True, check=False).stdout
