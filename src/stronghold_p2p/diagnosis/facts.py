"""What a diagnosis looks at, before any judgment. Pure.

Times are in seconds. None stands for what could not be found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from ..errors import DialError
from ..events import (
    AddressOrigin,
    AddressReachability,
    HolePunchFailed,
    NatKind,
    Path,
    PathUpgraded,
    PeerIdentified,
    PortMapped,
    PortMappingFailed,
    ReservationMade,
)
from ..identity import PeerId
from ..multiaddr import Ip, Multiaddr

__all__ = [
    "Contact",
    "Lookup",
    "Machine",
    "Neighbors",
    "Outside",
    "Punch",
    "RelayContact",
    "Router",
    "Target",
    "port_of",
]


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine."""

    ips: tuple[Ip, ...] | None
    """The usable addresses of its interfaces."""
    clock_synchronized: bool | None
    """Whether the system says so."""
    name_servers: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Lookup:
    """A name was looked up."""

    name: str
    seconds: float
    found: tuple[str, ...] = ()
    """Its addresses."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Neighbors:
    """What mDNS has brought."""

    seconds: float
    """How long we listened."""
    error: str | None = None
    """Why it could not begin."""
    own: tuple[Multiaddr, ...] = ()
    """Those of our addresses that we have heard ourselves announce."""
    others: Mapping[PeerId, tuple[Multiaddr, ...]] = field(default_factory=dict)
    """The peers that we have heard of."""


@dataclass(frozen=True, slots=True)
class Router:
    """The router that our traffic leaves by."""

    address: IPv4Address | None
    """None: there is none."""
    local: IPv4Address | None
    """Our own address towards it."""
    asked: bool = True
    """Whether we listen where a router may forward a port to, so that it is asked."""
    mapping: PortMapped | PortMappingFailed | None = None
    upnp: bool = True
    """Whether UPnP is installed here."""
    port: int = 4001
    """On which the peer is to listen: the one that was given, or libp2p's usual one."""


@dataclass(frozen=True, slots=True)
class Target:
    """A relay or a peer that is to be reached."""

    peer: PeerId
    address: Multiaddr | None
    """Without the peer id; None: it is to be found on the local network."""

    @property
    def is_relayed(self) -> bool:
        """Whether it is to be reached through a relay."""
        return self.address is not None and self.address.is_relayed

    @property
    def relay(self) -> PeerId | None:
        """That through which it is to be reached, if its address names one."""
        return None if self.address is None else self.address.relay

    def __str__(self) -> str:
        return f"/p2p/{self.peer}" if self.address is None else str(self.address.with_peer(self.peer))


@dataclass(frozen=True, slots=True)
class Contact:
    """An attempt to connect to a peer at one address, or through one relay."""

    target: Target
    seconds: float
    """Until there was a connection, or none."""
    path: Path | None = None
    remote: Multiaddr | None = None
    """Where the other end of that is, by IP address."""
    error: DialError | None = None
    """Why there is none."""
    identity: PeerIdentified | None = None
    """What the remote says of itself; None: nothing in time."""
    closed: bool = False
    """The remote has ended the connection before that, or before a ping."""
    ping: float | Exception | None = None
    """The round-trip time, or why there is none; None: not asked."""
    known: tuple[Multiaddr, ...] = ()
    """Where the peer is to be dialed, of what it says those addresses that may be its own."""

    @property
    def holds(self) -> bool:
        """Whether there is a connection that the remote has not ended at once."""
        return self.path is not None and not self.closed


@dataclass(frozen=True, slots=True)
class Punch:
    """The wait for a direct connection beside one through a relay."""

    outcome: PathUpgraded | HolePunchFailed | None
    """None: neither in time."""


@dataclass(frozen=True, slots=True)
class RelayContact:
    """A relay, and the reservation that it gives."""

    contact: Contact
    reservation: ReservationMade | None = None
    lifetime: float | None = None
    """Of the reservation, by our clock."""
    refusal: Exception | None = None
    """Why there is none."""


@dataclass(frozen=True, slots=True)
class Outside:
    """How remotes see this machine."""

    asked: int = 0
    """Public IPv4 addresses of relays and peers that were dialed directly: two are needed for the kind of NAT."""
    nat_kind: NatKind | None = None
    servers: int = 0
    """Relays and peers at public addresses that dial us back if we ask (AutoNAT v2)."""
    reachability: Mapping[Multiaddr, AddressReachability] = field(default_factory=dict)
    """Our public addresses, with our peer id, and who has dialed them."""
    given: int = 0
    """Relays and peers that were given to be dialed directly."""

    def dialed(self, origin: AddressOrigin | None = None) -> Multiaddr | None:
        """An address of ours that somebody has dialed, without our peer id; of one ``origin`` or any."""
        found = (
            address.without_peer()
            for address, known in self.reachability.items()
            if known.dialed_by and origin in {None, known.origin}
        )
        return next(found, None)

    @property
    def is_settled(self) -> bool:
        """Whether those who were asked have told that they cannot dial us, or that we have no address to dial."""
        tried = self.reachability.values()
        if not self.servers or self.dialed() is not None:
            return False
        if any(known.origin is AddressOrigin.ANNOUNCED and not known.not_dialed_by for known in tried):
            return False
        return not tried or any(known.not_dialed_by for known in tried)

    def not_dialed(self, origin: AddressOrigin) -> bool:
        """Whether those who were asked could dial no address of this ``origin``."""
        tried = [known for known in self.reachability.values() if known.origin is origin]
        return any(known.not_dialed_by for known in tried) and not any(known.dialed_by for known in tried)


def port_of(address: Multiaddr) -> str | None:
    """The TCP port."""
    return next((value for name, value in address if name == "tcp" and value), None)
