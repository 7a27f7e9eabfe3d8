"""Connections that are none of the swarm's: for one protocol, and for a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from ...errors import ClosedError
from ...events import Direction
from ...identity import PeerId
from ...resources.networks import networks_of
from ...transport.connection import Connection
from ...transport.pipe import BytePipe
from ...transport.substream import Substream
from ...wire.upgrade import Upgrade
from ..service import ServiceHost, StreamHandler

__all__ = ["DetachedConnections"]

LIFETIME: Final = 15.0
"""Seconds after which a connection ends, whatever is on it."""


class DetachedConnections:
    """Holds connections beside those of the swarm: no request, no identify, no event and no limit knows of them.

    A remote may open one stream, of one of ``protocols``. Then the connection closes as soon as that has ended.
    """

    def __init__(self, host: ServiceHost, protocols: Mapping[str, StreamHandler]) -> None:
        self.config = host.config
        self.deadlines = host.deadlines
        self.turns = host.turns
        self._memory = host.memory
        self._protocols = protocols
        self._connections: dict[Connection, asyncio.TimerHandle] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._connections)

    def establish(self, pipe: BytePipe, upgrade: Upgrade, direction: Direction) -> Connection:
        """The connection over an upgraded pipe. Whoever dialed speaks first in the handshake.

        Raises:
            ClosedError: we are closing.
        """
        if self._closed:
            raise ClosedError
        budget = self._memory.open(networks_of(pipe.remote_address), upgrade.remote_peer)
        connection = Connection(
            self,
            pipe,
            upgrade,
            initiator=direction is Direction.OUTBOUND,
            direction=direction,
            path=pipe.path,
            budget=budget,
        )
        self._connections[connection] = connection.loop.call_later(LIFETIME, connection.abort)
        return connection

    async def close(self) -> None:
        """Ends all, for good."""
        self._closed = True
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(connection.closed for connection in connections))

    # -- as the host of connections ---------------------------------------------------------------

    def offers(self, peer: PeerId, protocol: str) -> bool:
        return protocol in self._protocols

    def stream_refused(self, connection: Connection, protocol: str) -> None: ...

    def stream_opened(self, connection: Connection, stream: Substream) -> None:
        if not connection.usable:
            stream.reset()  # it had its stream
            return
        self._protocols[stream.protocol](connection, stream)
        connection.drain()

    def connection_closed(self, connection: Connection, error: Exception | None) -> None:
        self._connections.pop(connection).cancel()
        self._memory.close(connection.budget)
