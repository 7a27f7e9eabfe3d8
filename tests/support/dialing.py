"""Dials without a socket, on a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest

from stronghold_p2p import (
    AddressBook,
    AddressEntry,
    Config,
    DialAttempt,
    DialError,
    Multiaddr,
    PeerId,
)
from stronghold_p2p.firewall.admission import Admission
from stronghold_p2p.swarm.dialer import Dial, Dialer
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.pipe import BytePipe, NullReceiver, PipeReceiver
from stronghold_p2p.transport.resolver import Resolved
from stronghold_p2p.transport.transport import (
    DIAL_PLAINLY,
    LISTEN_PLAINLY,
    Connected,
    DialOptions,
    DirectDial,
    ListenOptions,
    TransportListener,
)
from stronghold_p2p.transport.upgrade import PipeUpgrade

from .clock import Clock
from .connections import Host
from .memory import MemoryPipe, memory_pipes
from .waiting import settled

LIMIT = 10.0
"""Seconds for one address."""

ONE, TWO, THREE = (f"/ip4/1.2.3.{number}/tcp/1" for number in (1, 2, 3))
NAME = "/dns4/host/tcp/1"
QUIC = "/ip4/1.2.3.4/udp/1/quic-v1"
REFUSED = ConnectionRefusedError("connection refused")


class Network:
    """A transport. At each address somebody takes the pipe, or an error is the answer; elsewhere, nothing answers."""

    name = "fake"

    def __init__(self) -> None:
        self.answers: dict[str, Connected | Exception] = {}
        self.dialed: list[tuple[str, float]] = []
        self.named: dict[str, str | None] = {}
        self.given_up: list[str] = []
        self.pipes: list[tuple[MemoryPipe, MemoryPipe]] = []

    def supports(self, address: Multiaddr) -> bool:
        return [name for name, _ in address][1:] == ["tcp"]

    async def dial(self, address: Multiaddr, connected: Connected, options: DialOptions = DIAL_PLAINLY) -> None:
        self.named[str(address)] = str(options.named) if options.named else None
        self.dialed.append((str(address), asyncio.get_running_loop().time()))
        answer = self.answers.get(str(address))
        if answer is None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.given_up.append(str(address))
        elif isinstance(answer, Exception):
            raise answer
        else:
            self.pipes.append(memory_pipes(connected, answer))

    async def listen(
        self, address: Multiaddr, connected: Connected, options: ListenOptions = LISTEN_PLAINLY
    ) -> TransportListener:
        raise NotImplementedError

    async def close(self) -> None: ...


class Names:
    """A resolver. Names that it does not have are looked up for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str] | Exception] = {}
        self.asked: list[str] = []
        self.told: set[str] = set()
        """Those that count as told by a remote."""
        self.slow: dict[str, asyncio.Future[None]] = {}
        """Names whose answers come later."""
        self.ttl = 3600.0
        """Of TXT records."""

    async def resolve(self, address: Multiaddr, peer: PeerId, *, told: bool) -> Resolved:
        self.asked.append(str(address))
        if told:
            self.told.add(str(address))
        answer = self.answers.get(str(address))
        if answer is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(answer, Exception):
            raise answer
        if str(address) in self.slow:
            await self.slow[str(address)]
        found = [Multiaddr.parse(found) for found in answer or ()]
        return Resolved(found, self.ttl if address.components[0][0] == "dnsaddr" else None)


class Search:
    """For the addresses of peers. It goes on until it has an answer."""

    def __init__(self) -> None:
        self.asked: list[PeerId] = []
        self.answer: asyncio.Future[list[Multiaddr]] = asyncio.get_running_loop().create_future()

    async def find(self, peer: PeerId) -> list[Multiaddr]:
        self.asked.append(peer)
        return await asyncio.shield(self.answer)

    def found(self, *addresses: str) -> None:
        self.answer.set_result(list(map(Multiaddr.parse, addresses)))


class World:
    """Alice, who dials, and all that she needs; Bob, who is dialed."""

    def __init__(self, **config: Any) -> None:
        loop = asyncio.get_running_loop()
        self.clock = Clock(loop.time())
        loop.time = self.clock  # type: ignore[method-assign]
        self.begun = self.clock.now
        self.alice, self.bob = Host(Config()), Host(Config())
        self.peer = self.bob.keypair.peer_id
        self.network, self.names, self.search = Network(), Names(), Search()
        self.admission = Admission()
        self.book = AddressBook(clock=self.clock)
        self.own: list[str] = []
        """Where Alice listens."""
        self.calls: list[asyncio.Task[Connection]] = []
        self.upgrades: list[tuple[str, bool]] = []
        """The address as it was given, and Alice's role."""
        self.dialer = Dialer(
            Config(**{"connection_timeout": LIMIT, **config}),
            transports=(self.network,),
            resolver=self.names,
            admission=self.admission,
            addresses=self.book,
            is_own=lambda address: str(address) in self.own,
            networks=lambda: [ip_network("192.168.1.0/24")],
            upgrade=self.upgrade,
            find=self.search.find,
        )

    def upgrade(self, pipe: BytePipe, peer: PeerId, dialed: Multiaddr, *, direct: DirectDial | None) -> PipeUpgrade:
        initiator = direct is not DirectDial.RESPONDER
        self.upgrades.append((str(dialed), initiator))
        return self.alice.upgrade(pipe, expected_peer=peer, initiator=initiator)

    def answer(self, pipe: BytePipe, *, initiator: bool = False) -> PipeReceiver:
        """Bob is there."""
        return self.bob.upgrade(pipe, expected_peer=None, initiator=initiator)

    @staticmethod
    def silence(pipe: BytePipe) -> PipeReceiver:
        """Somebody takes the connection, and says nothing."""
        return NullReceiver()

    def dial(self, *addresses: str, peer: PeerId | None = None, **options: Any) -> Dial:
        return self.dialer.dial(peer or self.peer, map(Multiaddr.parse, addresses), **options)

    def call(self, *addresses: str, timeout: float = 1000.0, **options: Any) -> asyncio.Task[Connection]:
        """A caller who waits."""
        dial = self.dial(*addresses, **options)
        self.calls.append(asyncio.create_task(dial.outcome(self.clock.now + timeout)))
        return self.calls[-1]

    async def failure(self, call: asyncio.Task[Connection]) -> dict[str, DialAttempt]:
        """What the caller is told, by address."""
        with pytest.raises(DialError) as caught:
            await call
        assert caught.value.peer == self.peer
        return {str(attempt.address): attempt for attempt in caught.value.attempts}

    @property
    def started(self) -> dict[str, Any]:
        """When each address was dialed, in seconds from the beginning, in order."""
        assert len(dict(self.network.dialed)) == len(self.network.dialed), "an address was dialed twice"
        return {address: pytest.approx(now - self.begun) for address, now in self.network.dialed}

    def entry(self, address: str) -> AddressEntry:
        return next(entry for entry in self.book.entries(self.peer) if str(entry.address) == address)

    def know(self, *addresses: str) -> None:
        for address in addresses:
            self.book.add(address, self.peer)


@asynccontextmanager
async def a_world(**config: Any) -> AsyncIterator[World]:
    """At the end, nothing of it is left."""
    world = World(**config)
    yield world
    for call in world.calls:
        call.cancel()
    await asyncio.gather(*world.calls, return_exceptions=True)
    world.dialer.close()
    await world.dialer.ended()
    assert world.dialer.dials == {}
    for pipe, _ in world.network.pipes:
        pipe.abort()
    await settled()
    for host in world.alice, world.bob:
        host.deadlines.close()
