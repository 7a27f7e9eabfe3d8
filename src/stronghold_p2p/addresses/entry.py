"""What is known of one address: who named it, until when, and how dials to it went."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..multiaddr import Multiaddr

__all__ = ["AddressEntry", "AddressSource"]


class AddressSource(enum.Enum):
    """Who named an address; in the order of trying, where nothing else tells addresses apart."""

    GIVEN = "given"
    """Our own code: added to the book, or the target of a call that led to the peer."""
    SIGNED_RECORD = "signed record"
    """The peer, in a record with its signature, whoever handed it on."""
    IDENTIFY = "identify"
    """The peer, over a connection of its own."""
    MDNS = "mdns"
    """A multicast on the local network."""
    RELAY = "relay"
    """A relay of the peer."""
    DNSADDR = "dnsaddr"
    """A TXT record of a name."""


@dataclass(frozen=True, slots=True)
class AddressEntry:
    """One address of a peer, as it was when this was made. Times are seconds since the epoch."""

    address: Multiaddr
    """Without the peer id."""
    source: AddressSource
    """The first, if several named it."""
    expires: float | None = None
    """When the last of them takes it back; None: never."""
    last_success: float | None = None
    """When a dial to it last led to the peer."""
    last_failure: float | None = None
    """When a dial to it last failed; None if none has since the last success."""
    failures: int = 0
    """Failed dials since the last success."""
