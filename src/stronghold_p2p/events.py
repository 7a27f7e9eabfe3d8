"""What a peer tells of itself: connections, listeners, requests that failed."""

from __future__ import annotations

import asyncio
import enum
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Literal, Self

from .errors import PolicyError, StateError
from .identity import PeerId
from .multiaddr import Multiaddr

__all__ = [
    "ConnectionClosed",
    "ConnectionEstablished",
    "ConnectionInfo",
    "Direction",
    "Dropped",
    "Event",
    "EventHub",
    "EventReader",
    "FirewallDecision",
    "InboundConnectionFailed",
    "Listener",
    "ListenerClosed",
    "NewListener",
    "PeerIdentified",
    "PolicyFailed",
    "PolicyLoaded",
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


@dataclass(frozen=True, slots=True)
class Listener:
    """One address that we listen on."""

    address: Multiaddr
    """As bound, with our peer id; it may be a wildcard."""
    addresses: tuple[Multiaddr, ...]
    """Every address it can be dialled at, a wildcard resolved to the interfaces' addresses."""


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
    """Where it says it can be dialled."""
    observed_address: Multiaddr | None
    """Where it sees us."""


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """An inbound request got no response though the firewall let it pass: the handler failed, was too slow, or returned
    what cannot be encoded; or the request itself was not valid, or came too slowly."""

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
    | PolicyLoaded
    | PolicyFailed
    | StateFailed
    | Dropped
)


class EventReader:
    """An asynchronous iterator over events, from the moment of its making. Used by one task at a time."""

    def __init__(
        self, buffer: int, when_full: Literal["drop_oldest", "drop_newest"], *, decisions: bool = False
    ) -> None:
        if buffer < 1:
            raise ValueError(f"buffer must be at least 1, not {buffer}")
        if when_full not in {"drop_oldest", "drop_newest"}:
            raise ValueError(f"when_full must be 'drop_oldest' or 'drop_newest', not {when_full!r}")
        self.decisions = decisions
        """Whether it gets the decisions of the firewall, too."""
        self._size = buffer
        self._drop_oldest = when_full == "drop_oldest"
        self._events: deque[Event] = deque()
        self._dropped = 0
        self._closed = False
        self._changed = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            # What was dropped stands where it is missing: before what is left of the old, after all of the new.
            if self._dropped and (self._drop_oldest or not self._events):
                dropped, self._dropped = self._dropped, 0
                return Dropped(dropped)
            if self._events:
                return self._events.popleft()
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def _put(self, event: Event) -> None:
        if len(self._events) >= self._size:
            self._dropped += 1
            if not self._drop_oldest:
                return
            self._events.popleft()
        self._events.append(event)
        self._changed.set()

    def _close(self) -> None:
        self._closed = True
        self._changed.set()


class EventHub:
    """Hands events to every reader; a reader that nobody holds any more is forgotten."""

    def __init__(self) -> None:
        self._readers: weakref.WeakSet[EventReader] = weakref.WeakSet()
        self._closed = False
        self.decisions_wanted = False
        """Whether there may be a reader of decisions: nobody else need be told of each request."""

    def subscribe(
        self, buffer: int, when_full: Literal["drop_oldest", "drop_newest"], *, decisions: bool = False
    ) -> EventReader:
        """A reader of what happens from now on. Raises ValueError."""
        reader = EventReader(buffer, when_full, decisions=decisions)
        if self._closed:
            reader._close()
        self._readers.add(reader)
        self.decisions_wanted |= decisions
        return reader

    def emit(self, event: Event) -> None:
        """Never waits: a slow reader must not stop the network."""
        for reader in self._readers:
            reader._put(event)

    def emit_decision(self, decision: FirewallDecision) -> None:
        """As :meth:`emit`, to those who want decisions."""
        self.decisions_wanted = False
        for reader in self._readers:
            if reader.decisions:
                self.decisions_wanted = True
                reader._put(decision)

    def close(self) -> None:
        """Readers end after what they have not read yet."""
        self._closed = True
        for reader in self._readers:
            reader._close()
