"""Whole peers over TCP: two that only a relay joins, and what becomes of them when it refuses, restarts or lies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from conftest import MakePeer
from support.clock import Clock
from support.waiting import begun, next_event, until

from stronghold_p2p import (
    ClosedError,
    Config,
    ConnectionClosed,
    ConnectionLost,
    DialError,
    EncodeError,
    FirewallRules,
    InvalidAddress,
    Keypair,
    ListenError,
    Multiaddr,
    PathLimits,
    PathUpgraded,
    Policy,
    ProtocolNotSupported,
    RelayRefused,
    RelayServer,
    ReservationLost,
    ReservationMade,
    Rule,
    Stream,
    StreamReset,
    StrongholdP2p,
)
from stronghold_p2p.encoding import messages
from stronghold_p2p.protocols.framing import read, write
from stronghold_p2p.protocols.relay import reservations, server
from stronghold_p2p.protocols.relay.message import HOP, STOP, HopType, Status, StopType
from stronghold_p2p.protocols.service import in_task

from .conftest import MakeNet, Peer, echo

MIB = 1024 * 1024
LIMITS = PathLimits(600.0, 16 * MIB)
CIRCUIT = Multiaddr.parse("/p2p-circuit")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost is made again at once."""
    monkeypatch.setattr(reservations, "FIRST_PAUSE", 0.01)


# -- listening and dialing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_a_request_through_a_relay(make_net: MakeNet, transport: str) -> None:
    net = await make_net()
    if transport == "ws":
        await net.relay.stop_listening()
        net.address = await net.relay.listen("/ip4/127.0.0.1/tcp/0/ws")
    events = net.bob.events()
    address = await net.bob.listen_via_relay(net.address)
    assert address == net.address.encapsulate(CIRCUIT).with_peer(net.bob.peer_id)
    made = await next_event(events, ReservationMade)
    assert (made.relay, made.addresses, made.limits) == (net.relay.peer_id, (address,), LIMITS)
    assert [listener.address for listener in net.bob.listeners] == [address]
    assert net.bob.listeners[0].addresses == (address,)
    assert await net.alice.send_request(address, "hello") == "hello"
    [path] = [one.path for one in net.alice.connections if one.peer == net.bob.peer_id]
    assert (path.transport, path.relay, path.limits) == (transport, net.relay.peer_id, LIMITS)
    assert path.dialed == address.without_peer()
    [path] = [one.path for one in net.bob.connections if one.peer == net.alice.peer_id]
    assert (path.relay, path.dialed, path.limits) == (net.relay.peer_id, None, LIMITS)
    assert net.service.circuits == 1


async def test_both_ways_and_much_of_it(make_net: MakeNet) -> None:
    net = await make_net(max_bytes=None, max_seconds=None)
    net.alice.on_request(echo)
    net.alice.set_firewall_default(FirewallRules.allow_all().inbound)
    address = await net.bob.listen_via_relay(net.address)
    text = "x" * (MIB // 2)
    assert await net.alice.send_request(address, text) == text
    bodies = [f"{number}" + text[: number * 1000] for number in range(100)]
    asked = [net.bob.send_request(net.alice.peer_id, body) for body in bodies]
    asked += [net.alice.send_request(net.bob.peer_id, body) for body in bodies]
    assert await asyncio.gather(*asked) == bodies * 2


async def test_remotes_are_told_of_it(make_net: MakeNet, make_peer: MakePeer) -> None:
    """By identify, before and after; it is dialed like any other address, and behind direct ones."""
    net = await make_net()
    direct = await net.bob.listen()
    carol = await make_peer()
    await carol.connect(direct)
    address = await net.bob.listen_via_relay(net.address)
    known = address.without_peer()
    await until(lambda: known in carol.addresses.get(net.bob.peer_id))
    await net.bob.stop_listening(direct)
    await carol.disconnect(net.bob.peer_id)
    assert await carol.send_request(net.bob.peer_id, "through") == "through"
    assert [one.path.relay for one in carol.connections if one.peer == net.bob.peer_id] == [net.relay.peer_id]
    await net.bob.stop_listening(relay=net.address)
    await until(lambda: known not in carol.addresses.get(net.bob.peer_id))


async def test_direct_addresses_go_first(make_net: MakeNet) -> None:
    net = await make_net()
    net.alice.addresses.add(await net.bob.listen_via_relay(net.address))
    net.alice.addresses.add(await net.bob.listen())
    assert (await net.alice.connect(net.bob.peer_id)) == net.bob.peer_id
    assert [one.path.relay for one in net.alice.connections if one.peer == net.bob.peer_id] == [None]


@pytest.mark.parametrize("by", ["relay", "address", "all"])
async def test_listening_no_longer(make_net: MakeNet, by: str) -> None:
    net = await make_net()
    address = await net.bob.listen_via_relay(net.address)
    if by == "all":
        await net.bob.stop_listening()
    else:
        await net.bob.stop_listening(**{by: address if by == "address" else str(net.relay.peer_id)})
    assert net.bob.listeners == ()
    with pytest.raises(DialError, match="203: the peer did not accept the circuit"):
        await net.alice.connect(address)
    await net.bob.disconnect(net.relay.peer_id)
    await until(lambda: not net.service.reservations)
    with pytest.raises(DialError, match="204: the peer has no reservation there") as caught:
        await net.alice.connect(address)
    [attempt] = caught.value.attempts
    assert isinstance(attempt.error, RelayRefused)
    assert await net.bob.listen_via_relay(net.address) == address


async def test_a_relay_that_refuses_and_peers_that_are_none(make_net: MakeNet, make_peer: MakePeer) -> None:
    net = await make_net(reserve=frozenset())
    with pytest.raises(ListenError, match="refused with status 202: its rules do not allow it"):
        await net.bob.listen_via_relay(net.address)
    carol = await make_peer()
    with pytest.raises(ListenError, match=r"no reservation: .* does not offer"):
        await net.bob.listen_via_relay(await carol.listen())
    with pytest.raises(ListenError, match="no reservation: cannot dial"):
        await net.bob.listen_via_relay(Keypair.generate().peer_id)
    with pytest.raises(InvalidAddress, match="of this peer itself"):
        await net.bob.listen_via_relay(net.bob.peer_id)
    with pytest.raises(ListenError, match="reserve there"):
        await net.bob.listen(net.address.encapsulate(CIRCUIT))
    assert net.bob.listeners == ()


async def test_one_relay_is_used_once(make_net: MakeNet) -> None:
    net = await make_net()
    address = await net.bob.listen_via_relay(net.address)
    with pytest.raises(ListenError, match="already"):
        await net.bob.listen_via_relay(net.relay.peer_id)
    assert await net.alice.send_request(address, 1) == 1


async def test_a_call_that_is_cancelled_leaves_nothing(make_peer: MakePeer) -> None:
    async with lying_relay(make_peer, silent) as (address, _):
        bob = await make_peer()
        call = await begun(bob.listen_via_relay(address))
        await until(lambda: bob.connections)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        assert bob.listeners == ()


@pytest.mark.parametrize("by", ["close", "stop"])
async def test_a_call_whose_peer_stops_ends(make_peer: MakePeer, by: str) -> None:
    async with lying_relay(make_peer, silent) as (address, _):
        bob = await make_peer()
        call = await begun(bob.listen_via_relay(address))
        await until(lambda: bob.connections)
        await (bob.close() if by == "close" else bob.stop_listening(relay=address))
        with pytest.raises(ClosedError):
            await call
        assert bob.listeners == ()


async def test_relays_to_dial_through(make_net: MakeNet, make_peer: MakePeer) -> None:
    net = await make_net()
    await net.bob.listen_via_relay(net.address)
    bob = net.bob.peer_id
    with pytest.raises(DialError, match="no address is known"):
        await net.alice.connect(bob)
    net.alice.add_dialing_relay(net.address)
    net.alice.set_relay_fallback(bob, False)
    with pytest.raises(DialError, match="no address is known"):
        await net.alice.connect(bob)
    net.alice.set_relay_fallback(bob, True)
    assert await net.alice.send_request(bob, "hello") == "hello"
    await net.alice.disconnect(bob)
    other = await make_peer(relay=RelayServer())
    net.alice.use_specific_relay(bob, await other.listen(), exclusive=True)
    with pytest.raises(DialError, match="204"):
        await net.alice.connect(bob)
    net.alice.use_specific_relay(bob, other.peer_id)
    assert await net.alice.send_request(bob, "hello") == "hello"
    await net.alice.disconnect(bob)
    for known in net.alice.addresses.get(bob):
        net.alice.addresses.remove(known, bob)
    net.alice.remove_dialing_relay(net.relay.peer_id)
    with pytest.raises(DialError, match="204"):
        await net.alice.connect(bob)


async def test_a_relay_that_has_dialed_us(make_net: MakeNet) -> None:
    """No address of it is known, and none is needed."""
    net = await make_net()
    await net.bob.listen_via_relay(net.address)
    await net.relay.connect(await net.alice.listen())
    net.alice.add_dialing_relay(net.relay.peer_id)
    for known in net.alice.addresses.get(net.relay.peer_id):
        net.alice.addresses.remove(known, net.relay.peer_id)
    assert await net.alice.send_request(net.bob.peer_id, "hello") == "hello"
    assert len(net.alice.connections) == 2


async def test_relays_that_lead_to_each_other(make_peer: MakePeer) -> None:
    """Nothing waits for itself."""
    alice = await make_peer()
    one, other = Keypair.generate().peer_id, Keypair.generate().peer_id
    for relay, peer in (one, other), (other, one):
        alice.addresses.add(f"/p2p/{relay}/p2p-circuit/p2p/{peer}")
        alice.add_dialing_relay(relay)
    with pytest.raises(DialError, match="no address is known"):
        await alice.connect(one)


async def test_idle_connections_to_the_relay_stay(make_net: MakeNet, make_peer: MakePeer) -> None:
    """At both ends, for as long as the reservation stands."""
    quick = Config(idle_timeout=0.05)
    relay = await make_peer(relay=RelayServer(), config=quick)
    address = await relay.listen()
    bob = await make_peer(config=quick)
    await bob.listen_via_relay(address)
    reserved = bob.connections
    for _ in range(3):  # others are closed meanwhile
        carol = await make_peer(config=quick)
        events = carol.events()
        await carol.connect(address)
        await next_event(events, ConnectionClosed)
    assert [one.opened_at for one in bob.connections] == [one.opened_at for one in reserved]
    events = bob.events()
    await bob.stop_listening(relay=address)
    assert (await next_event(events, ConnectionClosed)).error is None


# -- what is lost is made again ----------------------------------------------------------------------------


async def test_it_is_renewed(make_net: MakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations, "SHORTEST", 0.01)
    net = await make_net(reservation_ttl=0.5)
    events = net.bob.events()
    address = await net.bob.listen_via_relay(net.address)
    for _ in range(3):
        await next_event(events, ReservationMade)
    assert await net.alice.send_request(address, 1) == 1
    assert len(net.bob.connections) == 2
    assert net.service.reservations == 1


async def test_it_expires(make_net: MakeNet) -> None:
    net = await make_net(reservation_ttl=0.05)
    address = await net.bob.listen_via_relay(net.address)
    await until(lambda: not net.service.reservations)
    with pytest.raises(DialError, match="204"):
        await net.alice.connect(address)


@pytest.mark.parametrize("by", ["time", "network"])
async def test_the_relay_restarts(make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    key = Keypair.generate()
    first: Peer = StrongholdP2p(keypair=key, relay=RelayServer())
    await first.start()
    address = await first.listen()
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(echo)
    circuit = await bob.listen_via_relay(address)
    events = bob.events()
    if by == "network":
        monkeypatch.setattr(reservations, "FIRST_PAUSE", 1000.0)
    await first.close()
    assert await next_event(events, ReservationLost) == ReservationLost(key.peer_id, None)
    assert [listener.addresses for listener in bob.listeners] == [()]
    second: Peer = StrongholdP2p(keypair=key, relay=RelayServer(), config=Config(close_timeout=0.1))
    await second.start()
    await second.listen(address)
    if by == "network":
        bob._parts.relaying.reservations.network_changed()
    made = await next_event(events, ReservationMade)
    assert made.addresses == (circuit,)
    assert await alice.send_request(circuit, 1) == 1
    await second.close()


async def test_a_relay_that_moves(make_peer: MakePeer) -> None:
    key = Keypair.generate()
    first: Peer = StrongholdP2p(keypair=key, relay=RelayServer())
    await first.start()
    bob = await make_peer()
    await bob.listen_via_relay(await first.listen())
    events = bob.events()
    second: Peer = StrongholdP2p(keypair=key, relay=RelayServer(), config=Config(close_timeout=0.1))
    await second.start()
    moved = await second.listen()  # while the first has its port: it is another one
    bob.addresses.add(moved)
    await first.close()
    made = await next_event(events, ReservationMade)
    assert made.addresses[0] == moved.encapsulate(CIRCUIT).with_peer(bob.peer_id)
    await second.close()


async def test_a_relay_that_is_gone_is_told_once(make_peer: MakePeer) -> None:
    relay: Peer = StrongholdP2p(relay=RelayServer())
    await relay.start()
    bob = await make_peer()
    await bob.listen_via_relay(await relay.listen())
    events = bob.events()
    await relay.close()
    await next_event(events, ReservationLost)
    await until(lambda: len(bob._parts.swarm._dialer.dials) if bob._parts.swarm else 0)  # it is dialed again
    await bob.close()
    assert [event async for event in events if isinstance(event, ReservationLost)] == []


async def test_the_relay_closes_with_circuits_open(make_net: MakeNet) -> None:
    net = await make_net()
    asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(stream: Stream) -> None:
        asked.set_result(None)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set_result(None)

    net.bob.set_firewall_default(Rule.ALLOW_ALL)
    net.bob.handle_stream("/wait", wait)
    address = await net.bob.listen_via_relay(net.address)
    stream = await net.alice.open_stream(address, "/wait")
    await stream.write(b"?")
    await asked
    closing = asyncio.create_task(net.relay.close())
    with pytest.raises(ConnectionLost):
        await stream.read()
    await ended
    await closing
    assert not net.service.circuits


# -- limits ------------------------------------------------------------------------------------------------


async def test_a_request_over_the_limit_is_not_sent(make_net: MakeNet) -> None:
    """One that is only over what is left of it, by what has gone over the circuit, or waits to, has another circuit."""
    net = await make_net(max_bytes=100_000)
    address = await net.bob.listen_via_relay(net.address)
    assert await net.alice.send_request(address, "x" * 20_000) == "x" * 20_000
    left = r"over the limit of the relay .*: of 100,000 bytes in each direction of a circuit [67]\d,\d{3} are left"
    with pytest.raises(EncodeError, match=left):
        await net.alice.send_request(address, "x" * 99_000)
    [before] = [one for one in net.alice.connections if one.path.relay is not None]
    assert await net.alice.send_request(address, "x" * 78_000) == "x" * 78_000
    assert before not in net.alice.connections
    first = asyncio.create_task(net.alice.send_request(address, "x" * 40_000))
    second = asyncio.create_task(net.alice.send_request(address, "x" * 40_000))
    assert (await first, await second) == ("x" * 40_000, "x" * 40_000)


async def test_who_was_reached_by_a_circuit_does_not_end_it(make_net: MakeNet) -> None:
    """It cannot make another one."""
    net = await make_net(max_bytes=100_000)
    net.alice.on_request(lambda request: "read")
    net.alice.set_firewall_default(FirewallRules.allow_all().inbound)
    assert await net.alice.send_request(await net.bob.listen_via_relay(net.address), "x" * 40_000)
    with pytest.raises(EncodeError):
        await net.bob.send_request(net.alice.peer_id, "x" * 80_000)
    assert await net.bob.send_request(net.alice.peer_id, "still") == "read"


@pytest.mark.parametrize("limits", [{"max_bytes": 50_000}, {"max_seconds": 0.9}])
async def test_a_circuit_that_is_cut_ends_its_requests(clock: Clock, make_net: MakeNet, limits: dict[str, Any]) -> None:
    """By responses, of which their sender alone knows. The error names the relay, and the limit that had been reached by
    what was announced, in whole seconds."""
    net = await make_net(**limits)
    net.alice.on_request(lambda request: "x" * 2_000)
    net.alice.set_firewall_default(FirewallRules.allow_all().inbound)
    address = await net.alice.listen_via_relay(net.address)

    async def ask_on() -> None:
        while True:
            assert await net.bob.send_request(address, "?") == "x" * 2_000
            clock.now += 0.1

    with pytest.raises(ConnectionLost, match=f"the relay {net.relay.peer_id} ended the circuit: ") as caught:
        await ask_on()
    assert caught.value.path is not None
    assert caught.value.path.relay == net.relay.peer_id
    named = "the announced limit of 50,000 bytes each way had been reached" in str(caught.value)
    assert named is ("max_bytes" in limits)
    assert await net.bob.send_request(address, "again") == "x" * 2_000


async def test_peers_without_limits(make_net: MakeNet) -> None:
    bob = Keypair.generate()
    net = await make_net(bob={"keypair": bob}, max_bytes=1000, unlimited=frozenset({bob.peer_id}))
    address = await net.bob.listen_via_relay(net.address)
    assert await net.alice.send_request(address, "x" * 10_000) == "x" * 10_000
    assert [one.path.limits for one in net.alice.connections] == [None, None]


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, float("nan"), "1"])
def test_limits_that_are_none(wrong: Any) -> None:
    with pytest.raises(ValueError, match="max_circuits must be a positive int"):
        RelayServer(max_circuits=wrong)
    with pytest.raises(TypeError):
        StrongholdP2p(relay=wrong)


# -- who may ----------------------------------------------------------------------------------------------


async def test_the_far_end_is_who_is_judged(make_net: MakeNet) -> None:
    net = await make_net()
    address = await net.bob.listen_via_relay(net.address)
    await net.bob.ban_peer(net.alice.peer_id)
    with pytest.raises(ProtocolNotSupported, match="a ban or a policy of the remote"):
        await net.alice.ping(address)
    assert [one.peer for one in net.bob.connections] == [net.relay.peer_id]
    await net.bob.unban_peer(net.alice.peer_id)
    assert await net.alice.send_request(address, 1) == 1


async def test_a_list_of_networks_admits_nobody_through_a_relay(make_net: MakeNet) -> None:
    policy = Policy.parse('[networks]\nallow = ["127.0.0.0/8"]\n')
    net = await make_net(bob={"policy": policy})
    address = await net.bob.listen_via_relay(net.address)
    with pytest.raises(DialError):
        await net.alice.connect(address)
    assert [one.peer for one in net.bob.connections] == [net.relay.peer_id]


# -- relays and targets that lie ---------------------------------------------------------------------------


Handler = Callable[[Stream], Awaitable[None]]


@asynccontextmanager
async def lying_relay(make_peer: MakePeer, handler: Handler) -> AsyncIterator[tuple[Multiaddr, Peer]]:
    relay = await make_peer(firewall=FirewallRules.allow_all())
    relay.handle_stream(HOP, handler)
    yield await relay.listen(), relay


async def silent(stream: Stream) -> None:
    await stream.read()
    with suppress(Exception):
        await stream.read()


async def garbage(stream: Stream) -> None:
    await read(stream, messages.HopMessage)
    await stream.write(b"\x03\xff\xff\xff")


async def too_much(stream: Stream) -> None:
    await read(stream, messages.HopMessage)
    await stream.write(b"\xff\xff\x7f" + bytes(5000))


async def nothing(stream: Stream) -> None:
    await read(stream, messages.HopMessage)


async def no_status(stream: Stream) -> None:
    await read(stream, messages.HopMessage)
    await write(stream, messages.HopMessage(type=HopType.CONNECT))


async def unknown_status(stream: Stream) -> None:
    await read(stream, messages.HopMessage)
    await write(stream, messages.HopMessage(type=HopType.STATUS, status=777))


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (silent, "no answer within 0.2 s"),
        (garbage, "not a protobuf message"),
        (too_much, "over the limit of 4096"),
        (nothing, "ended"),
        (no_status, "expected a status"),
        (unknown_status, "status 777: unknown"),
    ],
)
async def test_a_relay_that_does_not_reserve(make_peer: MakePeer, handler: Handler, reason: str) -> None:
    bob = await make_peer(config=Config(request_timeout=0.2))
    async with lying_relay(make_peer, handler) as (address, _):
        with pytest.raises(ListenError, match=reason):
            await bob.listen_via_relay(address)
        assert bob.listeners == ()
        with pytest.raises(DialError):
            await bob.connect(address.encapsulate(CIRCUIT).with_peer(Keypair.generate().peer_id), timeout=0.2)


async def test_a_target_that_never_answers(make_net: MakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STOP_TIMEOUT", 0.05)
    net = await make_net()
    address = await net.bob.listen_via_relay(net.address)
    swarm = net.bob._parts.running()
    monkeypatch.setitem(swarm._handlers, STOP, in_task(lambda connection, stream: silent(stream)))
    with pytest.raises(DialError, match="203: the peer did not accept the circuit, or does not answer"):
        await net.alice.connect(address)
    assert not net.service.circuits


async def test_a_stop_from_a_stranger(make_peer: MakePeer) -> None:
    """Who is no relay of ours brings nobody, and what is no message ends with its stream."""
    bob, stranger = await make_peer(), await make_peer()
    address = await bob.listen()
    source = messages.CircuitPeer(id=Keypair.generate().peer_id.to_bytes())
    for message, status in (
        (messages.StopMessage(type=StopType.CONNECT, peer=source), Status.PERMISSION_DENIED),
        (messages.StopMessage(type=StopType.STATUS), Status.UNEXPECTED_MESSAGE),
    ):
        async with await stranger.open_stream(address, STOP) as stream:
            await write(stream, message)
            assert (await read(stream, messages.StopMessage)).status == status
    async with await stranger.open_stream(address, STOP) as stream:
        await stream.write(b"\x02\xff\xff")
        with pytest.raises(StreamReset):
            await read(stream, messages.StopMessage)
    assert len(bob.connections) == 1


async def test_a_stop_without_a_message(make_peer: MakePeer) -> None:
    bob, relay = await make_peer(config=Config(request_timeout=0.05)), await make_peer()
    async with await relay.open_stream(await bob.listen(), STOP) as stream:
        await stream.negotiated()
        with pytest.raises(StreamReset):
            await stream.read()


async def test_a_flood_of_circuits_costs_its_connection(make_peer: MakePeer) -> None:
    relay = await make_peer(relay=RelayServer(), config=Config(max_control_frames=1000))
    alice = await make_peer()
    target = messages.CircuitPeer(id=Keypair.generate().peer_id.to_bytes())
    events = alice.events()
    address = await relay.listen()

    async def ask_on() -> None:
        while True:
            async with await alice.open_stream(address, HOP) as stream:
                await write(stream, messages.HopMessage(type=HopType.CONNECT, peer=target))
                assert (await read(stream, messages.HopMessage)).status == Status.NO_RESERVATION

    with pytest.raises((ConnectionLost, StreamReset)):
        await ask_on()
    await next_event(events, ConnectionClosed)


def test_peers_of_a_relay_by_their_text() -> None:
    peer = Keypair.generate().peer_id
    server = RelayServer(reserve={str(peer)}, unlimited=[str(peer)])  # type: ignore[arg-type]
    assert (server.reserve, server.connect, server.unlimited) == ({peer}, None, {peer})
    with pytest.raises(InvalidAddress):
        RelayServer(connect={"bob"})  # type: ignore[arg-type]


async def test_a_direct_address_is_dialed_beside_a_circuit(make_net: MakeNet) -> None:
    net = await make_net()
    circuit = await net.bob.listen_via_relay(net.address)
    direct = await net.bob.listen()
    assert await net.alice.send_request(circuit, "relayed") == "relayed"
    events = net.alice.events()
    await net.alice.connect(direct)
    upgraded = await next_event(events, PathUpgraded)
    assert (upgraded.connection.path.relay, upgraded.before.relay) == (None, net.relay.peer_id)
    assert await net.alice.send_request(circuit, "direct") == "direct"


async def test_a_circuit_is_better_than_a_direct_address_that_fails(make_net: MakeNet) -> None:
    net = await make_net()
    circuit = await net.bob.listen_via_relay(net.address)
    direct = await net.bob.listen()
    await net.bob.stop_listening(direct)
    await net.alice.connect(circuit)
    assert await net.alice.connect(direct) == net.bob.peer_id
    assert await net.alice.send_request(circuit, "relayed") == "relayed"
