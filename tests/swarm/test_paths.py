"""Transports are given to the swarm, and new streams take the best path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_network

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from support.memory import memory_pipes
from support.network import MemoryListener, MemoryTransport
from support.swarms import make_swarm
from support.waiting import settled, until

from stronghold_p2p import (
    ClosedError,
    Config,
    ConnectionEstablished,
    DialError,
    Event,
    InboundConnectionFailed,
    Keypair,
    LimitReached,
    ListenError,
    Multiaddr,
    Path,
    PeerId,
    PeerIdentified,
)
from stronghold_p2p.events import PathLimits
from stronghold_p2p.firewall.admission import Admission, AdmissionRules
from stronghold_p2p.protocols.identify import IdentifyService
from stronghold_p2p.protocols.ping import PingService
from stronghold_p2p.transport.pipe import BytePipe, NullReceiver
from stronghold_p2p.transport.transport import DirectDial, Transport
from stronghold_p2p.wire.noise import NoiseIdentity
from stronghold_p2p.wire.noise_xx import NoiseKey
from stronghold_p2p.wire.upgrade import Upgrade

RELAY = Keypair.generate().peer_id
DIRECT, RELAYED = range(1000), range(1000, 2000)


def memory(number: int) -> Multiaddr:
    return Multiaddr.parse(f"/memory/{number}")


class Node:
    """A swarm, what it tells, and its ping service."""

    def __init__(self, transports: tuple[Transport, ...], config: Config | None) -> None:
        self.events: list[Event] = []
        self.ping = PingService()
        self.admission = Admission()
        services = (IdentifyService(), self.ping)
        self.swarm = make_swarm(transports, services, self.events, config=config, admission=self.admission)

    async def connect(self, other: Node, address: Multiaddr) -> None:
        await self.swarm.connect(other.swarm.peer_id, (address,), asyncio.get_running_loop().time() + 10)

    async def connect_once_more(self, other: Node, address: Multiaddr) -> None:
        """Though there is a connection, which a call would take."""
        dial = self.swarm._dialer.dial(other.swarm.peer_id, (address,))
        await dial.outcome(asyncio.get_running_loop().time() + 10)

    @property
    def identified(self) -> list[PeerIdentified]:
        return [event for event in self.events if isinstance(event, PeerIdentified)]

    @property
    def established(self) -> list[ConnectionEstablished]:
        return [event for event in self.events if isinstance(event, ConnectionEstablished)]

    @property
    def relays(self) -> list[object]:
        return [connection.path.relay for connection in self.swarm.connections]


@asynccontextmanager
async def nodes(*transports: Transport, config: Config | None = None) -> AsyncIterator[tuple[Node, Node]]:
    alice, bob = Node(transports, config), Node(transports, config)
    try:
        yield alice, bob
    finally:
        await asyncio.gather(alice.swarm.close(), bob.swarm.close())


def direct() -> MemoryTransport:
    return MemoryTransport(DIRECT, Path("memory"))


def relayed() -> MemoryTransport:
    return MemoryTransport(RELAYED, Path("circuit", relay=RELAY, limits=PathLimits(120.0, 131_072)))


async def test_a_swarm_over_a_transport_without_sockets() -> None:
    async with nodes(direct()) as (alice, bob):
        listener = await bob.swarm.listen(memory(1))
        assert listener.addresses == (memory(1).with_peer(bob.swarm.peer_id),)
        await alice.connect(bob, memory(1))
        (connection,) = alice.swarm.connections
        assert connection.path == Path("memory", memory(1))
        assert await alice.ping.ping(connection, timeout=10, deadline=asyncio.get_running_loop().time() + 10) > 0
        (established,) = [event for event in bob.events if isinstance(event, ConnectionEstablished)]
        assert established.connection.path == Path("memory", None)


async def test_dials_that_cross_do_not_cost_each_other_the_only_place() -> None:
    slow = MemoryTransport(DIRECT, Path("memory"), lag=5)
    async with nodes(slow, config=Config(max_connections_per_peer=1)) as (alice, bob):
        await alice.swarm.listen(memory(1))
        await bob.swarm.listen(memory(2))
        await asyncio.gather(alice.connect(bob, memory(2)), bob.connect(alice, memory(1)))
        await until(lambda: len(alice.swarm.connections) == len(bob.swarm.connections) == 2)
        for node in alice, bob:
            assert all(connection.usable for connection in node.swarm.connections)


async def test_the_first_transport_that_supports_the_address() -> None:
    async with nodes(relayed(), direct()) as (alice, bob):
        await bob.swarm.listen(memory(1))
        await bob.swarm.listen(memory(1001))
        await alice.connect(bob, memory(1))
        assert alice.relays == [None]


async def test_an_address_that_no_transport_supports() -> None:
    address = Multiaddr.parse("/ip4/127.0.0.1/tcp/1")
    async with nodes(direct(), relayed()) as (alice, bob):
        with pytest.raises(ListenError, match=r"no transport supports it \(available: memory, circuit\)"):
            await bob.swarm.listen(address)
        with pytest.raises(DialError, match=r"no transport supports it \(available: memory, circuit\)"):
            await alice.connect(bob, address)


@pytest.mark.parametrize("order", [(memory(1001), memory(1)), (memory(1), memory(1001))])
async def test_new_streams_take_the_direct_path(order: tuple[Multiaddr, Multiaddr]) -> None:
    """Whichever connection is older, and at both ends."""
    async with nodes(direct(), relayed()) as (alice, bob):
        first, second = order
        await bob.swarm.listen(first)
        await alice.swarm.listen(second)
        await alice.connect(bob, first)
        await bob.connect_once_more(alice, second)
        await until(lambda: len(alice.swarm.connections) == len(bob.swarm.connections) == 2)
        assert alice.relays == bob.relays == [None, RELAY]
        for one, other in (alice, bob), (bob, alice):
            connection = one.swarm.connection(other.swarm.peer_id)
            assert connection is not None
            assert connection.path.relay is None
        # Without the direct one, the relayed one serves.
        alice.swarm.connections[0].close()
        await until(lambda: len(alice.swarm.connections) == len(bob.swarm.connections) == 1)
        remaining = alice.swarm.connection(bob.swarm.peer_id)
        assert remaining is not None
        assert remaining.path.relay == RELAY


async def test_a_direct_dial_goes_on_beside_a_relayed_connection_that_the_peer_makes() -> None:
    async with nodes(direct(), relayed()) as (alice, bob):
        await alice.swarm.listen(memory(1001))
        await bob.swarm.listen(memory(1))
        await asyncio.gather(bob.connect(alice, memory(1001)), alice.connect(bob, memory(1)))
        await until(lambda: len(alice.swarm.connections) == len(bob.swarm.connections) == 2)


async def test_a_policy_that_allows_networks_refuses_a_relayed_connection() -> None:
    circuit = Multiaddr.parse(f"/ip4/10.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit")
    async with nodes(direct()) as (alice, bob):
        alice.admission.set_policy(AdmissionRules(allow_networks=(ip_network("10.0.0.0/8"),)))
        with pytest.raises(DialError, match="it is relayed, and the policy has an allow list of networks"):
            await alice.connect(bob, circuit)


async def test_a_remote_that_comes_while_we_close() -> None:
    transport = direct()
    async with nodes(transport) as (_, bob):
        await bob.swarm.listen(memory(1))
        listener = transport.listening[memory(1)]
        await bob.swarm.close()
        memory_pipes(lambda pipe: NullReceiver(), listener.connected)
        event = bob.events[-1]
        assert isinstance(event, InboundConnectionFailed)
        assert isinstance(event.error, ClosedError)


async def test_what_is_told_over_a_relay() -> None:
    """Not where the relay is seen, which would pass for an address of ours; and public addresses alone, since whoever comes by
    a relay may be anywhere."""
    async with nodes(direct(), relayed()) as (alice, bob):
        private = Multiaddr.parse("/ip4/10.0.0.1/tcp/1")
        for number in 1, 1001:
            await bob.swarm.listen(memory(number), announce=(private,))
            await alice.connect_once_more(bob, memory(number))
        await until(lambda: len(alice.identified) == len(bob.identified) == 2)
        assert [private in event.listen_addresses for event in alice.identified] == [True, False]
        assert all(memory(1) in event.listen_addresses for event in alice.identified)
        assert [event.observed_address is None for event in bob.identified] == [False, True]


async def test_whom_we_dial_directly_as_it_has_come_by_a_relay_counts_as_come() -> None:
    """Else strangers would fill the places of the peers that we choose: there is one."""
    config = Config(max_outbound_connections=1)
    async with nodes(direct(), relayed(), config=config) as (alice, bob):
        await alice.swarm.listen(memory(1))
        await bob.swarm.listen(memory(2))
        await bob.swarm.listen(memory(1001))
        await alice.connect(bob, memory(1001))
        await until(lambda: bob.relays)
        deadline = asyncio.get_running_loop().time() + 10
        await bob.swarm.connect_directly(alice.swarm.peer_id, (memory(1),), deadline, DirectDial.BACK)
        assert bob.relays == [None, RELAY]
        # The place is free yet; Alice's is taken by the relayed connection that she has made.
        with pytest.raises(DialError, match="max_outbound_connections"):
            await alice.swarm.connect_directly(bob.swarm.peer_id, (memory(2),), deadline, DirectDial.BACK)
        await bob.connect_once_more(alice, memory(1))
        assert bob.relays == [None, None, RELAY]


# -- places ------------------------------------------------------------------------------------------------


class Muxerless:
    """Shakes hands, and agrees to no muxer, neither within the handshake nor behind it: there it says nothing, or ends."""

    def __init__(self, keypair: Keypair, stalls: bool, pipe: BytePipe) -> None:
        self.pipe = pipe
        self.stalls = stalls
        identity = NoiseIdentity(keypair, X25519PrivateKey.generate(), ())
        self.upgrade = Upgrade(identity, initiator=False, ephemeral=NoiseKey(X25519PrivateKey.generate()))

    def data_received(self, data: memoryview) -> None:
        self.upgrade.receive_data(data)
        if not self.upgrade.done:
            self.pipe.write(self.upgrade.data_to_send())
        elif not self.stalls:
            self.pipe.close()

    def pipe_closed(self, error: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


def listen_without_muxer(transport: MemoryTransport, address: Multiaddr, *, stalls: bool = False) -> PeerId:
    keypair = Keypair.generate()
    transport.listening[address] = MemoryListener(transport, address, partial(Muxerless, keypair, stalls))
    return keypair.peer_id


async def test_two_dials_that_succeed_in_one_turn_are_not_promised_the_same_place() -> None:
    transport = direct()
    async with nodes(transport, config=Config(max_outbound_connections=1)) as (alice, _), nodes(transport) as remotes:
        for number, remote in enumerate(remotes):
            await remote.swarm.listen(memory(number))
        dials = [alice.connect(remote, memory(number)) for number, remote in enumerate(remotes)]
        outcomes = await asyncio.gather(*dials, return_exceptions=True)
        await settled()
    (refused,) = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(refused, DialError)
    assert "max_outbound_connections" in str(refused)
    assert sum(len(remote.established) for remote in remotes) == 1


async def test_two_dials_that_succeed_in_one_turn_have_two_places() -> None:
    transport = direct()
    config = Config(max_outbound_connections=2, max_connections=2)
    async with nodes(transport, config=config) as (alice, bob), nodes(transport) as remotes:
        await alice.swarm.listen(memory(9))
        await bob.connect(alice, memory(9))  # which has to give way
        for number, remote in enumerate(remotes):
            await remote.swarm.listen(memory(number))
        await asyncio.gather(*(alice.connect(remote, memory(number)) for number, remote in enumerate(remotes)))
        await until(lambda: not bob.swarm.connections)
        assert len(alice.swarm.connections) == 2


async def test_nobody_gives_way_to_a_dial_that_fails() -> None:
    transport = direct()
    async with nodes(transport, config=Config(max_connections=1)) as (alice, bob):
        await alice.swarm.listen(memory(1))
        await bob.connect(alice, memory(1))
        await until(lambda: alice.swarm.connections)
        nobody = listen_without_muxer(transport, memory(2))
        with pytest.raises(DialError, match="the stream ended within the upgrade"):
            await alice.swarm.connect(nobody, (memory(2),), asyncio.get_running_loop().time() + 10)
        assert all(connection.usable for connection in (*alice.swarm.connections, *bob.swarm.connections))


async def test_a_place_is_promised_as_long_as_the_dial_may_succeed() -> None:
    transport = direct()
    async with nodes(transport, config=Config(max_outbound_connections=1)) as (alice, bob):
        await bob.swarm.listen(memory(1))
        nobody = listen_without_muxer(transport, memory(2), stalls=True)
        deadline = asyncio.get_running_loop().time() + 10
        stalled = asyncio.create_task(alice.swarm.connect(nobody, (memory(2),), deadline))
        await settled()
        with pytest.raises(DialError, match="max_outbound_connections"):
            await alice.connect(bob, memory(1))
        stalled.cancel()
        await settled()
        await alice.connect(bob, memory(1))


async def test_two_addresses_of_one_peer_are_promised_one_place() -> None:
    """Else one that stalls would keep the other from succeeding."""
    transport = direct()
    config = Config(max_outbound_connections=1, dial_stagger=0.001)
    async with nodes(transport, config=config) as (alice, bob):
        await bob.swarm.listen(memory(1))
        stalling = partial(Muxerless, bob.swarm.keypair, True)
        transport.listening[memory(2)] = MemoryListener(transport, memory(2), stalling)
        stalled = asyncio.create_task(alice.connect(bob, memory(2)))
        await settled()
        await alice.connect(bob, memory(1))
        await stalled
        assert len(alice.swarm.connections) == 1


@pytest.mark.parametrize("what", ["upgrade", "connection"])
async def test_who_gives_way_without_descriptors_does_not_for_a_limit_of_the_configuration(what: str) -> None:
    transport = direct()
    async with nodes(transport) as (alice, bob):
        await bob.swarm.listen(memory(1))
        await alice.connect(bob, memory(1))
        await settled()
        listener = transport.listening[memory(1)]
        if what == "upgrade":
            memory_pipes(lambda pipe: NullReceiver(), listener.connected)
        listener.exhausted()
        await settled()
        (limit,) = [event.limit for event in bob.events if isinstance(event, LimitReached)]
        assert limit == "resource.RLIMIT_NOFILE"
        assert len(bob.swarm.connections) == (what == "upgrade")
