"""Which of our addresses a remote is told, and what remotes tell us of them. Pure."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NamedTuple

from ..events import Direction, NatKind
from ..multiaddr import Component, Ip, Multiaddr, host_of, ip_of
from ..transport.interfaces import InterfaceAddress

__all__ = [
    "Observations",
    "OwnAddress",
    "Scope",
    "believable",
    "expand",
    "is_public",
    "is_punchable",
    "is_wildcard",
    "scope_of",
    "select",
    "text_of",
]

MAX_TOLD: Final = 16
"""Addresses that a remote is told. js-libp2p dials them one after another and gives up after 10 s; others keep no more."""

OBSERVERS: Final = 4
"""Networks whose remotes must see us at the same address before it is believed, as in go-libp2p: whoever has one address
may have a few more."""

MAX_OBSERVED: Final = 8
"""Believed addresses, those of the most networks: one of each family, and for each listener."""

MAX_REPORTS: Final = 256
"""Reports that are kept, one for each network and listener; the oldest one is forgotten first."""

REPORT_LIFETIME: Final = 1800.0
"""Seconds that a report counts after its connection has ended."""


NAT64: Final = int(IPv6Address("64:ff9b::")) >> 32
"""Where routers translate to IPv4 (RFC 6052, section 2.1)."""

GLOBAL_UNICAST: Final = 0b001
"""The first bits of an IPv6 address that may be public (RFC 4291, section 2.4, and IANA's registry)."""


class Scope(enum.IntEnum):
    """From where an address can be dialed."""

    LOOPBACK = 0
    """From this machine."""
    LINK = 1
    """From the network of one interface (RFC 3927; RFC 4291, section 2.5.6)."""
    PRIVATE = 2
    """From a site: private, shared and other addresses that are not global (RFC 6890)."""
    PUBLIC = 3
    """From everywhere."""


class OwnAddress(NamedTuple):
    """One address at which we can be dialed."""

    address: Multiaddr
    interface: int | None = None
    """The number of its interface; None for a name, and for an address that was announced or observed."""
    place: int = 0
    """Its place among those of its listener, so that none of many listeners is left out."""


def is_wildcard(address: Multiaddr) -> bool:
    """Whether ``address`` stands for all interfaces."""
    ip = host_of(address)
    return ip is not None and ip.is_unspecified


def scope_of(address: Multiaddr) -> Scope:
    """By the IP address or name that ``address`` begins with."""
    return _scope_of(*address.components[0])


@lru_cache(maxsize=1024)
def _scope_of(kind: str, name: str | None) -> Scope:
    ip = ip_of(kind, name)
    if ip is not None:
        if ip.is_loopback:
            return Scope.LOOPBACK
        if ip.is_link_local:
            return Scope.LINK
        return Scope.PUBLIC if _is_global(ip) else Scope.PRIVATE
    if not kind.startswith("dns") or name is None:
        return Scope.PUBLIC
    last = name.rstrip(".").lower().rpartition(".")[2]
    if last == "localhost":
        return Scope.LOOPBACK
    return Scope.PRIVATE if last in {"local", name.lower()} else Scope.PUBLIC


def _is_global(ip: Ip) -> bool:
    """Python's word is not enough for a stranger's address: an IPv4 address may be within, and what is no global unicast
    address may have a local meaning (RFC 3879, RFC 4291, RFC 8215)."""
    if isinstance(ip, IPv6Address):
        within = IPv4Address(int(ip) & 0xFFFF_FFFF) if int(ip) >> 32 == NAT64 else ip.sixtofour
        if within is not None:
            return _is_global(within)
        if int(ip) >> 125 != GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast


def is_punchable(address: Multiaddr) -> bool:
    """Whether ``address`` may be dialed beside a relayed connection, since whoever comes by a relay has told it: by a public
    IP address, since a name may lead into our network, and by TCP alone, since both ends may dial at once."""
    names = [name for name, _ in address]
    return len(names) == 2 and host_of(address) is not None and names[1] == "tcp" and scope_of(address) is Scope.PUBLIC


def is_public(address: Multiaddr) -> bool:
    """Whether ``address`` can be dialed from everywhere, if at all."""
    return scope_of(address) is Scope.PUBLIC


def expand(address: Multiaddr, interfaces: Iterable[InterfaceAddress]) -> list[tuple[Multiaddr, int]]:
    """The usable addresses that a wildcard stands for, each with the number of its interface; loopback ones last."""
    (kind, _), *rest = address.components
    version = 4 if kind == "ip4" else 6
    usable = [one for one in interfaces if one.usable and one.ip.version == version]
    usable.sort(key=lambda one: (one.ip.is_loopback, one.ip.is_link_local))
    suffix = text_of(rest)
    return [(Multiaddr.parse(f"/{kind}/{one.ip}{suffix}"), one.interface) for one in usable]


def text_of(components: Iterable[Component]) -> str:
    """A part of an address, as text."""
    return "".join(f"/{name}" if value is None else f"/{name}/{value}" for name, value in components)


def select(own: Iterable[OwnAddress], remote: Scope, interface: int | None) -> tuple[Multiaddr, ...]:
    """What a remote is told that came by ``interface``, from an address of the scope ``remote``; the best ones first.

    A public remote is told public addresses, a private one all of the interface that it came by, then public and private ones,
    one on this machine all, the nearest first.
    """
    ranked: list[tuple[int, int, Multiaddr]] = []
    for one in own:
        rank = _rank(scope_of(one.address), remote, near=one.interface is not None and one.interface == interface)
        if rank is not None:
            ranked.append((rank, one.place, one.address))
    ranked.sort(key=lambda one: one[:2])
    return tuple(dict.fromkeys(address for _, _, address in ranked))[:MAX_TOLD]


def believable(told: Iterable[Multiaddr], remote: Scope) -> tuple[Multiaddr, ...]:
    """Of the addresses that a remote tells of itself, from one of the scope ``remote``, those that may be its own: nobody
    else than who is here has us knock at doors on this machine, or from outside at those in our network."""
    nearest = {Scope.LOOPBACK: Scope.LOOPBACK, Scope.PUBLIC: Scope.PUBLIC}.get(remote, Scope.LINK)
    return tuple(address for address in told if scope_of(address) >= nearest)


def _rank(scope: Scope, remote: Scope, *, near: bool) -> int | None:
    if remote is Scope.LOOPBACK:
        return scope
    if scope is Scope.PUBLIC:
        return 0 if near else 1
    if scope is Scope.LOOPBACK or remote is Scope.PUBLIC or (scope is Scope.LINK and not near):
        return None
    return 0 if near else 2


class _Source(NamedTuple):
    """Who has one word, the last one."""

    network: str
    """Of the remote."""
    listener: Multiaddr | None
    """By which it has come, or from whose port we have dialed it."""
    direction: Direction


class _Report(NamedTuple):
    observed: Multiaddr | None
    """What counts: where it has dialed us, or the IP address alone from which we have dialed it. None: that of an
    interface."""
    candidate: Multiaddr | None
    """Where it would dial the listener."""
    connection: Any
    ended: float | None
    """When the connection has ended."""


class Observations:
    """At which addresses remotes see us; believed if remotes of :data:`OBSERVERS` networks agree. Times are in seconds, on
    any clock."""

    def __init__(self) -> None:
        self._reports: dict[_Source, _Report] = {}
        """The oldest first."""

    def dialed_by(self, network: str, listener: Multiaddr, observed: Multiaddr, connection: object) -> None:
        """A remote of ``network`` has dialed ``listener`` at ``observed``."""
        self._add(_Source(network, listener, Direction.INBOUND), _Report(observed, observed, connection, None))

    def dialed_from(
        self,
        network: str,
        listener: Multiaddr | None,
        ip: Multiaddr | None,
        connection: object,
        *,
        candidate: Multiaddr | None = None,
    ) -> None:
        """A remote of ``network``, which we have dialed, sees us at ``ip``; None: at the address of an interface. If that was
        from the port of ``listener``, it sees that at ``candidate``."""
        self._add(_Source(network, listener, Direction.OUTBOUND), _Report(ip, candidate, connection, None))

    def _add(self, source: _Source, report: _Report) -> None:
        self._reports.pop(source, None)
        self._reports[source] = report
        if len(self._reports) > MAX_REPORTS:
            del self._reports[next(iter(self._reports))]

    def connection_closed(self, connection: object, now: float) -> bool:
        """What was reported over ``connection`` counts for a while yet. Whether anything was."""
        keys = [key for key, report in self._reports.items() if report.connection is connection]
        for key in keys:
            self._reports[key] = self._reports[key]._replace(connection=None, ended=now)
        return bool(keys)

    def forget(self, listener: Multiaddr) -> None:
        """``listener`` is closed."""
        for key in [key for key in self._reports if key.listener == listener]:
            del self._reports[key]

    def clear(self) -> None:
        """Forgets all: we are in another network."""
        self._reports.clear()

    def believed(self, now: float) -> tuple[Multiaddr, ...]:
        """The addresses that enough networks agree on, those of the most networks first."""
        self._forget_old(now)
        words = dict.fromkeys(
            (key.network, report.observed) for key, report in self._reports.items() if report.observed
        )
        counts = Counter(observed for _, observed in words)
        return tuple(address for address, count in counts.most_common(MAX_OBSERVED) if count >= OBSERVERS)

    def candidates(self, now: float) -> tuple[Multiaddr, ...]:
        """Where one network at least sees a listener: first where those see it that we have dialed, for we have chosen them;
        the newest first."""
        self._forget_old(now)
        newest = [(key.direction, report.candidate) for key, report in reversed(self._reports.items())]
        newest.sort(key=lambda one: one[0] is Direction.INBOUND)
        return tuple(dict.fromkeys(candidate for _, candidate in newest if candidate is not None))[:MAX_OBSERVED]

    def nat_kind(self, now: float) -> NatKind | None:
        """By where remotes see the listeners from whose ports we have dialed them; None if too few have said so. Two networks
        that agree are right: that others do not is a lie, or a second router."""
        self._forget_old(now)
        dialed = [(key, report) for key, report in self._reports.items() if key.direction is Direction.OUTBOUND]
        if any(report.observed is None for _, report in dialed):
            return NatKind.NONE
        seen = [(key.listener, report.candidate) for key, report in dialed if report.candidate is not None]
        if len(set(seen)) < len(seen):
            return NatKind.ENDPOINT_INDEPENDENT
        return NatKind.ENDPOINT_DEPENDENT if len({listener for listener, _ in seen}) < len(seen) else None

    def _forget_old(self, now: float) -> None:
        for key in [
            key for key, one in self._reports.items() if one.ended is not None and now >= one.ended + REPORT_LIFETIME
        ]:
            del self._reports[key]
