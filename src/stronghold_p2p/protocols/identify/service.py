"""Identify as a service: asks every remote, answers every remote, and pushes what changes."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, NamedTuple, TypeAlias

from ...errors import ProtocolNotSupported, StrongholdError
from ...identity import PeerId
from ...multiaddr import Multiaddr
from ...transport.connection import Connection
from ...transport.stream import Stream
from ...transport.substream import Substream
from ..service import Service, in_task, open_question
from . import message
from .records import Records

__all__ = ["IdentifyService"]

logger = logging.getLogger("stronghold_p2p")

DELAY: Final = 0.01
"""Seconds that a new connection has for its first request, before we ask who the remote is: the answer takes the remote
some of the time of a handshake, and us a signature to check."""

PUSH_INTERVAL: Final = 1.0
"""Seconds between two pushes that are read, but for the first ones: what a remote offers changes seldom."""

PUSHES_AT_ONCE: Final = 8
"""Those that are read without a pause, as when a peer begins to listen and sets its rules."""

_Offer: TypeAlias = tuple[tuple[str, ...], tuple[Multiaddr, ...]]
"""The protocols that a peer may open, and our addresses that it is told."""


class _Told(NamedTuple):
    """What a remote was told last."""

    offer: int
    """The hash of that: what it knows is not pushed."""
    changes: int
    """How many had there been by then."""


class IdentifyService(Service):
    """Identify and identify push."""

    def __init__(self) -> None:
        self.protocols = {
            message.PROTOCOL: in_task(self._serve),
            message.PUSH_PROTOCOL: self._take_push,
        }
        self._records = Records()
        self._pushes: dict[Connection, Stream] = {}
        """The newest that a remote has sent, and that is not read yet."""
        self._reading_push: dict[Connection, Stream] = {}
        """The one that is read, or was read last."""
        self._push_readers: set[Connection] = set()
        self._push_times: dict[Connection, float] = {}
        self._told: dict[Connection, _Told] = {}
        self._changes = 0
        """How often what somebody is offered has changed."""

    # -- as a service ----------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        connection.loop.call_later(DELAY, self._begin, connection)

    def closed(self, connection: Connection) -> None:
        self._push_times.pop(connection, None)
        self._told.pop(connection, None)
        unread = self._pushes.pop(connection, None)
        if unread is not None:
            unread.reset()

    def offer_changed(self, peer: PeerId | None) -> None:
        """Pushes to ``peer``, or all: to those that have heard it before and take pushes."""
        self._changes += 1
        for each in self.host.connected_peers if peer is None else (peer,):
            self._push_change(each)

    def network_changed(self) -> None:
        self._records.clear()

    # -- asking ----------------------------------------------------------------------------------

    def _begin(self, connection: Connection) -> None:
        if connection.usable:
            connection.spawn(self._identify(connection))

    async def _identify(self, connection: Connection) -> None:
        asked = False
        try:
            async with asyncio.timeout(self.host.config.request_timeout):
                async with await open_question(connection, message.PROTOCOL) as stream:
                    asked = True
                    identity = await message.read(stream)
        except (StrongholdError, TimeoutError) as error:
            logger.debug("%r was not identified: %s", connection, error)
            # One that has agreed to the protocol has it, whatever it then said; one with no stream to spare was not asked.
            refused = asked and isinstance(error, ProtocolNotSupported | TimeoutError)
            if refused and not connection.serves(message.PROTOCOL):
                connection.remote_without_identify()
        else:
            self.host.identified(connection, identity)
            told = self._told.get(connection)
            if told is not None and told.changes < self._changes:
                # What it was told may have changed before we could know that it takes pushes.
                self._push_change(connection.peer)

    def _take_push(self, connection: Connection, substream: Substream) -> None:
        """Only the newest is read, which tells all, and in the end one a second: each costs parsing, and tells every
        service."""
        connection.ignore_for_keep_alive(substream)  # it may wait, and closing must not
        for older in (self._pushes.get(connection), self._reading_push.get(connection)):
            if older is not None:
                older.reset()
        self._pushes[connection] = Stream(substream)
        if connection not in self._push_readers:
            self._push_readers.add(connection)
            connection.spawn(self._read_pushes(connection))

    async def _read_pushes(self, connection: Connection) -> None:
        try:
            while connection in self._pushes:
                await self._wait_for_push_time(connection)
                self._reading_push[connection] = stream = self._pushes.pop(connection)
                await self._read_push(connection, stream)
        finally:
            self._push_readers.discard(connection)
            self._reading_push.pop(connection, None)

    async def _wait_for_push_time(self, connection: Connection) -> None:
        """A leaky bucket: it is empty at the time that is kept, and each push fills it by one interval."""
        now = connection.now()
        full_by = max(self._push_times.get(connection, now), now) + PUSH_INTERVAL
        self._push_times[connection] = full_by
        await asyncio.sleep(full_by - PUSHES_AT_ONCE * PUSH_INTERVAL - now)

    async def _read_push(self, connection: Connection, stream: Stream) -> None:
        try:
            async with asyncio.timeout(self.host.config.request_timeout), stream:
                identity = await message.read(stream)
        except (StrongholdError, TimeoutError) as error:
            logger.debug("a push of %r was not read: %s", connection, error)
        else:
            self.host.identified(connection, identity)

    # -- answering -------------------------------------------------------------------------------

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        await message.serve(stream, self._message(connection))

    def _push_change(self, peer: PeerId) -> None:
        connection = self.host.connection(peer)
        if connection is not None and connection.serves(message.PUSH_PROTOCOL):
            told = self._told.get(connection)
            if told is None or told.offer != hash(self._offer(connection)):
                connection.spawn(self._push(connection))

    async def _push(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self.host.config.request_timeout):
                async with await open_question(connection, message.PUSH_PROTOCOL) as stream:
                    # What changes in this time is told, too: remotes may read two pushes in any order.
                    await stream.negotiated()
                    await message.serve(stream, self._message(connection))
        except (StrongholdError, TimeoutError) as error:
            logger.debug("push to %r failed: %r", connection, error)

    def _message(self, connection: Connection) -> bytes:
        protocols, addresses = offer = self._offer(connection)
        self._told[connection] = _Told(hash(offer), self._changes)
        return message.encode(
            self.host.keypair.public_key,
            protocols=protocols,
            listen_addresses=addresses,
            record=self._records.record_for(connection.peer, addresses, self.host.keypair),
            observed_address=connection.remote_address if connection.path.relay is None else None,
        )

    def _offer(self, connection: Connection) -> _Offer:
        return self.host.offered(connection.peer), self.host.told_to(connection)
