"""Swarms with AutoNAT on loopback, where each address of 127/8 is a network, and counts as public."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from stronghold_p2p import Config, Event, Multiaddr, PeerId, Stream
from stronghold_p2p.protocols.autonat.client import AutonatClient
from stronghold_p2p.protocols.autonat.message import DIAL_REQUEST
from stronghold_p2p.protocols.autonat.reachability import ReachabilityService
from stronghold_p2p.protocols.autonat.server import AutonatServer
from stronghold_p2p.protocols.identify import IdentifyService
from stronghold_p2p.protocols.ping import PROTOCOL as PING
from stronghold_p2p.protocols.ping import PingService
from stronghold_p2p.protocols.service import Service
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.tcp import TcpTransport
from stronghold_p2p.transport.transport import Transport
from stronghold_p2p.transport.websocket import WebSocketTransport

from .swarms import make_swarm
from .waiting import until

__all__ = ["ALICE", "BOB", "CAROL", "Node", "everywhere", "nodes"]

ALICE, BOB, CAROL = (f"/ip4/127.0.0.{number}/tcp/0" for number in (1, 2, 3))


def everywhere(address: Multiaddr) -> bool:
    return True


class Node:
    """A swarm that asks servers, and is one if ``serves``."""

    def __init__(
        self,
        *,
        serves: bool = False,
        is_public: Callable[[Multiaddr], bool] = everywhere,
        client: AutonatClient | None = None,
        services: Sequence[Service] | None = None,
        transport: Transport | None = None,
        authorities: Path | None = None,
        **parts: Any,
    ) -> None:
        """``services`` are in place of the client's, ``transport`` is in place of TCP and WebSocket."""
        config, turns = Config(), Turns(asyncio.get_running_loop(), 1.0)
        self.events: list[Event] = []
        self.client = client or AutonatClient(is_public=is_public)
        self.server = AutonatServer(is_public=is_public, max_wait=0.0)
        self.reachability = ReachabilityService(
            self.client, is_public=is_public, emit=self.events.append, delay=0.0, clock=lambda: 1_800_000_000.0
        )
        self.swarm = make_swarm(
            (transport,)
            if transport
            else (TcpTransport(config, turns), WebSocketTransport(config, turns, authorities)),
            (
                IdentifyService(),
                PingService(),
                *([self.server] if serves else []),
                *((self.client, self.reachability) if services is None else services),
            ),
            self.events,
            **parts,
        )
        self._serves, self._asks = serves, services is None

    @property
    def peer(self) -> PeerId:
        return self.swarm.peer_id

    @property
    def address(self) -> Multiaddr:
        """The first that it listens on."""
        return self.swarm.own_addresses.addresses[0]

    async def listen(self, address: str) -> Multiaddr:
        return (await self.swarm.listen(Multiaddr.parse(address))).addresses[0].without_peer()

    async def connect(self, other: Node) -> Connection:
        """A connection whose remote has told what it serves."""
        connection = await self.swarm.connect(other.peer, (other.address,), asyncio.get_running_loop().time() + 10)
        await until(lambda: connection.serves(PING))
        return connection

    async def request(self, connection: Connection) -> Stream:
        """A stream for a request by hand."""
        stream = await connection.open_stream(DIAL_REQUEST)
        await stream.negotiated()
        return stream

    async def close(self) -> None:
        self.reachability.close()
        if self._asks:
            await self.client.close()
        if self._serves:
            await self.server.close()
        await self.swarm.close()


@asynccontextmanager
async def nodes(*made: Node) -> AsyncIterator[None]:
    """Closes them in the end."""
    try:
        yield
    finally:
        for node in made:
            await node.close()
