"""Identify as a service: asks every remote, answers every remote, and pushes what changes."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, TypeAlias

from ...errors import ProtocolNotSupported, RequestTimeout, StrongholdError
from ...identity import PeerId
from ...multiaddr import Multiaddr
from ...transport.connection import Connection
from ...transport.stream import Stream
from ..service import Service, in_task
from . import message

__all__ = ["IdentifyService"]

logger = logging.getLogger("stronghold_p2p")

DELAY: Final = 0.01
"""Seconds that a new connection has for its first request, before we ask who the remote is: the answer takes the remote
some of the time of a handshake, and us a signature to check."""

_Offer: TypeAlias = tuple[tuple[str, ...], tuple[Multiaddr, ...]]
"""The protocols that a peer may open, and where we listen."""


class IdentifyService(Service):
    """Identify and identify push."""

    def __init__(self) -> None:
        self.protocols = {
            message.PROTOCOL: in_task(self._serve),
            message.PUSH_PROTOCOL: in_task(self._receive_push),
        }
        self._record: bytes | None = None
        """The addresses below as we have signed them, for all who identify us; None until one does."""
        self._record_addresses: tuple[Multiaddr, ...] = ()
        self._receiving_push: dict[Connection, Stream] = {}

    # -- as a service ----------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        connection.loop.call_later(DELAY, self._begin, connection, self._offer(connection.peer))

    def offer_changed(self, peer: PeerId | None) -> None:
        """Pushes to ``peer``, or all: to those that have heard it before and take pushes."""
        peers = self.host.connected_peers if peer is None else (peer,)
        for connection in filter(None, map(self.host.connection, peers)):
            if connection.serves(message.PUSH_PROTOCOL):
                connection.spawn(self._push(connection))

    # -- asking ----------------------------------------------------------------------------------

    def _begin(self, connection: Connection, offer: _Offer) -> None:
        if connection.usable:
            connection.spawn(self._identify(connection, offer))

    async def _identify(self, connection: Connection, offer: _Offer) -> None:
        """``offer`` is what the remote was offered first: it may have asked for it at any time since."""
        asked = False
        try:
            async with asyncio.timeout(self.host.config.request_timeout):
                async with await connection.open_stream(message.PROTOCOL) as stream:
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
            if offer != self._offer(connection.peer):
                # It changed before we could know that the remote takes pushes, and the remote may have heard the old.
                self.offer_changed(connection.peer)

    async def _receive_push(self, connection: Connection, stream: Stream) -> None:
        # One at a time, since each costs parsing and a remote has hundreds of streams; and the newest, which tells all.
        if (older := self._receiving_push.get(connection)) is not None:
            older.reset()
        self._receiving_push[connection] = stream
        try:
            await self._read_push(connection, stream)
        finally:
            if self._receiving_push.get(connection) is stream:
                del self._receiving_push[connection]

    async def _read_push(self, connection: Connection, stream: Stream) -> None:
        timeout = self.host.config.request_timeout
        try:
            async with asyncio.timeout(timeout):
                identity = await message.read(stream)
        except TimeoutError:
            raise RequestTimeout(timeout, "identify push") from None
        self.host.identified(connection, identity)

    # -- answering -------------------------------------------------------------------------------

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        await message.serve(stream, self._message(connection))

    async def _push(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self.host.config.request_timeout):
                async with await connection.open_stream(message.PUSH_PROTOCOL) as stream:
                    # What changes in this time is told, too: remotes may read two pushes in any order.
                    await stream.negotiated()
                    await message.serve(stream, self._message(connection))
        except (StrongholdError, TimeoutError) as error:
            logger.debug("push to %r failed: %s", connection, error)

    def _message(self, connection: Connection) -> bytes:
        protocols, addresses = self._offer(connection.peer)
        if self._record is None or self._record_addresses != addresses:
            self._record = message.sign_record(self.host.keypair, addresses)
            self._record_addresses = addresses
        return message.encode(
            self.host.keypair.public_key,
            protocols=protocols,
            listen_addresses=addresses,
            record=self._record,
            observed_address=connection.remote_address,
        )

    def _offer(self, peer: PeerId) -> _Offer:
        return self.host.offered(peer), self.host.listen_addresses
