"""From a relayed connection to a direct one, in memory: who begins, what is dialed, and what becomes of either connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from conftest import MakePeer
from support.memory import MemoryPipe, memory_pipes
from support.network import MemoryTransport
from support.swarms import make_swarm
from support.waiting import begun, next_event, settled, until

from stronghold_p2p import (
    Config,
    ConnectionClosed,
    ConnectionLost,
    DialError,
    Direction,
    Event,
    FirewallRules,
    HolePunchFailed,
    Keypair,
    Multiaddr,
    Path,
    PathUpgraded,
    PeerId,
    PeerIdentified,
    RelayServer,
    RemoteProtocolError,
    Request,
    Stream,
    StreamReset,
    StrongholdP2p,
)
from stronghold_p2p.encoding import messages
from stronghold_p2p.protocols import hole_punching, identify
from stronghold_p2p.protocols.framing import read, write
from stronghold_p2p.protocols.hole_punching import MAX_UPGRADES, PROTOCOL, HolePunching, MessageType
from stronghold_p2p.protocols.identify import IdentifyService
from stronghold_p2p.protocols.service import Service, ServiceHost, in_task
from stronghold_p2p.swarm.keeper import Keeper
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.substream import Substream
from stronghold_p2p.transport.transport import DIAL_PLAINLY, Connected, DialOptions, DirectDial

RELAY_KEYS = Keypair.generate()
RELAY = RELAY_KEYS.peer_id
DIRECT, RELAYED, PUNCHED = range(1000), range(1000, 2000), range(2000, 3000)
CIRCUIT = Path("circuit", relay=RELAY)
ECHO = "/echo/1.0.0"
SOON = 0.05
"""Seconds."""


def memory(number: int) -> Multiaddr:
    return Multiaddr.parse(f"/memory/{number}")


class Punched(MemoryTransport):
    """Between NATs: a dial to ``n`` of one end and one to ``n + 1`` of the other meet, at the same moment. Any other dial is
    never answered."""

    def __init__(self) -> None:
        super().__init__(PUNCHED, Path("memory"))
        self.dialing: dict[int, tuple[Multiaddr, Connected, asyncio.Future[None]]] = {}
        self.dialed: list[int] = []
        self.pipes: list[MemoryPipe] = []

    async def dial(self, address: Multiaddr, connected: Connected, options: DialOptions = DIAL_PLAINLY) -> None:
        assert options.from_listen_port
        number = int(address.components[0][1] or 0)
        self.dialed.append(number)
        met = asyncio.get_running_loop().create_future()
        other = self.dialing.pop(number ^ 1, None)
        if other is None:
            self.dialing[number] = address, connected, met
            try:
                await met
            finally:
                self.dialing.pop(number, None)
        else:
            paths = replace(CIRCUIT, relay=None, dialed=address), replace(CIRCUIT, relay=None, dialed=other[0])
            self.pipes += memory_pipes(connected, other[1], paths=paths)
            other[2].set_result(None)


class Node:
    """A swarm that echoes, and all that it tells."""

    def __init__(
        self,
        transports: tuple[MemoryTransport, ...],
        config: Config | None,
        services: Sequence[Service],
        dial_timeout: float,
    ) -> None:
        self.events: list[Event] = []
        self.candidates: tuple[Multiaddr, ...] = ()
        self.permitted = Direction.BOTH
        self.punching = HolePunching(
            candidates=lambda: self.candidates,
            dialable=lambda address: address.components[0][0] == "memory" and address not in map(memory, RELAYED),
            permits=lambda peer, direction: direction in self.permitted,
            emit=self.events.append,
            pause=0.0,
            dial_timeout=dial_timeout,
        )
        self.keeper = Keeper(self.connect_kept, self.events.append)
        others = services or (self.punching,)
        self.swarm = make_swarm(transports, (IdentifyService(), self.keeper, *others), self.events, config=config)
        self.swarm.handle(ECHO, in_task(lambda connection, stream: echo(stream)))
        self.peer_id = self.swarm.peer_id

    async def connect_kept(self, peer: PeerId, deadline: float) -> Connection:
        raise DialError(peer)

    async def connect(self, other: Node, address: Multiaddr) -> Connection:
        return await self.swarm.connect(other.peer_id, (address,), now() + 10)

    async def connect_directly(self, other: Node, address: Multiaddr) -> Connection:
        return await self.swarm.connect_directly(other.peer_id, (address,), now() + 10, DirectDial.INITIATOR)

    def connection(self, other: Node) -> Connection:
        connection = self.swarm.connection(other.peer_id)
        assert connection is not None
        return connection

    async def echo(self, other: Node) -> bytes:
        """On a new stream."""
        async with await self.connection(other).open_stream(ECHO) as stream:
            await stream.write(b"hello")
            await stream.close_write()
            return await stream.readexactly(5)

    def dialed_back(self, other: Node) -> set[Multiaddr]:
        """The addresses of the dial back to ``other`` that is under way."""
        return set(self.swarm._dialer.dials[other.peer_id, DirectDial.BACK]._attempts)

    @property
    def relays(self) -> list[PeerId | None]:
        return [connection.path.relay for connection in self.swarm.connections]

    def of_kind(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def failures(self) -> list[tuple[int, bool]]:
        return [(event.attempt, event.last) for event in self.of_kind(HolePunchFailed)]

    def has_failed(self, times: int) -> bool:
        return len(self.failures) == times


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


def now() -> float:
    return asyncio.get_running_loop().time()


class Net:
    """Alice, who comes to Bob by a relay."""

    def __init__(
        self, alice: Sequence[Service], bob: Sequence[Service], config: Config | None, dial_timeout: float
    ) -> None:
        self.punched = Punched()
        self.direct = MemoryTransport(DIRECT, Path("memory"))
        self.relayed = MemoryTransport(RELAYED, CIRCUIT)
        self.transports = (self.direct, self.relayed, self.punched)
        self.alice, self.bob = (Node(self.transports, config, one, dial_timeout) for one in (alice, bob))

    async def begin(self) -> Connection:
        """Alice's relayed connection."""
        if memory(1001) not in self.bob.swarm.own_addresses.bound_addresses:
            await self.bob.swarm.listen(memory(1001))
        return await self.alice.connect(self.bob, memory(1001))

    async def upgraded(self) -> None:
        """Nothing is left but the direct connection, and each end was told of it once."""
        await until(lambda: self.alice.relays == self.bob.relays == [None])
        for one, other in (self.alice, self.bob), (self.bob, self.alice):
            (event,) = one.of_kind(PathUpgraded)
            assert event.connection.peer == other.peer_id
            assert event.connection.path.relay is None
            assert event.before.relay == RELAY
            assert [closed.error for closed in one.of_kind(ConnectionClosed)] == [None]
            assert await one.echo(other) == b"hello"


@asynccontextmanager
async def a_net(
    *,
    alice: Sequence[Service] = (),
    bob: Sequence[Service] = (),
    config: Config | None = None,
    dial_timeout: float = 100.0,
) -> AsyncIterator[Net]:
    """``alice`` and ``bob`` run these in place of hole punching."""
    net = Net(alice, bob, config, dial_timeout)
    net.alice.keeper.start()
    try:
        yield net
    finally:
        for node in net.alice, net.bob:
            await node.keeper.close()
            await node.punching.close()
            await node.swarm.close()


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    async with a_net() as made:
        yield made


@pytest.fixture
async def hurried() -> AsyncIterator[Net]:
    """Where dials are given up soon."""
    async with a_net(dial_timeout=SOON) as made:
        yield made


def unwanted(net: Net) -> None:
    """Neither end looks for a direct path by itself."""
    net.alice.permitted = net.bob.permitted = Direction(0)


def punchable(net: Net) -> None:
    net.alice.candidates, net.bob.candidates = (memory(2001),), (memory(2000),)


def out_of_reach(net: Net) -> None:
    """Nobody is at the addresses at which they think they are."""
    net.alice.candidates, net.bob.candidates = (memory(8),), (memory(9),)


# -- it succeeds ---------------------------------------------------------------------------------------------


async def test_dialing_back(net: Net) -> None:
    """Alice can be dialed."""
    await net.alice.swarm.listen(memory(1))
    await net.begin()
    await net.upgraded()
    assert net.bob.connection(net.alice).path.dialed == memory(1)
    assert net.alice.connection(net.bob).direction is Direction.INBOUND
    assert net.bob.failures == net.alice.failures == []


async def test_both_dial_at_once(net: Net) -> None:
    """Each end has dialed, and who came by the relay is the initiator: else the handshake would not end."""
    punchable(net)
    await net.begin()
    await net.upgraded()
    assert net.punched.dialed == [2000, 2001]  # Alice first: Bob gives the word half a round trip
    for one, other in (net.alice, net.bob), (net.bob, net.alice):
        assert one.connection(other).direction is Direction.OUTBOUND
    assert net.bob.failures == net.alice.failures == []


async def test_the_dial_of_one_end_is_enough(net: Net) -> None:
    """Bob can be dialed, of which Alice has not known; she does not know where she is."""
    net.bob.candidates = (memory(2),)
    await net.bob.swarm.listen(memory(2))
    await net.begin()
    await net.upgraded()
    assert net.alice.connection(net.bob).path.dialed == memory(2)


class LateIdentify(Service):
    """Of a relay that says late where it sees others."""

    def __init__(self) -> None:
        self.identify = IdentifyService()
        self.protocols = {identify.PROTOCOL: self.hold}
        self.held: list[tuple[Connection, Substream]] = []

    def attach(self, host: ServiceHost) -> None:
        self.identify.attach(host)

    def hold(self, connection: Connection, substream: Substream) -> None:
        self.held.append((connection, substream))

    def answer(self) -> None:
        for asked in self.held:
            self.identify.protocols[identify.PROTOCOL](*asked)


async def test_a_circuit_stands_before_its_relay_has_said_where_it_sees_us(net: Net) -> None:
    """Alice tells where she is when she knows it."""
    late = LateIdentify()
    relay = make_swarm((net.direct,), (late,), [], keypair=RELAY_KEYS)
    await relay.listen(memory(3))
    await net.alice.swarm.connect(RELAY, (memory(3),), now() + 10)
    net.bob.candidates = (memory(2000),)
    await net.begin()
    await until(lambda: late.held and net.bob.of_kind(PeerIdentified))
    await settled()
    assert net.punched.dialed == []
    net.alice.candidates = (memory(2001),)
    late.answer()
    await until(lambda: net.alice.of_kind(PathUpgraded) and net.bob.of_kind(PathUpgraded))
    assert net.bob.failures == net.alice.failures == []
    await relay.close()


async def test_a_direct_connection_that_nobody_has_agreed_on(net: Net) -> None:
    """Such as one by mDNS: it is an upgrade like any other."""
    unwanted(net)
    await net.begin()
    await net.bob.swarm.listen(memory(1))
    await net.alice.connect_directly(net.bob, memory(1))
    await net.upgraded()


async def test_a_second_direct_connection_is_no_upgrade(net: Net) -> None:
    unwanted(net)
    await net.bob.swarm.listen(memory(1))
    await net.alice.connect(net.bob, memory(1))
    await net.alice.connect_directly(net.bob, memory(1))
    await until(lambda: net.bob.relays == [None, None])
    assert net.alice.of_kind(PathUpgraded) == net.bob.of_kind(PathUpgraded) == []


# -- what becomes of the relayed connection --------------------------------------------------------------------


async def test_streams_in_flight_end_on_the_relayed_connection(net: Net) -> None:
    """New ones take the direct one."""
    unwanted(net)
    relayed = await net.begin()
    await net.bob.swarm.listen(memory(1))
    async with await relayed.open_stream(ECHO) as stream:
        await stream.write(b"one")
        assert await stream.readexactly(3) == b"one"
        await net.alice.connect_directly(net.bob, memory(1))
        await until(lambda: not relayed.usable)
        assert await net.alice.echo(net.bob) == await net.bob.echo(net.alice) == b"hello"
        await stream.write(b"two")
        assert await stream.readexactly(3) == b"two"
        assert net.alice.relays == net.bob.relays == [None, RELAY]
        await stream.close_write()
        assert await stream.read() == b""
    await net.upgraded()


async def test_traffic_goes_on_beside_the_upgrade(net: Net) -> None:
    """Every stream ends as it should, at whatever moment it began."""
    punchable(net)
    echoed = 0

    async def echo_on(one: Node, other: Node) -> None:
        nonlocal echoed
        while net.alice.relays != [None] or net.bob.relays != [None]:
            assert await one.echo(other) == b"hello"
            echoed += 1

    await net.begin()
    await until(lambda: net.bob.relays)
    await asyncio.gather(*(echo_on(*pair) for pair in [(net.alice, net.bob), (net.bob, net.alice)] * 4))
    await net.upgraded()
    assert echoed >= 8


class Hasty(Service):
    """Closes the relayed connection the moment it has a direct one, as js-libp2p does, before the other end has that."""

    def __init__(self) -> None:
        self.protocols = {PROTOCOL: in_task(self._serve)}
        self.relayed: Connection | None = None
        self.delay: Callable[[], None] = lambda: None

    def connected(self, connection: Connection) -> None:
        if connection.path.relay is not None:
            self.relayed = connection
        elif self.relayed is not None:
            self.delay()
            self.relayed.close()

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        await read(stream, messages.HolePunch)
        await write(stream, connect_message(memory(2001)))
        await read(stream, messages.HolePunch)
        await self.host.connect_directly(connection.peer, (memory(2000),), now() + 10, DirectDial.INITIATOR)


async def test_a_remote_that_closes_the_relayed_connection_at_once() -> None:
    """What is in flight there is lost, once; the direct connection stands all the same."""
    hasty = Hasty()
    async with a_net(alice=(hasty,)) as net:
        ends: list[MemoryPipe] = []

        def delay() -> None:
            ends.extend(net.punched.pipes)
            for pipe in ends:
                pipe.reading = False

        hasty.delay = delay
        net.bob.candidates = (memory(2000),)
        await net.begin()
        await until(lambda: net.bob.swarm.connections)
        async with await net.bob.connection(net.alice).open_stream(ECHO) as stream:
            await stream.write(b"one")
            assert await stream.readexactly(3) == b"one"
            with pytest.raises(ConnectionLost):
                await stream.read()
        await until(lambda: net.bob.relays == [])
        assert net.bob.of_kind(PathUpgraded) == []
        for pipe in ends:
            pipe.reading = True
        await until(lambda: net.bob.relays == [None])
        (event,) = net.bob.of_kind(PathUpgraded)
        assert event.before.relay == RELAY
        assert await net.bob.echo(net.alice) == b"hello"


async def test_a_kept_peer_is_kept_by_the_direct_connection(net: Net) -> None:
    """The relayed one is closed though it was kept and held."""
    unwanted(net)
    relayed = await net.begin()
    net.alice.keeper.keep(net.bob.peer_id)
    assert relayed.at_work
    await until(lambda: net.alice.of_kind(PeerIdentified) and net.bob.of_kind(PeerIdentified))
    await net.bob.swarm.listen(memory(1))
    direct = await net.alice.connect_directly(net.bob, memory(1))
    await net.upgraded()
    await settled()
    assert direct.at_work


# -- it fails ------------------------------------------------------------------------------------------------


async def test_no_way(hurried: Net) -> None:
    """Both ends are told of each attempt, and of the last one; the relayed path goes on."""
    out_of_reach(hurried)
    await hurried.begin()
    await until(lambda: len(hurried.alice.failures) == len(hurried.bob.failures) == 3)
    assert hurried.alice.failures == hurried.bob.failures == [(1, False), (2, False), (3, True)]
    for one, other, dialed in (hurried.alice, hurried.bob, memory(9)), (hurried.bob, hurried.alice, memory(8)):
        for event in one.of_kind(HolePunchFailed):
            assert event.peer == other.peer_id
            assert isinstance(event.error, DialError)
            assert [attempt.address for attempt in event.error.attempts] == [dialed]
        assert one.relays == [RELAY]
        assert one.of_kind(PathUpgraded) == []
        assert await one.echo(other) == b"hello"


async def test_it_is_not_begun_again_soon(hurried: Net) -> None:
    """However often the peer comes: nobody has us knock at doors again and again. In another network it is."""
    out_of_reach(hurried)
    for failures in 3, 3, 6:
        if failures == 6:
            hurried.bob.punching.network_changed()
        hurried.bob.events[:] = [event for event in hurried.bob.events if isinstance(event, HolePunchFailed)]
        relayed = await hurried.begin()
        await until(lambda: hurried.bob.of_kind(PeerIdentified))
        await until(partial(hurried.bob.has_failed, failures))
        relayed.close()
        await until(lambda: hurried.alice.relays == hurried.bob.relays == [])


async def test_nothing_that_could_be_tried(hurried: Net) -> None:
    """It is told, once for each connection."""
    relayed = await hurried.begin()
    await until(lambda: hurried.bob.failures)
    hurried.alice.swarm.handle("/new/1.0.0", in_task(lambda connection, stream: echo(stream)))
    hurried.alice.swarm.offer_changed()
    await until(lambda: len(hurried.bob.of_kind(PeerIdentified)) == 2)
    (event,) = hurried.bob.of_kind(HolePunchFailed)
    assert (event.attempt, event.last) == (0, True)
    assert str(event.error).endswith("it has told no public address, and we know no public address of ours")
    relayed.close()
    await until(lambda: hurried.bob.relays == [])
    out_of_reach(hurried)
    await hurried.begin()
    await until(lambda: len(hurried.bob.failures) == 4)


async def test_a_remote_without_hole_punching() -> None:
    async with a_net(alice=(Service(),)) as net:
        punchable(net)
        await net.begin()
        await until(lambda: net.bob.failures)
        (event,) = net.bob.of_kind(HolePunchFailed)
        assert str(event.error).endswith(f"it has told no public address, and does not offer {PROTOCOL}")


async def test_whom_nothing_is_permitted(hurried: Net) -> None:
    """Neither begins nor joins."""
    punchable(hurried)
    hurried.bob.permitted = Direction.OUTBOUND
    relayed = await hurried.begin()
    await until(lambda: hurried.bob.of_kind(PeerIdentified))
    await settled()
    assert hurried.bob.failures == []
    assert hurried.punched.dialed == []
    relayed.close()
    await until(lambda: hurried.bob.relays == [])
    hurried.bob.permitted, hurried.alice.permitted = Direction.BOTH, Direction.INBOUND
    await hurried.begin()
    await until(lambda: len(hurried.bob.failures) == 3)
    assert all(isinstance(event.error, StreamReset) for event in hurried.bob.of_kind(HolePunchFailed))
    assert hurried.punched.dialed == []


async def test_it_ends_with_the_relayed_connection(hurried: Net) -> None:
    """Without an event: there is no path at all."""
    hurried.alice.candidates, hurried.bob.candidates = (memory(2002),), (memory(2004),)
    relayed = await hurried.begin()
    await until(lambda: len(hurried.punched.dialed) >= 2)
    relayed.close()
    await until(lambda: hurried.alice.relays == hurried.bob.relays == [])
    for node in hurried.alice, hurried.bob:
        node.events.clear()
    dialed = len(hurried.punched.dialed)
    await until(lambda: not hurried.punched.dialing)
    await settled()
    assert hurried.alice.failures == hurried.bob.failures == []
    assert len(hurried.punched.dialed) == dialed


async def test_a_peer_that_comes_anew_does_not_wait(net: Net) -> None:
    """For the dial to where it was."""
    net.alice.candidates, net.bob.candidates = (memory(2002),), (memory(2004),)
    relayed = await net.begin()
    await until(lambda: len(net.punched.dialed) == 2)
    relayed.close()
    await until(lambda: net.alice.relays == net.bob.relays == [])
    punchable(net)
    await net.begin()
    await until(lambda: net.alice.relays == net.bob.relays == [None])
    assert net.bob.failures == []


async def test_a_peer_that_comes_again_and_again_is_dialed_at_its_last_addresses_alone(net: Net) -> None:
    """Else it could have us remember, and dial, any number."""

    async def dial(address: Multiaddr, connected: Connected, options: DialOptions = DIAL_PLAINLY) -> None:
        await asyncio.get_running_loop().create_future()

    net.direct.dial = dial  # type: ignore[method-assign]
    for time in range(5):
        for number in range(8):
            await net.alice.swarm.listen(memory(8 * time + number))
        relayed = await net.begin()
        await until(lambda time=time: len(net.bob.of_kind(PeerIdentified)) == time + 1)  # type: ignore[misc]
        await settled()
        assert net.bob.dialed_back(net.alice) == {memory(8 * time + number) for number in range(8)}
        relayed.close()
        await until(lambda: net.bob.relays == [])
        net.alice.swarm.stop_listening()


async def come(others: list[Node], bob: Node) -> None:
    """One after the other, by a relay; each tells an address of its own."""
    for number, other in enumerate(others):
        other.permitted = Direction(0)
        await other.swarm.listen(memory(number))
        await other.connect(bob, memory(1001))
        await until(lambda number=number: len(bob.of_kind(PeerIdentified)) == number + 1)  # type: ignore[misc]
    await settled()


async def test_strangers_of_one_relay_do_not_hold_all_places(net: Net) -> None:
    """Each leads us to where nobody answers. Who came by another relay goes on, though it was first."""

    async def dial(address: Multiaddr, connected: Connected, options: DialOptions = DIAL_PLAINLY) -> None:
        await asyncio.get_running_loop().create_future()

    net.direct.dial = dial  # type: ignore[method-assign]
    await net.bob.swarm.listen(memory(1001))
    others = [Node(net.transports, None, (), 1.0) for _ in range(MAX_UPGRADES + 1)]
    net.relayed.listening[memory(1001)].sees(memory(1002 + (number > 0)) for number in range(len(others)))
    await come(others, net.bob)
    dialed = [other.peer_id for other in others if (other.peer_id, DirectDial.BACK) in net.bob.swarm._dialer.dials]
    assert dialed == [other.peer_id for other in others if other is not others[1]]
    for other in others:
        await other.punching.close()
        await other.swarm.close()


async def test_strangers_of_one_relay_have_us_dial_no_more_than_so_many() -> None:
    """However often they come: who gives way to the next one makes no place for it."""

    async def dial(address: Multiaddr, connected: Connected, options: DialOptions = DIAL_PLAINLY) -> None:
        dialed.add(address)
        await asyncio.get_running_loop().create_future()

    dialed: set[Multiaddr] = set()
    async with a_net(dial_timeout=1e6) as net:  # in the time of a dial they may come again
        net.direct.dial = dial  # type: ignore[method-assign]
        await net.bob.swarm.listen(memory(1001))
        others = [Node(net.transports, None, (), 1.0) for _ in range(MAX_UPGRADES + 8)]
        await come(others, net.bob)
        assert dialed == {memory(number) for number in range(MAX_UPGRADES)}
        for other in others:
            await other.punching.close()
            await other.swarm.close()


async def test_closing_in_the_middle(net: Net) -> None:
    net.alice.candidates, net.bob.candidates = (memory(2002),), (memory(2004),)
    await net.begin()
    await until(lambda: len(net.punched.dialed) == 2)
    await net.bob.punching.close()
    await until(lambda: list(net.punched.dialing) == [2004])
    net.alice.swarm.connections[0].close()
    await until(lambda: net.bob.relays == [])
    net.bob.events.clear()
    await net.begin()
    await until(lambda: net.bob.of_kind(PeerIdentified))
    await settled()
    assert list(net.punched.dialing) == []


# -- remotes that lie ----------------------------------------------------------------------------------------


SYNC = messages.HolePunch(type=MessageType.SYNC)

Script = Callable[[Stream], Awaitable[None]]


def connect_message(*addresses: Multiaddr | bytes) -> messages.HolePunch:
    return messages.HolePunch(type=MessageType.CONNECT, ObsAddrs=map(bytes, addresses))


class Scripted(Service):
    """Does as it is told on each stream."""

    def __init__(self, script: Script) -> None:
        self.protocols = {PROTOCOL: in_task(lambda connection, stream: script(stream))}


async def nothing(stream: Stream) -> None:
    await read(stream, messages.HolePunch)
    await stream.read()


async def garbage(stream: Stream) -> None:
    await stream.write(b"\x03\xff\xff\xff")
    await stream.read()


async def too_much(stream: Stream) -> None:
    await stream.write(b"\x81\x20" + bytes(4097))
    await stream.read()


async def sync_first(stream: Stream) -> None:
    await write(stream, SYNC)
    await stream.read()


async def unknown_type(stream: Stream) -> None:
    await write(stream, messages.HolePunch(type=77))
    await stream.read()


async def no_use(stream: Stream) -> None:
    """None of the addresses may be dialed."""
    other = Keypair.generate().peer_id
    addresses = memory(1500), Multiaddr.parse(f"/p2p/{stream.peer}"), memory(1).with_peer(other)
    await write(stream, connect_message(b"", b"\xff\xff", *addresses))
    for _ in range(2):
        await read(stream, messages.HolePunch)


@pytest.mark.parametrize(
    ("script", "error", "reason"),
    [
        (nothing, TimeoutError, "no answer on /libp2p/dcutr within 0.05 s"),
        (garbage, RemoteProtocolError, "not a protobuf message"),
        (too_much, RemoteProtocolError, "a message of 4097 bytes is over the limit of 4096"),
        (sync_first, RemoteProtocolError, "expected CONNECT, got a message of type 300"),
        (unknown_type, RemoteProtocolError, "expected CONNECT, got a message of type 77"),
        (no_use, DialError, "it has told no public address"),
    ],
)
async def test_a_remote_that_does_not_join(
    script: Script, error: type[Exception], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is nothing:
        monkeypatch.setattr(hole_punching, "EXCHANGE_TIMEOUT", SOON)
    async with a_net(alice=(Scripted(script),), dial_timeout=SOON) as net:
        net.bob.candidates = (memory(9),)
        await net.begin()
        await until(lambda: len(net.bob.failures) == 3)
        for event in net.bob.of_kind(HolePunchFailed):
            assert isinstance(event.error, error)
            assert reason in str(event.error)
        assert await net.bob.echo(net.alice) == b"hello"


async def test_few_addresses_are_dialed() -> None:
    async def many(stream: Stream) -> None:
        await write(stream, connect_message(*map(memory, range(2000, 2200, 2))))
        for _ in range(2):
            await read(stream, messages.HolePunch)

    async with a_net(alice=(Scripted(many),), dial_timeout=SOON) as net:
        net.bob.candidates = (memory(9),)
        await net.begin()
        await until(lambda: net.bob.failures)
        (first, *_) = net.bob.of_kind(HolePunchFailed)
        assert [attempt.address for attempt in first.error.attempts] == [*map(memory, range(2000, 2016, 2))]
        assert set(net.punched.dialed) == set(range(2000, 2016, 2))


async def begin_as_bob(net: Net, script: Script) -> None:
    """Bob does as ``script`` says on a stream that he opens."""
    await net.begin()
    await until(lambda: net.bob.swarm.connections)
    async with await net.bob.connection(net.alice).open_stream(PROTOCOL) as stream:
        await script(stream)


async def whole(stream: Stream) -> None:
    await write(stream, connect_message(memory(9)))
    await read(stream, messages.HolePunch)
    await write(stream, SYNC)
    assert await stream.read() == b""


async def connect_twice(stream: Stream) -> None:
    for _ in range(2):
        await write(stream, connect_message(memory(9)))
    await read(stream, messages.HolePunch)
    await stream.read()


@pytest.mark.parametrize("script", [garbage, too_much, sync_first, connect_twice])
async def test_a_remote_that_begins_badly(script: Script) -> None:
    async with a_net(bob=(Service(),)) as net:
        with pytest.raises(StreamReset):
            await begin_as_bob(net, script)
        await until(lambda: net.alice.failures == [(1, False)])
        assert await net.alice.echo(net.bob) == b"hello"


async def test_what_is_permitted_no_more_is_not_gone_on_with() -> None:
    """A rule has changed while the other end answered."""
    answered = 0
    nodes: list[Node] = []

    async def answer(stream: Stream) -> None:
        nonlocal answered
        await read(stream, messages.HolePunch)
        answered += 1
        if answered == 2:
            nodes[0].permitted = Direction(0)
        await write(stream, connect_message(memory(2000)))
        await read(stream, messages.HolePunch)

    async with a_net(alice=(Scripted(answer),), dial_timeout=SOON) as net:
        nodes.append(net.bob)
        net.bob.candidates = (memory(2001),)
        await net.begin()
        await until(lambda: answered == 2)
        await until(lambda: not net.bob.punching._begun)
        assert net.punched.dialed == [2000]
        assert answered == 2


async def test_who_has_come_does_not_go_on_with_what_is_permitted_no_more() -> None:
    nodes: list[Node] = []

    async def begin(stream: Stream) -> None:
        await write(stream, connect_message(memory(2000)))
        await read(stream, messages.HolePunch)
        nodes[0].permitted = Direction(0)
        await write(stream, SYNC)
        await stream.read()

    async with a_net(bob=(Service(),), dial_timeout=SOON) as net:
        nodes.append(net.alice)
        await begin_as_bob(net, begin)
        await settled()
        assert net.punched.dialed == []


async def test_no_more_rounds_than_there_are() -> None:
    async with a_net(bob=(Service(),), dial_timeout=SOON) as net:
        for number in range(1, 4):
            await begin_as_bob(net, whole)
            await until(partial(net.alice.has_failed, number))
        with pytest.raises(StreamReset):
            await begin_as_bob(net, whole)
        assert net.alice.failures == [(1, False), (2, False), (3, True)]


async def test_one_round_at_a_time() -> None:
    async with a_net(bob=(Service(),)) as net:
        await begin_as_bob(net, whole)  # Alice dials yet
        with pytest.raises(StreamReset):
            await begin_as_bob(net, whole)


async def test_who_may_not_begin() -> None:
    """On a direct connection nobody; on a relayed one, not who has come by it."""
    async with a_net(bob=(Service(),)) as net:
        await net.bob.swarm.listen(memory(1))
        await net.alice.connect(net.bob, memory(1))
        with pytest.raises(StreamReset):
            await begin_as_bob(net, whole)
    async with a_net(alice=(Service(),)) as net:
        relayed = await net.begin()
        async with await relayed.open_stream(PROTOCOL) as stream:
            with pytest.raises(StreamReset):
                await whole(stream)


@pytest.mark.parametrize("leaves", [False, True])
async def test_who_had_us_dial_takes_no_place_of_those_whom_we_have_chosen(net: Net, leaves: bool) -> None:
    """Whether or not it is still there by a relay when the handshake ends."""
    await net.alice.swarm.listen(memory(1))
    dial, gone = net.direct.dial, asyncio.get_running_loop().create_future()

    async def slowly(*args: Any, **named: Any) -> None:
        await gone
        await dial(*args, **named)

    net.direct.dial = slowly  # type: ignore[method-assign]
    relayed = await net.begin()
    await until(lambda: net.bob.punching._begun)
    if leaves:
        relayed.close()
        await until(lambda: net.bob.relays == [])
    gone.set_result(None)
    await until(lambda: None in net.bob.relays)
    assert not net.bob.swarm._places.is_ours(net.bob.connection(net.alice))


async def test_a_flood_of_streams_costs_its_connection() -> None:
    async with a_net(bob=(Service(),), config=Config(max_control_frames=1000)) as net:
        await net.begin()
        await until(lambda: net.bob.swarm.connections)
        connection = net.bob.connection(net.alice)

        async def begin_on() -> None:
            while True:
                with suppress(StreamReset):
                    async with await connection.open_stream(PROTOCOL) as stream:
                        await write(stream, SYNC)
                        await stream.read()

        with pytest.raises(ConnectionLost):
            await begin_on()


async def test_who_identifies_while_we_close(make_peer: MakePeer) -> None:
    """The parts close one after another: a service that asks meanwhile where we are must not fail."""
    peer = await make_peer()
    asked = asyncio.Event()
    close = peer._parts.keeper.close

    async def ask() -> None:
        assert peer._parts._candidates() == ()
        asked.set()
        await close()

    peer._parts.keeper.close = ask  # type: ignore[method-assign]
    await peer.close()
    assert asked.is_set()


# -- requests ------------------------------------------------------------------------------------------------


async def test_requests_each_end_once(make_peer: MakePeer) -> None:
    """On the path on which they began. The traffic leaves the relay."""
    relay, alice = await make_peer(relay=RelayServer()), await make_peer()
    bob = await make_peer(firewall=FirewallRules.allow_all())
    asked: list[int] = []
    open_gate = asyncio.Event()

    async def handle(request: Request[Any]) -> Any:
        asked.append(request.body)
        if request.body < 10:
            await open_gate.wait()
        return request.body

    bob.on_request(handle)
    circuit = await bob.listen_via_relay(await relay.listen())
    waiting = [asyncio.create_task(alice.send_request(circuit, number)) for number in range(10)]
    await until(lambda: len(asked) == 10)
    events = alice.events()
    await connect_directly(alice, await bob.listen())
    upgraded = await next_event(events, PathUpgraded)
    assert (upgraded.connection.path.relay, upgraded.before.relay) == (None, relay.peer_id)
    assert await alice.send_request(bob.peer_id, 10) == 10
    assert len(alice.connections) == 3
    open_gate.set()
    assert await asyncio.gather(*waiting) == list(range(10))
    closed = await next_event(events, ConnectionClosed)
    assert (closed.connection.path.relay, closed.error) == (relay.peer_id, None)
    assert await alice.send_request(bob.peer_id, 11) == 11
    assert sorted(asked) == list(range(12))
    assert [one.peer for one in relay.connections] == [bob.peer_id, alice.peer_id]
    assert all(one.streams == 0 for one in relay.connections)


async def test_a_request_that_is_lost_with_the_relayed_connection_is_not_sent_twice(make_peer: MakePeer) -> None:
    """A remote may close that at once, as js-libp2p does: perhaps the request was handled."""
    relay, alice = await make_peer(relay=RelayServer()), await make_peer()
    bob = await make_peer(firewall=FirewallRules.allow_all())
    asked: list[Any] = []

    async def handle(request: Request[Any]) -> Any:
        asked.append(request.body)
        await asyncio.get_running_loop().create_future()

    bob.on_request(handle)
    circuit = await bob.listen_via_relay(await relay.listen())
    waiting = await begun(alice.send_request(circuit, "once"))
    await until(lambda: asked)
    await connect_directly(alice, await bob.listen())
    (relayed,) = (one for one in bob._parts.running().connections if one.path.relay is not None)
    relayed.close()
    with pytest.raises(ConnectionLost):
        await waiting
    assert await alice.ping(bob.peer_id) > 0
    assert asked == ["once"]


async def connect_directly(peer: StrongholdP2p[Any, Any], address: Multiaddr) -> None:
    """What a hole punch does, on this machine."""
    assert address.peer_id is not None
    swarm = peer._parts.running()
    await swarm.connect_directly(address.peer_id, (address.without_peer(),), now() + 10, DirectDial.INITIATOR)
