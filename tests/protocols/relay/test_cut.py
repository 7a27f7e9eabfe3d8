"""Circuits that are cut: by a limit in the middle of a message, and because an end goes while they are made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from conftest import MakePeer
from support.clock import Clock
from support.relays import relay_net
from support.waiting import settled, until

from stronghold_p2p import (
    Config,
    ConnectionLost,
    FirewallRules,
    Multiaddr,
    RelayServer,
    Request,
    StreamReset,
    StrongholdP2p,
)
from stronghold_p2p.encoding import messages, varint
from stronghold_p2p.protocols.framing import read, write
from stronghold_p2p.protocols.relay.message import Status, StopType

Peer = StrongholdP2p[Any, Any]
MakeNet = Callable[..., Awaitable["Net"]]


class Net:
    """A relay and two peers that only it joins; Bob answers with ``answer``, and ``handled`` has what he was asked."""

    def __init__(self, relay: Peer, alice: Peer, bob: Peer) -> None:
        self.relay = relay
        self.alice = alice
        self.bob = bob
        self.circuit: Multiaddr
        self.answer: Callable[[Any], Any] = lambda body: None
        self.handled: list[Any] = []
        bob.on_request(self._handle)

    async def _handle(self, request: Request[Any]) -> Any:
        self.handled.append(request.body)
        answer = self.answer(request.body)
        return await answer if asyncio.isfuture(answer) else answer

    @property
    def cut(self) -> str:
        return f"the relay {self.relay.peer_id} ended the circuit"


@pytest.fixture
async def make_net(make_peer: MakePeer) -> MakeNet:
    async def make(**limits: Any) -> Net:
        relay = await make_peer(relay=RelayServer(**limits), config=Config(close_timeout=0.1))
        net = Net(relay, await make_peer(), await make_peer(firewall=FirewallRules.allow_all()))
        net.circuit = await net.bob.listen_via_relay(await relay.listen())
        return net

    return make


# -- limits in the middle of a message ------------------------------------------------------------------------


async def test_bytes_run_out_in_a_response(make_net: MakeNet) -> None:
    net = await make_net(max_bytes=100_000)
    net.answer = lambda size: "x" * size
    with pytest.raises(ConnectionLost, match=f"{net.cut}.*100,000 bytes each way"):
        await net.alice.send_request(net.circuit, 200_000)
    assert await net.alice.send_request(net.circuit, 5) == "xxxxx"
    assert net.handled == [200_000, 5]


async def test_bytes_run_out_in_a_request(make_net: MakeNet) -> None:
    """Nobody gets a part of it, and it is not sent again."""
    net = await make_net(max_bytes=100_000)
    stream = await net.alice.open_stream(net.circuit, "/stronghold-p2p/1.0.0")
    await stream.write(varint.encode(120_002) + b'"')  # a request of ours would not be sent
    for _ in range(12):
        await stream.write(b"x" * 10_000)
    with pytest.raises(ConnectionLost, match=net.cut):
        await stream.read()
    await net.alice.send_request(net.circuit, "whole")
    assert net.handled == ["whole"]


async def test_time_runs_out_in_a_response(clock: Clock, make_net: MakeNet) -> None:
    net = await make_net(max_seconds=0.5)
    never = asyncio.get_running_loop().create_future()
    net.answer = lambda body: never if body == "wait" else body
    asking = asyncio.create_task(net.alice.send_request(net.circuit, "wait"))
    await until(lambda: net.handled)
    await clock.advance(0.6)
    with pytest.raises(ConnectionLost, match=rf"{net.cut}.*\(1 s"):
        await asking
    assert await net.alice.send_request(net.circuit, "again") == "again"
    assert net.handled == ["wait", "again"]
    assert never.cancelled()


async def test_time_runs_out_in_a_request(clock: Clock, make_net: MakeNet) -> None:
    net = await make_net(max_seconds=0.5)
    stream = await net.alice.open_stream(net.circuit, "/stronghold-p2p/1.0.0")
    await stream.write(b'\x06"tru')  # the rest never comes
    await clock.advance(0.6)
    with pytest.raises(ConnectionLost, match=net.cut):
        await stream.read()
    await net.alice.send_request(net.circuit, "whole")
    assert net.handled == ["whole"]


# -- ends that go while a circuit is made ---------------------------------------------------------------------


async def test_the_target_goes_while_it_is_asked() -> None:
    async with relay_net() as net:
        alice, bob = net.node(), net.node()
        assert await bob.reserve() == Status.OK
        bob.answer = None
        stream = await alice.ask(bob.peer)
        await bob.stops.get()
        (await bob.connection()).abort()
        assert (await read(stream, messages.HopMessage)).status == Status.CONNECTION_FAILED
        assert (net.service.circuits, net.service.reservations) == (0, 0)
        assert (await alice.circuit(bob.peer))[0] == Status.NO_RESERVATION


async def test_the_target_goes_before_it_is_asked() -> None:
    """In the same turn: its connection is closing, and has the reservation still."""
    async with relay_net() as net:
        alice, bob = net.node(), net.node()
        assert await bob.reserve() == Status.OK
        stream = await alice.ask(bob.peer)
        (await bob.connection()).abort()
        assert (await read(stream, messages.HopMessage)).status in {Status.CONNECTION_FAILED, Status.NO_RESERVATION}


@pytest.mark.parametrize("how", ["reset", "close", "connection"])
async def test_the_source_goes_while_the_target_is_asked(how: str) -> None:
    """The target hears of it, and nothing is left."""
    async with relay_net() as net:
        alice, bob = net.node(), net.node()
        assert await bob.reserve() == Status.OK
        bob.answer = None
        stream = await alice.ask(bob.peer)
        at_bob = await bob.stops.get()
        assert net.service.circuits == 1
        if how == "reset":
            stream.reset()
        elif how == "close":
            await stream.close()
        else:
            (await alice.connection()).abort()
            await until(lambda: len(net.relay.swarm.connections) == 1)
        with suppress(StreamReset):
            await write(at_bob, messages.StopMessage(type=StopType.STATUS, status=Status.OK))
        if how == "close":
            assert await at_bob.read() == b""
            at_bob.reset()
        else:
            with pytest.raises(StreamReset):
                await at_bob.read()
        await until(lambda: not net.service.circuits)
        assert net.service.reservations == 1


@pytest.mark.parametrize("by", ["source", "target"])
async def test_an_end_of_a_circuit_goes(by: str) -> None:
    async with relay_net() as net:
        alice, bob = net.node(), net.node()
        assert await bob.reserve() == Status.OK
        status, stream = await alice.circuit(bob.peer)
        assert status == Status.OK
        at_bob = await bob.stops.get()
        await stream.write(b"there")
        assert await at_bob.readexactly(5) == b"there"
        goes, stays = (alice, at_bob) if by == "source" else (bob, stream)
        (await goes.connection()).abort()
        with pytest.raises(StreamReset):
            await stays.read()
        assert not net.service.circuits


# -- who is not reached ---------------------------------------------------------------------------------------


async def test_without_a_reservation_the_target_sees_nothing() -> None:
    async with relay_net() as net:
        alice, bob = net.node(), net.node()
        connection = await bob.connection()
        assert (await alice.circuit(bob.peer))[0] == Status.NO_RESERVATION
        assert await bob.reserve() == Status.OK
        await alice.circuit(bob.peer)
        connection.close()
        await until(lambda: not net.service.reservations)
        await bob.stops.get()
        await bob.connection()
        assert (await alice.circuit(bob.peer))[0] == Status.NO_RESERVATION
        await settled()
        assert bob.stops.empty()


async def test_a_peer_to_itself_and_the_relay_itself() -> None:
    async with relay_net() as net:
        alice = net.node()
        assert await alice.reserve() == Status.OK
        assert (await alice.circuit(alice.peer))[0] == Status.PERMISSION_DENIED
        assert (await alice.circuit(net.relay.peer))[0] == Status.NO_RESERVATION
        await settled()
        assert alice.stops.empty()
        assert not net.service.circuits
