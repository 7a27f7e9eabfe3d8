"""Port mapping by UPnP (UPnP Internet Gateway Device, WANIPConnection), in threads: ``miniupnpc`` blocks.

The search is ours. ``miniupnpc`` would open the URL of whatever answers, and bounds neither the size nor the time of
what comes from there; so it is given that of the router alone, through which all of our traffic passes anyway.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address
from typing import Any, Final, Protocol, TypeVar, cast

from ..errors import PortMappingError
from ..transport.lookups import in_thread
from .gateway import Gateway
from .mapping import LIFETIME, PortMapping
from .ssdp import KINDS, encode_search, find_location, is_at

__all__ = ["Device", "Upnp"]

T = TypeVar("T")

PATIENCE: Final = 15.0
"""Seconds for all questions about one port: a search, and up to eight requests over HTTP, each with its connection."""

SEARCH_WAITS: Final = (1.5, 1.5)
"""Seconds after each time that the search is sent: devices take up to one to answer."""

MAX_ANSWER: Final = 2048
"""Bytes of an answer to the search that are read; usual ones have 400."""

HOPS: Final = 2
"""Of the search (UPnP Device Architecture 1.1, section 1.3.2)."""

DESCRIPTION: Final = "stronghold-p2p"
"""What the router shows to who looks at its mappings."""


class Device(Protocol):
    """``miniupnpc.UPnP``, as far as it is used. Each method raises ``Exception`` with a text."""

    def selectigd(self, url: str, /) -> str | None: ...
    def externalipaddress(self) -> str: ...
    def getspecificportmapping(self, external_port: int, protocol: str, /) -> tuple[Any, ...] | None: ...
    def addportmapping(
        self,
        external_port: int,
        protocol: str,
        host: str,
        port: int,
        description: str,
        remote_host: str,
        lifetime: int,
        /,
    ) -> bool: ...
    def deleteportmapping(self, external_port: int, protocol: str, /) -> bool: ...


def _make_device() -> Device:
    """Raises ImportError."""
    import miniupnpc  # type: ignore[import-not-found,import-untyped,unused-ignore]  # an extra, and without types

    return cast(Device, miniupnpc.UPnP())


class Upnp:
    """By UPnP."""

    name = "UPnP"

    def __init__(self, gateway: Gateway, make_device: Callable[[], Device] = _make_device) -> None:
        self._gateway = gateway
        self._make_device = make_device
        self._at_work = threading.Lock()
        self._device: Device | None = None
        self._external_ports: dict[int, int] = {}
        """Of mappings that there may be, by our ports. These two belong to the thread that is at work."""
        self.lost = False

    async def map(self, port: int, former: PortMapping | None) -> PortMapping:
        return await self._run(partial(self._map, port, former))

    async def unmap(self, port: int) -> None:
        with suppress(PortMappingError):
            await self._run(partial(self._unmap, port))

    async def check(self) -> None:
        self.lost = True  # routers tell nothing of that: all are mapped again

    async def _run(self, job: Callable[[], T]) -> T:
        """Raises PortMappingError."""

        def work() -> T:
            if not self._at_work.acquire(timeout=PATIENCE):  # the thread before is stuck
                raise TimeoutError
            try:
                return job()
            finally:
                self._at_work.release()

        try:
            async with asyncio.timeout(PATIENCE):
                return await in_thread(work)
        except PortMappingError:
            raise
        except OSError as error:
            reason = f": {error.strerror.lower()}" if error.strerror else ""
            raise self._silent(reason) from error
        except Exception as error:  # miniupnpc has no types of its own
            raise PortMappingError(self.name, f"the router refuses: {error}") from error

    def _silent(self, reason: str = "") -> PortMappingError:
        return PortMappingError(self.name, f"no answer from {self._gateway.address}{reason}", answered=False)

    # -- in a thread -----------------------------------------------------------------------------

    def _map(self, port: int, former: PortMapping | None) -> PortMapping:
        device = self._device or self._find()
        self._device = None  # searched anew, unless all goes well
        external = IPv4Address(device.externalipaddress())
        local = str(self._gateway.local)
        refusal: object = "the ports that were tried are taken"
        for external_port in (former.external_port if former else port, random.randint(1024, 65535)):
            holder = device.getspecificportmapping(external_port, "TCP")
            if holder is not None and holder[:2] != (local, port):
                continue  # some routers would take it away from who has it
            for lifetime in (LIFETIME, 0):  # some know permanent ones alone, and few say so by the right code
                self._external_ports[port] = external_port
                try:
                    device.addportmapping(external_port, "TCP", local, port, DESCRIPTION, "", lifetime)
                except Exception as error:  # noqa: BLE001  miniupnpc has no types of its own
                    refusal = error
                else:
                    self._device = device
                    return PortMapping(external, external_port, LIFETIME)
        self._external_ports.pop(port, None)
        raise PortMappingError(self.name, f"the router refuses: {refusal}")

    def _unmap(self, port: int) -> None:
        external_port = self._external_ports.pop(port, None)
        if external_port is not None:
            (self._device or self._find()).deleteportmapping(external_port, "TCP")

    def _find(self) -> Device:
        """Raises PortMappingError."""
        try:
            device = self._make_device()
        except ImportError:
            reason = "needs the package miniupnpc: install the extra upnp (in a clone: pip install '.[upnp]')"
            raise PortMappingError(self.name, reason, answered=False) from None
        control = device.selectigd(self._search())
        if control is None or not is_at(control, self._gateway.address):
            raise PortMappingError(self.name, "the router describes no connection that it controls")
        return device

    def _search(self) -> str:
        """The URL of the router's description. Raises PortMappingError."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((str(self._gateway.local), 0))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, self._gateway.local.packed)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOPS)
            for wait in SEARCH_WAITS:
                for kind in KINDS:
                    sock.sendto(encode_search(kind, *self._gateway.search), self._gateway.search)
                end = time.monotonic() + wait
                while (left := end - time.monotonic()) > 0:
                    sock.settimeout(left)
                    try:
                        data, (host, _) = sock.recvfrom(MAX_ANSWER)
                    except TimeoutError:
                        break
                    location = find_location(data, self._gateway.address)
                    if host == str(self._gateway.address) and location is not None:
                        return location
        raise self._silent()
