"""Two connections in memory, and the hosts that hold them: everything of a peer but the swarm and the requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from stronghold_p2p import Config, Direction, Keypair, PeerId
from stronghold_p2p.resources.memory import Memory, MemoryShare
from stronghold_p2p.resources.networks import networks_of
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.deadlines import Deadlines
from stronghold_p2p.transport.pipe import BytePipe
from stronghold_p2p.transport.stream import Stream
from stronghold_p2p.transport.substream import Substream
from stronghold_p2p.transport.transport import Connected
from stronghold_p2p.transport.upgrade import PipeUpgrade
from stronghold_p2p.wire.noise import NoiseIdentity, NoiseTransport
from stronghold_p2p.wire.noise_xx import NoiseKey
from stronghold_p2p.wire.upgrade import MUXERS, Upgrade

from .memory import MemoryPipe, memory_pipes
from .recorder import Recorder
from .waiting import until

__all__ = ["ECHO", "RAW", "Host", "Pair", "connected", "upgraded"]

Pipe = TypeVar("Pipe", bound=BytePipe)

ECHO: Final = "/echo/1.0.0"

RAW: Final = "/raw/1.0.0"
"""Streams of this are taken by callbacks."""


class Host:
    """Holds one connection. The streams that the remote opens wait in ``inbound``, those of RAW in ``recorders``."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.keypair = Keypair.generate()
        self.deadlines = Deadlines(asyncio.get_running_loop())
        self.turns = Turns(asyncio.get_running_loop(), config.turn_time)
        self.memory = Memory(config.max_receive_buffer)
        self.budget: MemoryShare
        self.offered = {ECHO, RAW}
        self.inbound: asyncio.Queue[Stream] = asyncio.Queue()
        self.recorders: asyncio.Queue[Recorder] = asyncio.Queue()
        self.closed: list[tuple[Connection, Exception | None]] = []
        self.noise: NoiseTransport
        """Encrypts what a test has this end say."""

    def offers(self, peer: PeerId, protocol: str) -> bool:
        return protocol in self.offered

    def stream_refused(self, connection: Connection, protocol: str) -> None: ...

    def stream_opened(self, connection: Connection, stream: Substream) -> None:
        if stream.protocol == RAW:
            self.recorders.put_nowait(Recorder(stream))
        else:
            self.inbound.put_nowait(Stream(stream))

    def connection_closed(self, connection: Connection, error: Exception | None) -> None:
        self.closed.append((connection, error))

    def upgrade(self, pipe: BytePipe, *, expected_peer: PeerId | None, initiator: bool | None = None) -> PipeUpgrade:
        """``initiator``: the role, that of who dialed unless it is given."""
        role = pipe.path.dialed is not None if initiator is None else initiator
        return PipeUpgrade(
            pipe,
            NoiseIdentity(self.keypair, X25519PrivateKey.generate(), MUXERS),
            NoiseKey(X25519PrivateKey.generate()),
            initiator=role,
            expected_peer=expected_peer,
            establish=partial(self._establish, initiator=role),
        )

    def _establish(self, pipe: BytePipe, upgrade: Upgrade, *, initiator: bool) -> Connection:
        self.noise = upgrade.noise
        direction = Direction.INBOUND if pipe.path.dialed is None else Direction.OUTBOUND
        self.budget = self.memory.open(networks_of(pipe.remote_address), upgrade.remote_peer)
        return Connection(
            self, pipe, upgrade, initiator=initiator, direction=direction, path=pipe.path, budget=self.budget
        )


class Pair:
    """``alice`` has dialed ``bob``."""

    def __init__(
        self, hosts: tuple[Host, Host], connections: tuple[Connection, Connection], pipes: tuple[MemoryPipe, MemoryPipe]
    ) -> None:
        self.alice_host, self.bob_host = hosts
        self.alice, self.bob = connections
        self.alice_pipe, self.bob_pipe = pipes

    async def streams(self, protocol: str = ECHO) -> tuple[Stream, Stream]:
        """Both ends of a new stream."""
        outbound = await self.alice.open_stream(protocol)
        await outbound.negotiated()
        return outbound, await self.bob_host.inbound.get()

    async def recorders(self) -> tuple[Recorder, Recorder]:
        """Both ends of a new stream of RAW."""
        outbound = Recorder(await self.alice.open_substream(RAW))
        outbound.stream.propose()
        await until(lambda: outbound.has_agreed)
        return outbound, await self.bob_host.recorders.get()


@asynccontextmanager
async def connected(
    config: Config | None = None, *, bob_config: Config | None = None, segment: int | None = None
) -> AsyncIterator[Pair]:
    """A pair, connected; at the end it is closed, and must leave nothing."""
    config = config or Config()
    hosts = Host(config), Host(bob_config or config)

    def connect(alice: Connected, bob: Connected) -> tuple[MemoryPipe, MemoryPipe]:
        return memory_pipes(alice, bob, max_send_buffer=config.max_send_buffer, segment=segment)

    async with upgraded(hosts, connect) as (pipes, connections):
        yield Pair(hosts, connections, pipes)


@asynccontextmanager
async def upgraded(
    hosts: tuple[Host, Host], connect: Callable[[Connected, Connected], tuple[Pipe, Pipe]]
) -> AsyncIterator[tuple[tuple[Pipe, Pipe], tuple[Connection, Connection]]]:
    """Two pipes that ``connect`` makes, and the connections over them; at the end these are closed, and must leave
    nothing."""
    alice, bob = hosts
    upgrades: dict[Host, PipeUpgrade] = {}

    def start(host: Host, expected_peer: PeerId | None, pipe: BytePipe) -> PipeUpgrade:
        upgrades[host] = host.upgrade(pipe, expected_peer=expected_peer)
        return upgrades[host]

    pipes = connect(partial(start, alice, bob.keypair.peer_id), partial(start, bob, None))
    first, second = await asyncio.gather(*(upgrades[host].finished for host in hosts))
    try:
        yield pipes, (first, second)
    finally:
        first.abort()
        await asyncio.gather(first.closed, second.closed)
        for host in hosts:
            assert host.budget.used == 0
            assert not [item for items in host.deadlines._ticks.values() for item in items]
            assert len(host.closed) == 1
            host.deadlines.close()
