"""The addresses of this machine's interfaces, and their changes.

Linux tells both over netlink. Elsewhere, and where netlink is refused, they are looked at every few seconds.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from ..logs import SparingLog
from ..multiaddr import Ip
from . import netlink

__all__ = ["InterfaceAddress", "InterfaceWatch", "list_addresses", "list_networks"]

SETTLE: Final = 0.1
"""Seconds between the first sign of a change and the look at it: an interface that comes up brings several."""

PACE: Final = 2.0
"""Seconds between two changes that are acted on, but for the first ones: each costs dials, and a push to every peer."""

AT_ONCE: Final = 5
"""Those that are acted on without a pause, as when a computer wakes up."""

POLL: Final = 5.0
"""Seconds between two looks where no change is told: a call of a few hundred microseconds."""

READS: Final = 64
"""Datagrams read in one callback. They only say that something has changed, so the rest may wait."""

log_failure = SparingLog(logging.WARNING, "the interfaces of this machine cannot be listed: %s")


class InterfaceAddress(NamedTuple):
    """One address of an interface."""

    ip: Ip
    interface: int
    """The number of the interface."""
    usable: bool = True
    """Whether others can reach it now: the interface runs, and the address is neither tentative nor deprecated (RFC 4862,
    section 2)."""
    prefix: int | None = None
    """Bits of the address that its network has in common; None: it is alone."""

    @property
    def network(self) -> IPv4Network | IPv6Network:
        prefix = self.ip.max_prefixlen if self.prefix is None else self.prefix
        return ip_network((self.ip.packed, prefix), strict=False)


class InterfaceWatch:
    """Keeps the addresses of the interfaces, while anybody needs them.

    The arguments are for tests: what lists the addresses, and what opens a socket that becomes readable at a change.
    """

    def __init__(
        self,
        *,
        lister: Callable[[], list[InterfaceAddress]] | None = None,
        monitor: Callable[[], socket.socket] = netlink.monitor,
    ) -> None:
        self.addresses: tuple[InterfaceAddress, ...] = ()
        """As last seen; empty while nobody needs them."""
        self.changed: Callable[[tuple[InterfaceAddress, ...]], None] = _nothing
        """Called after a change, with the addresses from before."""
        self._list = lister or list_addresses
        self._open_monitor = monitor
        self._loop = asyncio.get_running_loop()
        self._needed_by: set[object] = set()
        self._monitor: socket.socket | None = None
        """None where changes are not told."""
        self._timer: asyncio.TimerHandle | None = None
        """For the next look."""
        self._full_by = float("-inf")
        """A leaky bucket: it is empty at this time, and each change fills it by one pace."""

    def need(self, who: object) -> None:
        """Watches until :meth:`release` is called for all that need it.

        Raises:
            OSError: the interfaces cannot be listed.
        """
        if not self._needed_by:
            self._begin()
        self._needed_by.add(who)

    def release(self, who: object) -> None:
        """``who`` may be one that never needed it."""
        if who in self._needed_by:
            self._needed_by.remove(who)
            if not self._needed_by:
                self._end()

    def close(self) -> None:
        """Ends the watch, whoever needs it."""
        self._needed_by.clear()
        self._end()

    # -- details ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        try:
            self._monitor = self._open_monitor()  # first: what changes during the look is looked at again
        except OSError:
            self._look_within(POLL)
        else:
            self._loop.add_reader(self._monitor, self._told)
        try:
            self.addresses = tuple(self._list())
        except OSError:
            self._end()
            raise

    def _end(self) -> None:
        self._close_monitor()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.addresses = ()

    def _close_monitor(self) -> None:
        if self._monitor is not None:
            self._loop.remove_reader(self._monitor)
            self._monitor.close()
            self._monitor = None

    def _told(self) -> None:
        """Something has changed. What is not read: some of it may be lost, or cut short, and all of it may cancel out."""
        assert self._monitor is not None
        try:
            for _ in range(READS):
                self._monitor.recv(1)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # which says that some was lost
                self._close_monitor()
        wait = self._full_by - AT_ONCE * PACE - self._loop.time()
        self._look_within(max(SETTLE, wait))

    def _look_within(self, seconds: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= self._loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        try:
            found = tuple(self._list())
        except OSError as error:
            log_failure.write(error)
            self._look_within(POLL)
            return
        if self._monitor is None:
            self._look_within(POLL)
        if set(found) != set(self.addresses):
            self._full_by = max(self._full_by, self._loop.time()) + PACE
            before, self.addresses = self.addresses, found
            self.changed(before)


def list_addresses() -> list[InterfaceAddress]:
    """All addresses of all interfaces, but for IPv6's link-local ones: nobody can be told them without a zone, and they come
    and go with every container.

    Raises:
        OSError: the system does not tell.
    """
    try:
        found = [InterfaceAddress(*facts) for facts in netlink.addresses()]
    except OSError:  # no Linux, or a sandbox
        found = _list_by_ifaddr()
    return [one for one in found if one.ip.version == 4 or not one.ip.is_link_local]


def list_networks() -> list[IPv4Network | IPv6Network]:
    """The networks that this machine is in; none if the system does not tell."""
    try:
        return [one.network for one in list_addresses()]
    except OSError:
        return []


def _list_by_ifaddr() -> list[InterfaceAddress]:
    import ifaddr  # takes long: on Linux it runs ldconfig to find the C library

    return [
        InterfaceAddress(
            ip_address(address.ip if isinstance(address.ip, str) else address.ip[0]),
            adapter.index or 0,
            prefix=address.network_prefix,
        )
        for adapter in ifaddr.get_adapters()
        for address in adapter.ips
    ]


def _nothing(before: tuple[InterfaceAddress, ...]) -> None: ...
