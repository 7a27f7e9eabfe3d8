"""Connects to relays and peers, and keeps what their connections tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from ..config import Config
from ..errors import DialError, ListenError, ProtocolNotSupported, StrongholdError
from ..events import (
    ConnectionClosed,
    ConnectionEstablished,
    Event,
    HolePunchFailed,
    PathUpgraded,
    PeerIdentified,
    PortMapped,
    PortMappingFailed,
    ReachabilityChanged,
    ReservationMade,
)
from ..identity import Keypair, PeerId
from ..peer import StrongholdP2p
from .facts import Contact, Punch, RelayContact, Target

__all__ = ["Told", "contact", "contact_apart", "punch", "reserve", "running"]

T = TypeVar("T")

PINGS: Final = 3
"""The first ones take longer: both sides still introduce themselves."""

CLOSE_TIME: Final = 0.2
"""Seconds for what is still under way at the end: nothing that anybody waits for."""

EVENT_TIME: Final = 1.0
"""Seconds for an event of what has happened already."""

IDENTIFY_TIME: Final = 2.0
"""Seconds for a remote to say what it is, at most: it takes a round trip or two."""


class Told:
    """What the events of a peer have told so far."""

    def __init__(self) -> None:
        self.connected: dict[PeerId, ConnectionEstablished] = {}
        self.closed: dict[PeerId, ConnectionClosed] = {}
        self.identified: dict[PeerId, PeerIdentified] = {}
        self.reserved: dict[PeerId, ReservationMade] = {}
        self.punched: dict[PeerId, PathUpgraded | HolePunchFailed] = {}
        self.mapping: PortMapped | PortMappingFailed | None = None
        self._changed = asyncio.Event()

    async def read(self, events: AsyncIterator[Event]) -> None:
        """Until the peer is closed."""
        async for event in events:
            match event:
                case ConnectionEstablished(connection):
                    self.connected[connection.peer] = event
                case ConnectionClosed(connection):
                    self.closed[connection.peer] = event
                case PeerIdentified(peer):
                    self.identified[peer] = event
                case ReservationMade(relay):
                    self.reserved[relay] = event
                case PathUpgraded(connection):
                    self.punched[connection.peer] = event
                case HolePunchFailed(peer):
                    self.punched[peer] = event
                case PortMapped() | PortMappingFailed():
                    self.mapping = event
                case ReachabilityChanged():
                    pass  # the peer has all of it
                case _:
                    continue
            self._changed.set()
            self._changed = asyncio.Event()

    def forget_closed(self, peer: PeerId) -> None:
        """Before another connection to ``peer``, if one has ended."""
        if self.closed.pop(peer, None) is not None:
            self.connected.pop(peer, None)
            self.identified.pop(peer, None)

    async def until(self, condition: Callable[[], T | None], seconds: float) -> T | None:
        """What ``condition`` returns as soon as it is not None; None if the time is up."""
        try:
            async with asyncio.timeout(seconds):
                while (found := condition()) is None:
                    await self._changed.wait()
                return found
        except TimeoutError:
            return None


@asynccontextmanager
async def running(
    keypair: Keypair | None, seconds: float, *, port_mapping: bool = False
) -> AsyncIterator[tuple[StrongholdP2p[Any, Any], Told]]:
    """A peer that offers no requests, with what it tells. ``seconds`` are for each question to a remote."""
    config = Config(connection_timeout=seconds, request_timeout=seconds, close_timeout=CLOSE_TIME)
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(keypair=keypair, config=config, port_mapping=port_mapping)
    told = Told()
    async with peer:
        reading = asyncio.create_task(told.read(peer.events()))
        try:
            yield peer, told
        finally:
            reading.cancel()


async def contact(
    peer: StrongholdP2p[Any, Any], told: Told, target: Target, seconds: float, *, ping: bool = False
) -> Contact:
    """Connects ``peer`` to ``target``, which has an address, and hears who that is."""
    told.forget_closed(target.peer)
    start = time.monotonic()
    try:
        await peer.connect(str(target), timeout=seconds)
    except DialError as error:
        return Contact(target, time.monotonic() - start, error=error)
    took = time.monotonic() - start
    other = target.peer
    connected = await told.until(lambda: told.connected.get(other), EVENT_TIME)
    assert connected is not None

    def identity() -> PeerIdentified | ConnectionClosed | None:
        return told.identified.get(other) or told.closed.get(other)

    heard = await told.until(identity, min(IDENTIFY_TIME, seconds))
    answered: float | Exception | None = None
    if ping and not isinstance(heard, ConnectionClosed):
        try:
            answered = min([await peer.ping(other, timeout=seconds) for _ in range(PINGS)])
        except StrongholdError as error:
            answered = error
    failed = isinstance(answered, Exception)
    return Contact(
        target,
        took,
        connected.connection.path,
        connected.connection.address,
        identity=heard if isinstance(heard, PeerIdentified) else None,
        closed=isinstance(heard, ConnectionClosed) or _is_refused(answered) or (failed and other in told.closed),
        ping=answered,
        known=tuple(entry.without_peer() for entry in peer.addresses.get(other)),
    )


def _is_refused(answered: float | Exception | None) -> bool:
    """Whether the remote refuses the whole connection, which then ends."""
    return isinstance(answered, ProtocolNotSupported) and answered.code != 0


async def contact_apart(keypair: Keypair, target: Target, seconds: float) -> Contact:
    """The same by a peer of its own, whatever other connections there are."""
    async with running(keypair, seconds) as (peer, told):
        return await contact(peer, told, target, seconds, ping=True)


async def reserve(peer: StrongholdP2p[Any, Any], told: Told, relay: Contact) -> RelayContact:
    """Makes a reservation for a moment at a relay with a connection."""
    other = relay.target.peer
    try:
        await peer.listen_via_relay(str(relay.target))
    except ListenError as error:
        return RelayContact(relay, refusal=error.__cause__ if isinstance(error.__cause__, Exception) else error)
    made = await told.until(lambda: told.reserved.get(other), EVENT_TIME)
    lifetime = None if made is None else made.expires - time.time()
    await peer.stop_listening(relay=other)
    return RelayContact(relay, made, lifetime)


async def punch(told: Told, peer: PeerId, seconds: float) -> Punch:
    """Waits for the first attempt at a hole, to which ``peer`` was connected through a relay."""
    outcome: PathUpgraded | HolePunchFailed | None = await told.until(lambda: told.punched.get(peer), seconds)
    return Punch(outcome)
