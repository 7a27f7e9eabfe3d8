"""Events of a peer, and the values they hold: connections, listeners, failed requests, firewall decisions."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from ..identity import PeerId
from ..multiaddr import Multiaddr
from .direction import Direction
from .firewall import (
    BanChanged,
    FirewallDecision,
    FirewallRequestEnded,
    FirewallRequestOpened,
    How,
    NameChanged,
    Outcome,
    PolicyFailed,
    PolicyLoaded,
    QuestionKind,
    RequestHandled,
    RequestOutcome,
    RuleChanged,
    Scope,
    SignedAnswer,
    StateFailed,
)

__all__ = [
    "AddressOrigin",
    "AddressReachability",
    "AddressesChanged",
    "BanChanged",
    "ConnectionClosed",
    "ConnectionEstablished",
    "ConnectionInfo",
    "DialAttempt",
    "Direction",
    "Dropped",
    "Event",
    "FirewallDecision",
    "FirewallRequestEnded",
    "FirewallRequestOpened",
    "HolePunchFailed",
    "How",
    "InboundConnectionFailed",
    "KeepFailed",
    "LimitReached",
    "Listener",
    "ListenerClosed",
    "NameChanged",
    "NatKind",
    "NewListener",
    "Outcome",
    "Path",
    "PathLimits",
    "PathUpgraded",
    "PeerDiscovered",
    "PeerExpired",
    "PeerIdentified",
    "PolicyFailed",
    "PolicyLoaded",
    "PortMapped",
    "PortMappingFailed",
    "QuestionKind",
    "Reachability",
    "ReachabilityChanged",
    "RequestFailed",
    "RequestHandled",
    "RequestOutcome",
    "ReservationLost",
    "ReservationMade",
    "RuleChanged",
    "Scope",
    "SignedAnswer",
    "StateFailed",
]


@dataclass(frozen=True, slots=True)
class PathLimits:
    """The limits of a relay for one connection."""

    seconds: float | None
    """Duration. None: no limit."""
    bytes: int | None
    """Data in each direction. None: no limit."""


@dataclass(frozen=True, slots=True)
class Path:
    """How a connection reaches its peer."""

    transport: str
    """``"tcp"``, ``"ws"`` or ``"tls/ws"``."""
    dialed: Multiaddr | None = None
    """The dialed address, without the peer id; None if the remote dialed us."""
    relay: PeerId | None = None
    """The peer that forwards between the two ends; None for a direct path."""
    limits: PathLimits | None = None
    """The relay's limits; None: no limits."""


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """A snapshot of one established connection."""

    peer: PeerId
    """The remote peer id, authenticated by the handshake."""
    address: Multiaddr
    """The remote's address, without its peer id."""
    direction: Direction
    opened_at: float
    """Seconds since the epoch."""
    streams: int
    """Open streams, in both directions."""
    path: Path
    """The transport, and the relay if there is one."""


class DialAttempt(NamedTuple):
    """One failed address of a :class:`DialError`."""

    address: Multiaddr
    """The address as dialed: a host name is resolved to an IP address, unless the resolution failed. The peer id alone: the
    search on the local network."""
    error: Exception
    seconds: float
    """From the start of the dial to the error; 0 if it was not started."""
    names: tuple[Multiaddr, ...] = ()
    """The names that were resolved to find it, the given address first. Empty: it was given itself."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One address that we listen on."""

    address: Multiaddr
    """The bound address, with our peer id; may be a wildcard."""
    addresses: tuple[Multiaddr, ...]
    """Its dialable addresses: a wildcard is expanded to the addresses that the interfaces have now; then that of a
    router which maps the port, names, and announced ones."""


@dataclass(frozen=True, slots=True)
class ConnectionEstablished:
    """A connection is established: authenticated and encrypted."""

    connection: ConnectionInfo


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """A connection ended."""

    connection: ConnectionInfo
    error: Exception | None
    """The cause; None for a regular close by either side."""


@dataclass(frozen=True, slots=True)
class PathUpgraded:
    """There is a direct connection to a peer that was connected through a relay, whoever made it. New streams use it; what
    is under way on the relayed one ends there."""

    connection: ConnectionInfo
    """The direct one."""
    before: Path
    """That of the relayed one."""


@dataclass(frozen=True, slots=True)
class HolePunchFailed:
    """An attempt to connect directly to a peer, beside a connection through a relay, has failed. The relayed one goes on."""

    peer: PeerId
    error: Exception
    """A :class:`DialError` lists the addresses."""
    attempt: int
    """0: we dialed the addresses that the peer has told. 1 to 3: both ends dialed, by agreement (libp2p/specs
    relay/DCUtR.md)."""
    last: bool
    """No further attempt follows, unless the peer connects anew."""


@dataclass(frozen=True, slots=True)
class KeepFailed:
    """A peer that is to be kept connected is not, and could not be dialed. Emitted once for each kind of error, until it is
    connected."""

    peer: PeerId
    error: Exception
    retry_after: float
    """Seconds until the next dial."""


@dataclass(frozen=True, slots=True)
class InboundConnectionFailed:
    """An inbound connection failed during the upgrade, or exceeded a limit."""

    address: Multiaddr
    """The remote address, without a peer id, since none was authenticated."""
    error: Exception


@dataclass(frozen=True, slots=True)
class LimitReached:
    """A limit is reached, and something of the largest holder gave way, or something new was refused. At most one event a
    second for each limit; also logged."""

    limit: str
    """The field of :class:`Config`; or, of a relay, that of :class:`RelayServer`, such as ``RelayServer.max_circuits``; or
    ``resource.RLIMIT_NOFILE``, the file descriptors of the process."""
    network: str
    """The network of the remote that gave way last, such as ``192.0.2.1/32``."""
    count: int
    """How often that happened since the last event of this limit."""


@dataclass(frozen=True, slots=True)
class NewListener:
    """We listen on a new address."""

    listener: Listener


@dataclass(frozen=True, slots=True)
class ListenerClosed:
    """We no longer listen on an address."""

    listener: Listener


@dataclass(frozen=True, slots=True)
class ReservationMade:
    """A relay has given us a reservation, or has renewed it."""

    relay: PeerId
    addresses: tuple[Multiaddr, ...]
    """Our addresses there, with our peer id."""
    expires: float
    """Seconds since the epoch."""
    limits: PathLimits | None
    """Those of connections through it; None: no limits."""


@dataclass(frozen=True, slots=True)
class ReservationLost:
    """A reservation has ended before its time. It is made again as soon as the relay allows."""

    relay: PeerId
    error: Exception | None
    """The cause; None if the connection to the relay has ended."""


@dataclass(frozen=True, slots=True)
class AddressesChanged:
    """Our dialable addresses changed while the listeners stayed: those of the interfaces did, a router maps a port to
    one, or enough remotes have reached us at another one."""

    addresses: tuple[Multiaddr, ...]
    """All addresses now, with our peer id."""
    new: tuple[Multiaddr, ...]
    """Those of them that are new."""


class Reachability(enum.Enum):
    """Whether an address of ours can be dialed from outside our network."""

    REACHABLE = "reachable"
    """A remote has dialed it."""
    UNREACHABLE = "unreachable"
    """Remotes could not dial it: of several networks, or all that there are to ask."""
    UNKNOWN = "unknown"
    """Nobody could be asked, or those who were disagree."""


class AddressOrigin(enum.Enum):
    """How we know of one of our addresses."""

    INTERFACE = "of an interface"
    MAPPED = "mapped by a router"
    ANNOUNCED = "announced"
    OBSERVED = "observed by others"


@dataclass(frozen=True, slots=True)
class AddressReachability:
    """What is known of one of our addresses."""

    state: Reachability
    origin: AddressOrigin
    dialed_by: tuple[PeerId, ...] = ()
    """The servers that have dialed it, which the dial itself has proved; one of each network, the last one last."""
    not_dialed_by: tuple[PeerId, ...] = ()
    """Those that say that they could not."""
    at: float | None = None
    """When the last one of both has; in seconds since the epoch."""

    @property
    def how(self) -> str:
        """The same in words."""
        parts = [self.origin.value]
        if self.dialed_by:
            parts.append(f"dialed back by {_count(self.dialed_by)}")
        if self.not_dialed_by:
            parts.append(f"not by {_count(self.not_dialed_by)}")
        if self.at is None:
            parts.append("no peer has tried it")
        else:
            parts.append(f"last tried at {datetime.fromtimestamp(self.at, UTC):%Y-%m-%d %H:%M} UTC")
        return ", ".join(parts)


def _count(servers: tuple[PeerId, ...]) -> str:
    return str(servers[-1]) if len(servers) == 1 else f"{len(servers)} peers, the last one {servers[-1]}"


@dataclass(frozen=True, slots=True)
class ReachabilityChanged:
    """It was found out whether one of our addresses can be dialed from outside (AutoNAT v2), or that is known no more."""

    address: Multiaddr
    """With our peer id."""
    reachability: AddressReachability
    before: Reachability


class NatKind(enum.Enum):
    """How routers on the way translate the addresses of our connections (RFC 5382, section 4.1)."""

    NONE = "none"
    """Not at all: remotes see us at an address of an interface."""
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    """One of our ports is the same port for every remote: a hole can be punched."""
    ENDPOINT_DEPENDENT = "endpoint-dependent"
    """It is another port for each remote, also called symmetric: nobody can tell where a hole would be."""


@dataclass(frozen=True, slots=True)
class PortMapped:
    """A router maps a port to a listener of ours, or by another address than before. Renewals have no event."""

    address: Multiaddr
    """The external address, with our peer id, which public remotes are told."""
    protocol: str
    """``"PCP"``, ``"NAT-PMP"`` or ``"UPnP"``."""
    expires: float
    """Seconds since the epoch; it is renewed before."""


@dataclass(frozen=True, slots=True)
class PortMappingFailed:
    """No router maps a port to a listener of ours, or only from an address that is not public either. Tried again now
    and then; another event comes when the reason changes."""

    listener: Multiaddr
    """The bound address, with our peer id."""
    reason: str
    external: Multiaddr | None = None
    """The router's address that leads to it, if the port is mapped but the address is not public."""


@dataclass(frozen=True, slots=True)
class PeerIdentified:
    """Information from a peer, by identify or identify push (libp2p/specs identify/README.md)."""

    peer: PeerId
    agent_version: str
    """Free text from the remote, such as ``go-libp2p/0.51``; do not trust it."""
    protocols: tuple[str, ...]
    """The protocols that it offers us."""
    listen_addresses: tuple[Multiaddr, ...]
    """The addresses that it claims to listen on."""
    observed_address: Multiaddr | None
    """Our address as seen by the remote."""


@dataclass(frozen=True, slots=True)
class PeerDiscovered:
    """A peer announces itself on the local network by mDNS, or announces other addresses than before. Nothing is proven:
    anybody on the network can announce anybody."""

    peer: PeerId
    addresses: tuple[Multiaddr, ...]
    """All that it announces, without its peer id."""


@dataclass(frozen=True, slots=True)
class PeerExpired:
    """A peer no longer announces itself on the local network. Connections with it stay."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """An inbound request passed the firewall but got no response. Also logged.

    Either the handler failed, was too slow or returned an unencodable value, or the request was invalid or too slow.
    """

    peer: PeerId
    error: Exception


@dataclass(frozen=True, slots=True)
class Dropped:
    """This reader was too slow: ``count`` events were dropped, the first of them at this point."""

    count: int


Event = (
    ConnectionEstablished
    | ConnectionClosed
    | HolePunchFailed
    | InboundConnectionFailed
    | KeepFailed
    | LimitReached
    | NewListener
    | ListenerClosed
    | AddressesChanged
    | PathUpgraded
    | PeerDiscovered
    | PeerExpired
    | PortMapped
    | PortMappingFailed
    | PeerIdentified
    | ReachabilityChanged
    | ReservationLost
    | ReservationMade
    | RequestFailed
    | RequestHandled
    | FirewallDecision
    | FirewallRequestOpened
    | FirewallRequestEnded
    | BanChanged
    | NameChanged
    | RuleChanged
    | PolicyLoaded
    | PolicyFailed
    | StateFailed
    | Dropped
)
