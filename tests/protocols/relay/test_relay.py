"""Reservations and circuits between swarms in memory: two that no other path joins, and the relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from support.network import MemoryTransport
from support.swarms import make_swarm
from support.waiting import until

from stronghold_p2p import Config, DialError, Event, Keypair, Multiaddr, Path, PeerId, Stream, StrongholdError
from stronghold_p2p.encoding import messages
from stronghold_p2p.errors import DecodeError, RelayRefused
from stronghold_p2p.events import PathLimits
from stronghold_p2p.firewall.admission import Admission, AdmissionRules
from stronghold_p2p.protocols.framing import read, write
from stronghold_p2p.protocols.identify import IdentifyService
from stronghold_p2p.protocols.ping import PingService
from stronghold_p2p.protocols.relay.client import CircuitTarget, CircuitTransport, reserve, split_circuit
from stronghold_p2p.protocols.relay.limits import RelayServer
from stronghold_p2p.protocols.relay.message import HOP, STOP, HopType, Status, StopType
from stronghold_p2p.protocols.relay.server import RelayService
from stronghold_p2p.protocols.relay.voucher import Voucher
from stronghold_p2p.protocols.service import in_task
from stronghold_p2p.resources.networks import Networks
from stronghold_p2p.transport.connection import Connection

NOW = 1_800_000_000.0
RELAY_ADDRESS = Multiaddr.parse("/memory/1")


class Node:
    """A swarm that dials through relays, is a relay if it is given ``server``, and accepts circuits from ``relays``."""

    def __init__(
        self, network: MemoryTransport, server: RelayServer | None = None, *, keypair: Keypair | None = None
    ) -> None:
        self.events: list[Event] = []
        self.ping_service = PingService()
        self.relays: set[PeerId] = set()
        self.admission = Admission()
        self.reached: list[tuple[str, Networks]] = []
        self.relay = None if server is None else RelayService(server, self.admission, self._reached, clock=lambda: NOW)
        buffer = Config().max_send_buffer
        self.swarm = make_swarm(
            (network, CircuitTransport(self._connect_relay, buffer)),
            (
                IdentifyService(),
                self.ping_service,
                CircuitTarget(self.relays.__contains__, buffer),
                *([self.relay] if self.relay is not None else []),
            ),
            self.events,
            keypair=keypair,
        )

    def _reached(self, limit: str, networks: Networks) -> None:
        self.reached.append((limit, networks))

    @property
    def peer(self) -> PeerId:
        return self.swarm.peer_id

    async def connect(self, peer: PeerId, address: Multiaddr) -> Connection:
        return await self.swarm.connect(peer, (address,), asyncio.get_running_loop().time() + 10)

    async def ping(self, connection: Connection) -> float:
        return await self.ping_service.ping(connection, timeout=10, deadline=asyncio.get_running_loop().time() + 10)

    async def _connect_relay(self, relay: PeerId, address: Multiaddr | None) -> Connection:
        return await self.connect(relay, address or RELAY_ADDRESS)


class Net:
    """Alice and Bob, each connected with the relay alone."""

    def __init__(self, server: RelayServer) -> None:
        self.network = MemoryTransport(range(100), Path("memory"))
        self.relay = Node(self.network, server)
        self.alice, self.bob = Node(self.network), Node(self.network)
        assert self.relay.relay is not None
        self.service = self.relay.relay

    @property
    def circuit(self) -> Multiaddr:
        return Multiaddr.parse(f"/memory/1/p2p/{self.relay.peer}/p2p-circuit")

    async def reserve(self, node: Node) -> Connection:
        connection = await node.connect(self.relay.peer, RELAY_ADDRESS)
        node.relays.add(self.relay.peer)
        self.reservation = await reserve(connection, node.peer)
        return connection

    async def place(self, node: Node, ip: str) -> Connection:
        """Connects it with the relay, which takes it for one at ``ip``."""
        connection = await node.connect(self.relay.peer, RELAY_ADDRESS)
        await until(lambda: any(one.peer == node.peer for one in self.relay.swarm.connections))
        (inbound,) = [one for one in self.relay.swarm.connections if one.peer == node.peer]
        inbound.remote_address = Multiaddr.parse(f"/ip4/{ip}/tcp/1")
        return connection

    async def hop(self, node: Node, message: messages.HopMessage) -> int:
        """The status that the relay answers."""
        connection = await node.connect(self.relay.peer, RELAY_ADDRESS)
        async with await connection.open_stream(HOP) as stream:
            await write(stream, message)
            return (await read(stream, messages.HopMessage)).status

    async def dial(self) -> Connection:
        """Alice dials Bob."""
        return await self.alice.connect(self.bob.peer, self.circuit)

    async def refused(self) -> RelayRefused:
        with pytest.raises(DialError) as caught:
            await self.dial()
        (attempt,) = caught.value.attempts
        assert isinstance(attempt.error, RelayRefused)
        return attempt.error


@asynccontextmanager
async def net(**limits: Any) -> AsyncIterator[Net]:
    made = Net(RelayServer(**limits))
    await made.relay.swarm.listen(RELAY_ADDRESS)
    try:
        yield made
    finally:
        await asyncio.gather(*(node.swarm.close() for node in (made.alice, made.bob, made.relay)))
        assert made.service.circuits == made.service.reservations == 0


@asynccontextmanager
async def other(it: Net) -> AsyncIterator[Node]:
    """One more peer."""
    node = Node(it.network)
    try:
        yield node
    finally:
        await node.swarm.close()


async def say_nothing(connection: Connection, stream: Stream) -> None:
    with suppress(StrongholdError):
        while await stream.read():
            pass


async def answer_with(answer: messages.StopMessage, connection: Connection, stream: Stream) -> None:
    await read(stream, messages.StopMessage)
    await write(stream, answer)


def connect_to(peer: PeerId) -> messages.HopMessage:
    return messages.HopMessage(type=HopType.CONNECT, peer=messages.CircuitPeer(id=peer.to_bytes()))


async def test_a_circuit_carries_a_connection() -> None:
    async with net() as it:
        await it.reserve(it.bob)
        connection = await it.dial()
        assert connection.peer == it.bob.peer
        assert connection.path == Path("memory", it.circuit, it.relay.peer, PathLimits(600.0, 16 * 1024 * 1024))
        assert await it.alice.ping(connection) > 0
        (inbound,) = [one for one in it.bob.swarm.connections if one.peer == it.alice.peer]
        assert inbound.path.relay == it.relay.peer
        assert inbound.path.dialed is None
        assert split_circuit(inbound.remote_address) is not None
        assert it.service.circuits == 1
        connection.close()
        await until(lambda: it.service.circuits == 0)


async def test_a_reservation() -> None:
    async with net(reservation_ttl=100.0, max_seconds=None, max_bytes=5000) as it:
        await it.reserve(it.bob)
        assert it.reservation.relay == it.relay.peer
        assert it.reservation.expires == NOW + 100
        assert it.reservation.addresses == (RELAY_ADDRESS.with_peer(it.relay.peer),)
        assert it.reservation.limits == PathLimits(None, 5000)
        assert it.service.reservations == 1
        await it.reserve(it.bob)  # renewed
        assert it.service.reservations == 1


async def test_no_limits_leave_the_field_out() -> None:
    async with net(max_seconds=None, max_bytes=None) as it:
        await it.reserve(it.bob)
        assert it.reservation.limits is None
        assert (await it.dial()).path.limits is None


async def test_unlimited_peers() -> None:
    bob = Keypair.generate()
    server = RelayServer(unlimited={bob.peer_id})
    assert server.limits(bob.peer_id, Keypair.generate().peer_id) is None
    assert server.limits(Keypair.generate().peer_id) is not None


async def test_without_a_reservation() -> None:
    async with net() as it:
        await it.bob.connect(it.relay.peer, RELAY_ADDRESS)
        error = await it.refused()
        assert (error.relay, error.status) == (it.relay.peer, Status.NO_RESERVATION)
        assert "204: the peer has no reservation there" in str(error)


async def test_a_reservation_ends_with_its_connection() -> None:
    async with net() as it:
        connection = await it.reserve(it.bob)
        connection.close()
        await until(lambda: it.service.reservations == 0)
        assert (await it.refused()).status == Status.NO_RESERVATION


async def test_a_stop_from_a_peer_that_is_not_our_relay() -> None:
    async with net() as it:
        await it.reserve(it.bob)
        it.bob.relays.clear()
        assert (await it.refused()).status == Status.CONNECTION_FAILED
        assert [one.peer for one in it.bob.swarm.connections] == [it.relay.peer]


async def test_who_may_reserve() -> None:
    async with net(reserve=frozenset()) as it:
        with pytest.raises(RelayRefused) as caught:
            await it.reserve(it.bob)
        assert caught.value.status == Status.PERMISSION_DENIED
        assert it.service.status.refusals == {"reservation: PERMISSION_DENIED": 1}
        assert it.relay.reached == []


async def test_who_may_connect() -> None:
    """Before anything is told of a reservation."""
    async with net(connect=frozenset()) as it:
        assert (await it.refused()).status == Status.PERMISSION_DENIED
        await it.reserve(it.bob)
        assert (await it.refused()).status == Status.PERMISSION_DENIED


async def test_a_policy_says_who_may_reserve_and_connect() -> None:
    """Beside what the relay itself says, and for what is there already: what is no longer allowed ends."""
    async with net() as it:
        policy = it.relay.admission
        everybody = frozenset({it.alice.peer, it.bob.peer})
        reserved = await it.reserve(it.bob)
        policy.set_policy(AdmissionRules(may_reserve=everybody - {it.bob.peer}))
        it.service.policy_changed()
        assert it.service.reservations == 0
        await reserved.closed  # it learns of it
        with pytest.raises(RelayRefused, match="202: its rules do not allow it"):
            await it.reserve(it.bob)
        for ending in (
            AdmissionRules(may_connect=everybody - {it.alice.peer}),
            AdmissionRules(may_reserve=everybody - {it.bob.peer}),
        ):
            policy.set_policy(AdmissionRules(may_reserve=everybody, may_connect=everybody))
            await it.reserve(it.bob)
            connection = await it.dial()
            it.service.policy_changed()
            assert it.service.circuits == 1
            policy.set_policy(ending)
            it.service.policy_changed()
            assert it.service.circuits == 0
            await connection.closed
            assert (await it.refused()).status in {Status.PERMISSION_DENIED, Status.NO_RESERVATION}


async def test_a_policy_ends_a_circuit_that_is_being_made() -> None:
    """The target has heard of it, and answers when it is not allowed any more."""
    async with net() as it:
        asked, answering = asyncio.Event(), asyncio.Event()

        async def answer_late(connection: Connection, stream: Stream) -> None:
            await read(stream, messages.StopMessage)
            asked.set()
            await answering.wait()
            await write(stream, messages.StopMessage(type=StopType.STATUS, status=Status.OK))

        it.bob.swarm._handlers[STOP] = in_task(answer_late)
        await it.reserve(it.bob)
        refused = asyncio.create_task(it.refused())
        await asked.wait()
        it.relay.admission.set_policy(AdmissionRules(may_connect=frozenset({it.bob.peer})))
        it.service.policy_changed()
        answering.set()
        assert (await refused).status == Status.PERMISSION_DENIED
        assert it.service.circuits == 0


@pytest.mark.parametrize("limit", ["max_reservations", "max_reservations_per_network"])
async def test_the_limits_of_reservations(limit: str) -> None:
    """Who has one keeps it, and may renew it."""
    async with net(**{limit: 1}) as it:
        await it.reserve(it.bob)
        with pytest.raises(RelayRefused) as caught:
            await it.reserve(it.alice)
        assert caught.value.status == Status.RESERVATION_REFUSED
        await it.reserve(it.bob)
        assert it.service.reservations == it.service.status.reservations_made == 1
        assert it.service.status.refusals == {f"reservation: {limit}": 1}
        assert it.relay.reached == [(f"RelayServer.{limit}", ("127.0.0.1/32",))]


async def test_a_peer_on_another_connection() -> None:
    """It takes its reservation along, unless that is refused there: then it keeps what it has."""
    async with net(max_reservations_per_network=1) as it, other(it) as carol:
        twins = [Node(it.network, keypair=Keypair.generate())]
        twins += [Node(it.network, keypair=twins[0].swarm.keypair) for _ in range(2)]
        await it.place(carol, "192.0.2.2")
        await it.reserve(carol)
        await it.place(twins[0], "192.0.2.1")
        first = await it.reserve(twins[0])
        for twin, ip in (twins[1], "192.0.2.2"), (twins[2], "192.0.2.1"):
            connection = await twin.connect(it.relay.peer, RELAY_ADDRESS)
            await until(lambda: sum(one.peer == twins[0].peer for one in it.relay.swarm.connections) > 1)
            inbound = it.relay.swarm.connections
            [one for one in inbound if one.peer == twin.peer][-1].remote_address = Multiaddr.parse(f"/ip4/{ip}/tcp/1")
            if twin is twins[1]:
                with pytest.raises(RelayRefused):
                    await it.reserve(twin)
                connection.close()
                await until(lambda: sum(one.peer == twins[0].peer for one in it.relay.swarm.connections) == 1)
            else:
                await it.reserve(twin)
            assert it.service.reservations == 2
        first.close()
        await until(lambda: sum(one.peer == twins[0].peer for one in it.relay.swarm.connections) == 1)
        assert it.service.reservations == 2
        await asyncio.gather(*(twin.swarm.close() for twin in twins))


async def test_the_largest_network_gives_up_a_reservation() -> None:
    """Its newest one, whose peer learns of it; among equals nobody does."""
    async with net(max_reservations=2) as it, other(it) as carol, other(it) as dave:
        for node, ip in (it.bob, "192.0.2.1"), (it.alice, "192.0.2.1"), (carol, "192.0.2.2"), (dave, "192.0.2.3"):
            await it.place(node, ip)
        bobs, alices, carols = [await it.reserve(node) for node in (it.bob, it.alice, carol)]
        await alices.closed
        assert it.service.reservations == 2
        assert it.relay.reached == [("RelayServer.max_reservations", ("192.0.2.1/32",))]
        with pytest.raises(RelayRefused) as caught:
            await it.reserve(dave)
        assert caught.value.status == Status.RESERVATION_REFUSED
        for node, connection in (it.bob, bobs), (carol, carols):
            assert await it.reserve(node) is connection


async def test_the_largest_network_gives_up_a_circuit() -> None:
    async with net(max_circuits=2) as it, other(it) as carol, other(it) as dave:
        await it.place(it.alice, "192.0.2.1")
        await it.place(carol, "192.0.2.2")
        await it.reserve(it.bob)
        await it.reserve(dave)
        await it.dial()
        newest = await it.alice.connect(dave.peer, it.circuit)
        await carol.connect(it.bob.peer, it.circuit)
        await newest.closed
        assert it.service.circuits == 2
        assert it.relay.reached == [("RelayServer.max_circuits", ("192.0.2.1/32",))]


async def test_a_silent_target_holds_no_place_that_another_needs() -> None:
    async with net(max_circuits=2) as it, other(it) as carol, other(it) as dave:
        await it.place(it.alice, "192.0.2.1")
        await it.place(carol, "192.0.2.2")
        await it.reserve(it.bob)
        await it.reserve(dave)
        await it.alice.connect(dave.peer, it.circuit)
        it.bob.swarm._handlers[STOP] = in_task(say_nothing)
        waiting = asyncio.create_task(it.hop(it.alice, connect_to(it.bob.peer)))
        await until(lambda: it.service.circuits == 2)
        await carol.connect(dave.peer, it.circuit)
        assert await waiting == Status.RESOURCE_LIMIT_EXCEEDED


@pytest.mark.parametrize("limit", ["max_reservations_per_minute_per_peer", "max_reservations_per_minute_per_network"])
async def test_the_rates_of_reservations(limit: str) -> None:
    async with net(**{limit: 2}) as it:
        await it.reserve(it.bob)
        await it.reserve(it.bob)
        with pytest.raises(RelayRefused) as caught:
            await it.reserve(it.bob)
        assert caught.value.status == Status.RESERVATION_REFUSED
        assert it.relay.reached == [(f"RelayServer.{limit}", ("127.0.0.1/32",))]
        assert it.service.reservations == 1
        if limit.endswith("peer"):
            await it.reserve(it.alice)


@pytest.mark.parametrize("limit", ["max_circuits", "max_circuits_per_peer"])
async def test_the_limits_of_circuits(limit: str) -> None:
    async with net(**{limit: 1}) as it:
        await it.reserve(it.bob)
        connection = await it.dial()
        assert await it.hop(it.alice, connect_to(it.bob.peer)) == Status.RESOURCE_LIMIT_EXCEEDED
        assert it.service.status.refusals == {f"circuit: {limit}": 1}
        connection.close()
        await until(lambda: it.service.circuits == 0)
        await it.dial()


@pytest.mark.parametrize("limit", ["max_circuits_per_minute_per_peer", "max_circuits_per_minute_per_network"])
async def test_the_rates_of_circuits(limit: str) -> None:
    """Of who asks for them: others reach the same target."""
    async with net(**{limit: 1}) as it:
        await it.reserve(it.bob)
        (await it.dial()).close()
        await until(lambda: it.service.circuits == 0)
        assert (await it.refused()).status == Status.RESOURCE_LIMIT_EXCEEDED
        assert [reached for reached, _ in it.relay.reached] == [f"RelayServer.{limit}"]


async def test_what_was_done_is_counted() -> None:
    async with net() as it:
        await it.refused()
        await it.reserve(it.bob)
        connection = await it.dial()
        await it.alice.ping(connection)
        status = it.service.status
        assert (status.reservations, status.circuits) == (status.reservations_made, status.circuits_made) == (1, 1)
        assert status.bytes > 500
        assert status.refusals == {"circuit: NO_RESERVATION": 1}
        connection.close()
        await until(lambda: it.service.circuits == 0)
        await it.dial()
        later = it.service.status
        assert (later.circuits, later.circuits_made) == (1, 2)
        assert later.bytes > status.bytes


async def test_a_relay_that_closes_lets_circuits_end() -> None:
    """It begins nothing new, and says so."""
    async with net() as it:
        await it.reserve(it.bob)
        await it.alice.connect(it.relay.peer, RELAY_ADDRESS)
        connection = await it.dial()
        closing = asyncio.create_task(it.relay.swarm.close())
        await until(lambda: it.relay.swarm.closing)
        assert await it.hop(it.alice, connect_to(it.bob.peer)) == Status.RESOURCE_LIMIT_EXCEEDED
        assert await it.hop(it.bob, messages.HopMessage(type=HopType.RESERVE)) == Status.RESERVATION_REFUSED
        assert await it.alice.ping(connection) > 0
        assert not closing.done()
        connection.close()
        await closing
        assert it.service.status.refusals == {
            "circuit: RESOURCE_LIMIT_EXCEEDED": 1,
            "reservation: RESERVATION_REFUSED": 1,
        }


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (lambda it: connect_to(it.alice.peer), Status.PERMISSION_DENIED),
        (lambda it: messages.HopMessage(type=HopType.CONNECT), Status.MALFORMED_MESSAGE),
        (
            lambda it: messages.HopMessage(type=HopType.CONNECT, peer=messages.CircuitPeer(id=b"\x00")),
            Status.MALFORMED_MESSAGE,
        ),
        (lambda it: messages.HopMessage(type=HopType.STATUS, status=Status.OK), Status.UNEXPECTED_MESSAGE),
        (lambda it: messages.HopMessage(type=77), Status.UNEXPECTED_MESSAGE),
    ],
)
async def test_what_is_no_request(message: Callable[[Net], messages.HopMessage], status: Status) -> None:
    async with net() as it:
        assert await it.hop(it.alice, message(it)) == status


async def test_bytes_that_are_no_message() -> None:
    async with net() as it:
        connection = await it.alice.connect(it.relay.peer, RELAY_ADDRESS)
        for data in b"\xff\xff\x7f", b"\x03\xff\xff\xff":
            async with await connection.open_stream(HOP) as stream:
                await stream.write(data)
                assert (await read(stream, messages.HopMessage)).status == Status.MALFORMED_MESSAGE


async def test_over_a_circuit_nobody_is_served() -> None:
    """A circuit over a circuit, and a reservation over one."""
    async with net() as it:
        await it.reserve(it.bob)
        connection = await it.dial()
        service = RelayService(RelayServer(), Admission(), lambda limit, networks: None)
        service.attach(it.bob.swarm)
        it.bob.swarm.handle(HOP, service.protocols[HOP])
        for message in messages.HopMessage(type=HopType.RESERVE), connect_to(it.relay.peer):
            async with await connection.open_stream(HOP) as stream:
                await write(stream, message)
                assert (await read(stream, messages.HopMessage)).status == Status.PERMISSION_DENIED


async def test_a_target_that_says_no_or_nonsense() -> None:
    async with net() as it:
        connection = await it.bob.connect(it.relay.peer, RELAY_ADDRESS)
        await reserve(connection, it.bob.peer)
        for answer in (
            messages.StopMessage(type=StopType.STATUS, status=Status.CONNECTION_FAILED),
            messages.StopMessage(type=StopType.CONNECT, status=Status.OK),
        ):
            it.bob.swarm._handlers[STOP] = in_task(partial(answer_with, answer))
            assert (await it.refused()).status == Status.CONNECTION_FAILED
        assert it.service.circuits == 0


async def test_a_false_voucher() -> None:
    relay, bob, other = Keypair.generate(), Keypair.generate(), Keypair.generate()
    sealed = Voucher(relay.peer_id, bob.peer_id, 5).seal(relay)
    assert Voucher.open(sealed) == Voucher(relay.peer_id, bob.peer_id, 5)
    with pytest.raises(DecodeError, match="not signed by the relay that it names"):
        Voucher.open(Voucher(relay.peer_id, bob.peer_id, 5).seal(other))
    with pytest.raises(DecodeError, match="payload type"):
        Voucher.open(bytes(messages.Envelope(public_key=b"", payload_type=b"x").SerializeToString()))


@pytest.mark.parametrize(
    ("address", "where"),
    [("/ip4/1.2.3.4/tcp/5/p2p/{}/p2p-circuit", "/ip4/1.2.3.4/tcp/5"), ("/p2p/{}/p2p-circuit", "None")],
)
def test_circuit_addresses(address: str, where: str) -> None:
    relay = Keypair.generate().peer_id
    split = split_circuit(Multiaddr.parse(address.format(relay)))
    assert split is not None
    assert (split[0], str(split[1])) == (relay, where)


@pytest.mark.parametrize(
    "address",
    ["/ip4/1.2.3.4/tcp/5", "/p2p-circuit", "/ip4/1.2.3.4/tcp/5/p2p-circuit", "/p2p/{}/p2p-circuit/p2p/{}/p2p-circuit"],
)
def test_other_addresses(address: str) -> None:
    assert split_circuit(Multiaddr.parse(address.replace("{}", str(Keypair.generate().peer_id)))) is None
