"""What a peer tells of itself: connections, listeners, requests that failed."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .errors import PolicyError, StateError
from .identity import PeerId
from .multiaddr import Multiaddr

__all__ = [
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
    "InboundConnectionFailed",
    "Listener",
    "ListenerClosed",
    "NewListener",
    "Outcome",
    "Path",
    "PathLimits",
    "PeerIdentified",
    "PolicyFailed",
    "PolicyLoaded",
    "QuestionKind",
    "RequestFailed",
    "StateFailed",
]


class Direction(enum.Flag):
    """Who asked whom: a connection's dialer, a request's sender."""

    INBOUND = enum.auto()
    """The remote asked us."""
    OUTBOUND = enum.auto()
    """We asked the remote."""
    BOTH = INBOUND | OUTBOUND


@dataclass(frozen=True, slots=True)
class PathLimits:
    """What a relay allows for one connection."""

    seconds: float | None
    """None: no limit of time."""
    bytes: int | None
    """In each direction. None: no limit of data."""


@dataclass(frozen=True, slots=True)
class Path:
    """How a connection reaches its peer."""

    transport: str
    """``"tcp"``, ``"ws"`` or ``"tls/ws"``."""
    dialed: Multiaddr | None = None
    """The address that we dialed, without the peer id; None if the remote dialed us."""
    relay: PeerId | None = None
    """The peer that forwards between the two ends; None for a direct path."""
    limits: PathLimits | None = None
    """None for a path that nobody limits."""


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One established connection, as it was when this was made."""

    peer: PeerId
    """Who is at the other end, proved by the handshake."""
    address: Multiaddr
    """The remote's address, without its peer id."""
    direction: Direction
    opened_at: float
    """Seconds since the epoch."""
    streams: int
    """Streams open on it, of both sides."""
    path: Path
    """The transport, and the relay if there is one."""


class DialAttempt(NamedTuple):
    """What became of one address of a peer that could not be dialed; of :class:`DialError`."""

    address: Multiaddr
    """As it was dialed: by IP, also where a name was given; by name, if that was not resolved."""
    error: Exception
    seconds: float
    """From its start to the error; 0 if it was not started."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One address that we listen on."""

    address: Multiaddr
    """As bound, with our peer id; it may be a wildcard."""
    addresses: tuple[Multiaddr, ...]
    """Every address it can be dialed at, a wildcard resolved to the interfaces' addresses."""


@dataclass(frozen=True, slots=True)
class ConnectionEstablished:
    """A connection was upgraded: the peer is known, everything on it is encrypted."""

    connection: ConnectionInfo


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """A connection ended."""

    connection: ConnectionInfo
    error: Exception | None
    """Why; None if it was closed in order by either side."""


@dataclass(frozen=True, slots=True)
class InboundConnectionFailed:
    """A remote connected and did not come through the upgrade, or was over a limit."""

    address: Multiaddr
    """Where it came from, without a peer id: none was proved."""
    error: Exception


@dataclass(frozen=True, slots=True)
class NewListener:
    """We listen on an address from now on."""

    listener: Listener


@dataclass(frozen=True, slots=True)
class ListenerClosed:
    """We no longer listen on an address."""

    listener: Listener


@dataclass(frozen=True, slots=True)
class PeerIdentified:
    """A peer told about itself by the identify protocol, or told anew by identify push."""

    peer: PeerId
    agent_version: str
    """Free text of the remote, such as ``go-libp2p/0.51``; never trust it."""
    protocols: tuple[str, ...]
    """What it offers to us."""
    listen_addresses: tuple[Multiaddr, ...]
    """Where it says it can be dialed."""
    observed_address: Multiaddr | None
    """Where it sees us."""


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """An inbound request got no response though the firewall let it pass: the handler failed, was too slow, or returned
    what cannot be encoded; or the request itself was not valid, or came too slowly. The log has a line, too."""

    peer: PeerId
    error: Exception


@dataclass(frozen=True, slots=True)
class FirewallDecision:
    """The firewall has decided a request. Never holds its content. There is one for each request, so only readers who
    ask for them get them: ``events(decisions=True)``."""

    peer: PeerId
    direction: Direction
    type: str | None
    """The type of the request; None if it has none, or was rejected before its body was read."""
    rule: str | None
    """The rule that was in force, as text; None if there was none, and an answer or its lack decided."""
    layer: str
    """Where the rule came from: ``policy peer``, ``peer``, ``policy default``, ``default`` or ``none``."""
    allowed: bool
    waited: float
    """Seconds for which an answer was waited for."""


QuestionKind = Literal["peer", "request"]
"""What the firewall asks: for a rule, since none is known for a peer; or about one request."""

Outcome = Literal["approved", "rejected", "rule set", "reconsidered", "timed out", "withdrawn", "unanswered", "closed"]
"""How a question of the firewall has ended: by an answer; since another rule holds by now; since nobody has answered in
time; since the last requester has gone; since all who could answer have failed or gone; since we close."""


@dataclass(frozen=True, slots=True)
class FirewallRequestOpened:
    """A question of the firewall waits for an answer. One that is answered at once, or that nobody takes, never does.

    Holds nothing of the request's content.
    """

    id: int
    """Counts up, from 1."""
    peer: PeerId
    direction: Direction
    type: str | None
    """The type of the request; of the first one, if the question is about the peer."""
    kind: QuestionKind


@dataclass(frozen=True, slots=True)
class FirewallRequestEnded:
    """A question of the firewall that was open waits no longer."""

    id: int
    peer: PeerId
    direction: Direction
    type: str | None
    kind: QuestionKind
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class PolicyLoaded:
    """A policy file was read, and is in force."""

    path: str


@dataclass(frozen=True, slots=True)
class PolicyFailed:
    """A policy file has changed and cannot be used: the policy before it stays in force."""

    error: PolicyError


@dataclass(frozen=True, slots=True)
class StateFailed:
    """A rule or a ban is in force but was not kept, or the changes of others were not seen."""

    error: StateError


@dataclass(frozen=True, slots=True)
class Dropped:
    """This reader was too slow: ``count`` events were dropped here."""

    count: int


Event = (
    ConnectionEstablished
    | ConnectionClosed
    | InboundConnectionFailed
    | NewListener
    | ListenerClosed
    | PeerIdentified
    | RequestFailed
    | FirewallDecision
    | FirewallRequestOpened
    | FirewallRequestEnded
    | PolicyLoaded
    | PolicyFailed
    | StateFailed
    | Dropped
)
