"""A relay between swarms in memory, which say of the protocol what a test wants to be said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from stronghold_p2p import Config, Event, Multiaddr, Path, PeerId, RelayServer, Stream
from stronghold_p2p.encoding import messages
from stronghold_p2p.firewall.admission import Admission
from stronghold_p2p.protocols.framing import read, write
from stronghold_p2p.protocols.relay.message import HOP, STOP, HopType, Status, StopType
from stronghold_p2p.protocols.relay.server import RelayService
from stronghold_p2p.protocols.service import Service, in_task
from stronghold_p2p.transport.connection import Connection

from .network import MemoryTransport
from .swarms import make_swarm
from .waiting import until

__all__ = ["Node", "RelayNet", "connect_to", "relay_net"]

RELAY_ADDRESS = Multiaddr.parse("/memory/1")
PATIENT = Config(max_control_frames=10**9, close_timeout=0.05)
"""With remotes that ask more often than is worth a connection, and do not wait for what goes on when they close."""

AT_ANY_RATE = {
    f"max_{what}_per_minute_per_{whom}": 10**9 for what in ("reservations", "circuits") for whom in ("peer", "network")
}


class Node:
    """A swarm that accepts every circuit to it, unless ``answer`` says otherwise: a status, or None for silence. The streams of
    the stop protocol wait in ``stops``."""

    def __init__(self, network: MemoryTransport, relay: PeerId | None, *services: Service) -> None:
        self.answer: Status | None = Status.OK
        self.stops: asyncio.Queue[Stream] = asyncio.Queue()
        self.events: list[Event] = []
        self.swarm = make_swarm((network,), services, self.events, config=PATIENT)
        self.swarm.handle(STOP, in_task(self._stop))
        self._relay = relay

    @property
    def peer(self) -> PeerId:
        return self.swarm.peer_id

    async def connection(self) -> Connection:
        """That with the relay."""
        assert self._relay is not None
        return await self.swarm.connect(self._relay, (RELAY_ADDRESS,), asyncio.get_running_loop().time() + 10)

    async def reserve(self) -> int:
        """The status that the relay answers."""
        async with await (await self.connection()).open_stream(HOP) as stream:
            await write(stream, messages.HopMessage(type=HopType.RESERVE))
            return (await read(stream, messages.HopMessage)).status

    async def ask(self, target: PeerId) -> Stream:
        """A stream on which the relay is asked for a circuit to ``target``."""
        stream = await (await self.connection()).open_stream(HOP)
        await write(stream, connect_to(target))
        return stream

    async def circuit(self, target: PeerId) -> tuple[int, Stream]:
        """The status that the relay answers, and the stream."""
        stream = await self.ask(target)
        return (await read(stream, messages.HopMessage)).status, stream

    async def _stop(self, connection: Connection, stream: Stream) -> None:
        await read(stream, messages.StopMessage)
        if self.answer is not None:
            await write(stream, messages.StopMessage(type=StopType.STATUS, status=self.answer))
        self.stops.put_nowait(stream)
        await asyncio.get_running_loop().create_future()  # the stream is open for as long as its handler runs


class RelayNet:
    """The relay, which gives at any rate within ``limits``, and the nodes that only it joins."""

    def __init__(self, **limits: Any) -> None:
        self.network = MemoryTransport(range(100), Path("memory"))
        self.service = RelayService(RelayServer(**{**AT_ANY_RATE, **limits}), Admission(), lambda limit, networks: None)
        self.relay = Node(self.network, None, self.service)
        self.nodes: list[Node] = []

    def node(self) -> Node:
        """Another one."""
        self.nodes.append(Node(self.network, self.relay.peer))
        return self.nodes[-1]


@asynccontextmanager
async def relay_net(**limits: Any) -> AsyncIterator[RelayNet]:
    """At the end the nodes have gone, and the relay must have nothing left of them."""
    net = RelayNet(**limits)
    await net.relay.swarm.listen(RELAY_ADDRESS)
    try:
        yield net
        await asyncio.gather(*(node.swarm.close() for node in net.nodes))
        await until(lambda: not net.service.reservations and not net.service.circuits)
    finally:
        await asyncio.gather(*(node.swarm.close() for node in (*net.nodes, net.relay)))


def connect_to(peer: PeerId) -> messages.HopMessage:
    return messages.HopMessage(type=HopType.CONNECT, peer=messages.CircuitPeer(id=peer.to_bytes()))
