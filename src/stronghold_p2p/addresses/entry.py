"""One known address: its source, expiry and dial results."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ..identity import PeerId
from ..multiaddr import Multiaddr

__all__ = ["AddressEntry", "AddressKey", "AddressSource", "NamedAddress"]


class AddressSource(enum.Enum):
    """The source of an address, in order of preference if all else is equal."""

    GIVEN = "given"
    """Our own code: added to the book, or the target of a call that led to the peer."""
    SIGNED_RECORD = "signed record"
    """The peer, in a signed record, possibly forwarded by others."""
    IDENTIFY = "identify"
    """The peer, by identify over its own connection."""
    MDNS = "mdns"
    """A multicast on the local network."""
    RELAY = "relay"
    """A relay of the peer."""
    DNSADDR = "dnsaddr"
    """A TXT record of a name."""


@dataclass(frozen=True, slots=True)
class AddressEntry:
    """A snapshot of one address of a peer. Times are in seconds since the epoch."""

    address: Multiaddr
    """Without the peer id."""
    source: AddressSource
    """The preferred source, if there are several."""
    expires: float | None = None
    """The latest expiry of all sources; None: never."""
    last_success: float | None = None
    """The last successful dial; None if there was none."""
    last_failure: float | None = None
    """The last failed dial since the last success; None if there was none."""
    failures: int = 0
    """Failed dials since the last success."""


AddressKey: TypeAlias = tuple[PeerId, Multiaddr, AddressSource]
"""An address of a peer, as one source names it."""


class NamedAddress(NamedTuple):
    """An address of a peer as one source names it, in the form in which files have it. The address is without the peer
    id; times are those of :class:`AddressEntry`."""

    peer: PeerId
    address: Multiaddr
    source: AddressSource
    expires: float | None = None
    told_by: tuple[str, ...] = ()
    """The networks of the remote that told it; empty for given ones."""
    last_success: float | None = None
    last_failure: float | None = None
    failures: int = 0

    @property
    def key(self) -> AddressKey:
        return self.peer, self.address, self.source
