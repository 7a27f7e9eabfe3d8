"""From a relayed connection to a direct one: dialing back, and hole punching (libp2p/specs relay/DCUtR.md)."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from ..encoding import messages
from ..errors import DecodeError, DialError, RemoteProtocolError, StrongholdError
from ..events import Direction, Event, HolePunchFailed, PathUpgraded
from ..identity import PeerId
from ..multiaddr import Multiaddr
from ..transport.connection import Connection
from ..transport.stream import Stream
from .framing import read, write
from .identify import Identity
from .service import Service, in_task

__all__ = ["PROTOCOL", "DialDirectly", "HolePunching"]

logger = logging.getLogger("stronghold_p2p")

PROTOCOL: Final = "/libp2p/dcutr"

ATTEMPTS: Final = 3
"""Rounds, as the specification has it. Of those that succeed, 97.6 % do so in the first (arXiv 2510.27500)."""

PAUSE: Final = 10.0
"""Seconds between two rounds: a mapping that was in the way has often gone then, and it costs little to wait."""

DIAL_TIMEOUT: Final = 5.0
"""Seconds of one dial: js-libp2p gives a whole round no more."""

TIMEOUT: Final = 15.0
"""Seconds of one exchange of messages."""

MAX_ADDRESSES: Final = 20
"""Addresses of the other end that are dialed, as in rust-libp2p."""


class MessageType(enum.IntEnum):
    """The types of a HolePunch message."""

    CONNECT = 100
    SYNC = 300


class DialDirectly(Protocol):
    """Dials a peer beside the connection that there is, in the role that is given, from the port on which we listen where
    that is possible.

    Raises:
        DialError: no address led to the peer.
    """

    def __call__(
        self, peer: PeerId, addresses: tuple[Multiaddr, ...], *, initiator: bool, timeout: float
    ) -> Awaitable[Connection]: ...


class HolePunching(Service):
    """Replaces relayed connections by direct ones.

    The end to which the other came by a relay begins: it dials the addresses that the other has told, and then asks for a
    simultaneous dial. New streams use the direct connection as soon as it stands; the relayed one is closed when nothing is
    left on it. ``candidates`` gives the addresses at which we may be reached directly.
    """

    def __init__(
        self,
        *,
        dial: DialDirectly,
        candidates: Callable[[], tuple[Multiaddr, ...]],
        emit: Callable[[Event], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.protocols = {PROTOCOL: in_task(self._serve)}
        self._dial = dial
        self._candidates = candidates
        self._emit = emit
        self._sleep = sleep
        self._upgrading: set[PeerId] = set()

    # -- as a service ----------------------------------------------------------------------------

    def identified(self, connection: Connection, identity: Identity) -> None:
        relayed = connection.path.relay is not None and connection.direction is Direction.INBOUND
        if relayed and connection.peer not in self._upgrading and not self._is_direct(connection.peer):
            self._upgrading.add(connection.peer)
            connection.spawn(self._upgrade(connection, identity))

    # -- the end to which the other came ---------------------------------------------------------

    async def _upgrade(self, connection: Connection, identity: Identity) -> None:
        peer = connection.peer
        try:
            error = await self._dial_back(connection, identity.listen_addresses)
            for attempt in range(ATTEMPTS):
                if error is None or not connection.serves(PROTOCOL) or self._is_direct(peer):
                    break
                if attempt:
                    await self._sleep(PAUSE)
                error = await self._punch(connection)
            if error is not None and not self._is_direct(peer):
                logger.debug("no direct path to %s: %s", peer, error)
                self._emit(HolePunchFailed(peer, error))
        finally:
            self._upgrading.discard(peer)

    async def _dial_back(self, connection: Connection, told: Iterable[Multiaddr]) -> Exception | None:
        """To the addresses that it listens on, if it has told any: perhaps it can be reached as it is."""
        addresses = _direct(told)
        if not addresses:
            return DialError(connection.peer, reason="it has told no address without a relay")
        return await self._try(connection, addresses, initiator=True)

    async def _punch(self, connection: Connection) -> Exception | None:
        """One round."""
        loop = connection.loop
        try:
            async with asyncio.timeout(TIMEOUT), await connection.open_stream(PROTOCOL) as stream:
                await stream.negotiated()
                sent = loop.time()
                await write(stream, self._connect_message())
                addresses = await _read_addresses(stream)
                round_trip = loop.time() - sent
                await write(stream, messages.HolePunch(type=MessageType.SYNC))
        except (StrongholdError, TimeoutError) as error:
            return error
        await self._sleep(round_trip / 2)
        # We act as the server of the connection, since both dial.
        return await self._try(connection, addresses, initiator=False)

    # -- the end that came -----------------------------------------------------------------------

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        if connection.path.relay is None or connection.direction is Direction.INBOUND:
            raise RemoteProtocolError(PROTOCOL, "it is for who was reached by a relay to begin")
        async with asyncio.timeout(TIMEOUT):
            addresses = await _read_addresses(stream)
            await write(stream, self._connect_message())
            message = await read(stream, messages.HolePunch)
            if message.type != MessageType.SYNC:
                raise RemoteProtocolError(PROTOCOL, f"expected SYNC, got a message of type {message.type}")
        await stream.close()
        error = await self._try(connection, addresses, initiator=True)
        if error is not None:
            self._emit(HolePunchFailed(connection.peer, error))

    # -- both ------------------------------------------------------------------------------------

    async def _try(
        self, connection: Connection, addresses: tuple[Multiaddr, ...], *, initiator: bool
    ) -> Exception | None:
        """Dials; returns the error, or None if there is a direct connection now."""
        if not addresses:
            return DialError(connection.peer, reason="it has told no address without a relay")
        try:
            direct = await self._dial(connection.peer, addresses, initiator=initiator, timeout=DIAL_TIMEOUT)
        except StrongholdError as error:
            return error
        self._emit(PathUpgraded(direct.info, connection.path))
        connection.drain()
        return None

    def _is_direct(self, peer: PeerId) -> bool:
        connection = self.host.connection(peer)
        return connection is not None and connection.path.relay is None

    def _connect_message(self) -> messages.HolePunch:
        return messages.HolePunch(type=MessageType.CONNECT, ObsAddrs=map(bytes, self._candidates()[:MAX_ADDRESSES]))


async def _read_addresses(stream: Stream) -> tuple[Multiaddr, ...]:
    message = await read(stream, messages.HolePunch)
    if message.type != MessageType.CONNECT:
        raise RemoteProtocolError(PROTOCOL, f"expected CONNECT, got a message of type {message.type}")
    addresses = []
    for encoded in message.ObsAddrs[:MAX_ADDRESSES]:
        try:
            addresses.append(Multiaddr.from_bytes(encoded))
        except DecodeError:
            continue
    return _direct(addresses)


def _direct(addresses: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Those that lead over no relay, without a peer id."""
    direct = [one.without_peer() for one in addresses if len(one.components) > 1 or one.peer_id is None]
    return tuple(one for one in direct if all(name != "p2p-circuit" for name, _ in one))[:MAX_ADDRESSES]
