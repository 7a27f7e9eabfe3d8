"""Connections by peer: dialing, listening, limits, ends."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import ifaddr
import pytest
from conftest import MakePeer
from support.remote import Remote, lines, listening
from support.waiting import begun, next_event, settled, turns, until
from support.yamux import data, go_away

from stronghold_p2p import (
    ClosedError,
    Config,
    ConnectionClosed,
    ConnectionEstablished,
    DialError,
    Direction,
    Event,
    FirewallRules,
    HandshakeError,
    InboundConnectionFailed,
    InvalidAddress,
    Keypair,
    LimitExceeded,
    LimitReached,
    ListenerClosed,
    ListenError,
    Multiaddr,
    NewListener,
    NotPermitted,
    PeerIdentified,
    PeerIdMismatch,
    StrongholdP2p,
)
from stronghold_p2p.firewall.admission import AdmissionRules
from stronghold_p2p.swarm.swarm import Swarm
from stronghold_p2p.transport import netlink
from stronghold_p2p.transport.stream import Stream
from stronghold_p2p.wire.yamux import Flag

Peer = StrongholdP2p[Any, Any]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
async def unused_port() -> int:
    """A port of loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def swarm_of(peer: Peer) -> Swarm:
    assert peer._parts.swarm is not None
    return peer._parts.swarm


def tcp(port: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")


# -- dialing -------------------------------------------------------------------------------------------


async def test_one_dial_for_many_callers(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen()
    assert await asyncio.gather(*(alice.connect(address) for _ in range(50))) == [bob.peer_id] * 50
    assert len(alice.connections) == 1
    await until(lambda: len(bob.connections) == 1)
    (info,) = alice.connections
    assert info.peer == bob.peer_id
    assert info.address == address.without_peer()
    assert info.direction is Direction.OUTBOUND
    assert bob.connections[0].direction is Direction.INBOUND
    await alice.connect(address)
    assert len(alice.connections) == 1


async def test_the_connections_to_a_peer_that_may_have_moved_are_checked(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    await alice.connect(await bob.listen())
    swarm = swarm_of(alice)
    (connection,) = swarm.connections
    ping = connection._session._ping_value
    swarm.found(bob.peer_id, ())
    assert connection._session._ping_value == ping + 1
    await until(lambda: not connection._session.ping_pending)


async def test_every_caller_hears_of_a_failure(make_peer: MakePeer, unused_port: int) -> None:
    alice = await make_peer()
    target = tcp(unused_port).with_peer(Keypair.generate().peer_id)
    outcomes = await asyncio.gather(*(alice.connect(target) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DialError] * 3


async def test_callers_of_one_dial_go_on_in_the_order_they_came(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen()
    order: list[int] = []

    async def connect(number: int) -> None:
        await alice.connect(address)
        order.append(number)

    await asyncio.gather(*map(connect, range(20)))
    assert order == list(range(20))


async def test_a_dial_that_has_failed_takes_no_place_of_the_next(make_peer: MakePeer, unused_port: int) -> None:
    alice = await make_peer(config=Config(max_pending_outbound_connections=1))
    for _ in range(3):
        with pytest.raises(DialError) as caught:
            await alice.connect(tcp(unused_port).with_peer(Keypair.generate().peer_id))
        assert len(caught.value.attempts) == 1


async def test_a_caller_that_leaves_does_not_end_the_dial_of_others(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen()
    leaving, staying = (asyncio.create_task(alice.connect(address)) for _ in range(2))
    await turns(2)
    leaving.cancel()
    assert await staying == bob.peer_id
    assert leaving.cancelled()


async def test_the_last_caller_that_leaves_ends_the_dial(make_peer: MakePeer) -> None:
    alice = await make_peer()
    async with listening() as listener:
        connecting = [asyncio.create_task(alice.connect(listener.address)) for _ in range(2)]
        remote = await listener.accept()
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        await remote.raw_rest()  # until the connection has ended
        await remote.close()
        assert alice.connections == ()


@pytest.mark.parametrize("after", range(12))
async def test_a_dial_may_be_cancelled_at_any_moment(make_peer: MakePeer, after: int) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen()
    connecting = asyncio.create_task(alice.connect(address))
    await turns(after)
    connecting.cancel()
    # Whoever comes now is not drawn into the end of that dial.
    assert await alice.connect(address) == bob.peer_id
    await asyncio.gather(connecting, return_exceptions=True)


async def test_every_handshake_has_a_key_of_its_own(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen()
    async with listening() as listener:
        first_flights = []
        for number in range(3):
            if number == 2:
                events = alice.events()
                await alice.connect(address)
                await next_event(events, PeerIdentified)  # by then the next key is made
            connecting = asyncio.create_task(alice.connect(listener.address))
            remote = await listener.accept()
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            first_flights.append(await remote.raw_rest())
            await remote.close()
    assert all(len(flight) > 32 for flight in first_flights)
    assert len({flight[-32:] for flight in first_flights}) == 3


async def test_another_caller_may_know_a_better_address(make_peer: MakePeer, unused_port: int) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen()
    wrong = await begun(alice.connect(tcp(unused_port).with_peer(bob.peer_id)))
    assert await alice.connect(address) == bob.peer_id
    assert await wrong == bob.peer_id
    assert alice.addresses.get(bob.peer_id) == (address.without_peer(),)


async def test_addresses_are_tried_in_turn(make_peer: MakePeer, unused_port: int) -> None:
    alice, bob = await make_peer(config=Config(dial_stagger=10)), await make_peer()
    address = await bob.listen()
    for known in tcp(unused_port), Multiaddr.parse("/ip4/127.0.0.1/udp/1/quic-v1"), address.without_peer():
        alice.addresses.add(known, bob.peer_id)
    assert await alice.connect(bob.peer_id) == bob.peer_id


async def test_an_address_that_does_not_answer_holds_up_the_next_for_the_stagger_alone(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(config=Config(dial_stagger=0.01)), await make_peer()
    address = await bob.listen()
    async with listening() as silent:
        alice.addresses.add(silent.address.without_peer(), bob.peer_id)
        alice.addresses.add(address)
        assert await alice.connect(bob.peer_id) == bob.peer_id
        assert alice.connections[0].address == address.without_peer()
        remote = await silent.accept()
        await remote.raw_rest()  # the other attempt is given up
        await remote.close()


async def test_every_attempt_with_its_reason(make_peer: MakePeer, unused_port: int) -> None:
    alice, bob, carol = await make_peer(), await make_peer(), await make_peer()
    elsewhere = (await carol.listen()).without_peer()
    unsupported = Multiaddr.parse("/ip4/127.0.0.1/udp/1/quic-v1")
    no_name = Multiaddr.parse(f"/dns4/{'x' * 64}.invalid/tcp/1")
    for known in unsupported, tcp(unused_port), elsewhere, no_name:
        alice.addresses.add(known, bob.peer_id)
    with pytest.raises(DialError) as caught:
        await alice.connect(bob.peer_id)
    assert caught.value.peer == bob.peer_id
    reasons = {attempt.address: attempt.error for attempt in caught.value.attempts}
    assert set(reasons) == {unsupported, tcp(unused_port), elsewhere, no_name}
    assert isinstance(reasons[unsupported], InvalidAddress)
    assert isinstance(reasons[tcp(unused_port)], ConnectionRefusedError)
    assert isinstance(reasons[elsewhere], PeerIdMismatch)
    assert isinstance(reasons[no_name], OSError)
    assert f"{tcp(unused_port)}: connection refused (" in str(caught.value)
    assert f"{unsupported}: no transport supports it" in str(caught.value)


async def test_no_address(make_peer: MakePeer) -> None:
    alice = await make_peer()
    with pytest.raises(DialError, match="no address"):
        await alice.connect(Keypair.generate().peer_id)


async def test_an_address_that_led_to_the_peer_is_remembered(make_peer: MakePeer, unused_port: int) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen()
    await alice.connect(address)
    assert alice.addresses.get(bob.peer_id) == (address.without_peer(),)
    nobody = Keypair.generate().peer_id
    with pytest.raises(DialError):
        await alice.connect(tcp(unused_port).with_peer(nobody))
    assert nobody not in alice.addresses


async def test_names(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    port = (await bob.listen()).without_peer().components[1][1]
    assert await alice.connect(f"/dns4/localhost/tcp/{port}/p2p/{bob.peer_id}") == bob.peer_id


@needs_ipv6
async def test_ipv6(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen("/ip6/::1/tcp/0")
    assert await alice.connect(address) == bob.peer_id
    await until(lambda: bob.connections)
    assert str(bob.connections[0].address).startswith("/ip6/::1/tcp/")


async def test_what_a_peer_told_of_its_addresses_is_used(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    alice_address = await alice.listen()
    events = bob.events()
    bob_address = await bob.listen()
    await alice.connect(bob_address)
    identified = await next_event(events, PeerIdentified)
    assert identified.listen_addresses == (alice_address.without_peer(),)
    assert identified.agent_version.startswith("stronghold-p2p-py/")
    assert identified.observed_address == bob_address.without_peer()
    await bob.disconnect(alice.peer_id)
    assert await bob.connect(alice.peer_id) == alice.peer_id


async def test_simultaneous_dials_leave_a_connection(make_peer: MakePeer) -> None:
    for moment in range(12):
        alice, bob = await make_peer(), await make_peer()
        addresses = await alice.listen(), await bob.listen()
        early = asyncio.create_task(alice.connect(addresses[1]))
        await turns(moment)
        late = asyncio.create_task(bob.connect(addresses[0]))
        await asyncio.gather(early, late)
        await settled()
        connections = swarm_of(alice).connections, swarm_of(bob).connections
        assert len(connections[0]) == len(connections[1]) > 0
        assert all(connection.usable for connection in (*connections[0], *connections[1]))


async def test_new_streams_use_the_older_of_two_connections(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    addresses = await alice.listen(), await bob.listen()
    await alice.connect(addresses[1])
    await until(lambda: bob.connections)
    dial = swarm_of(bob)._dialer.dial(alice.peer_id, (addresses[0].without_peer(),))
    await dial.outcome(asyncio.get_running_loop().time() + 10)
    await until(lambda: len(alice.connections) == len(bob.connections) == 2)
    older = swarm_of(alice).connections[0]
    assert swarm_of(alice).connection(bob.peer_id) is older
    older.close()
    assert swarm_of(alice).connection(bob.peer_id) is not older


async def test_who_waits_for_a_dial_gets_the_connection_that_the_peer_makes(make_peer: MakePeer) -> None:
    alice = await make_peer()
    bob = await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: request.body)
    async with listening() as silent:
        alice.addresses.add(silent.address.without_peer(), bob.peer_id)
        calls = [await begun(alice.connect(bob.peer_id)), await begun(alice.send_request(bob.peer_id, "hello"))]
        remote = await silent.accept()
        await bob.connect(await alice.listen())
        assert await asyncio.gather(*calls) == [bob.peer_id, "hello"]
        assert [connection.direction for connection in alice.connections] == [Direction.INBOUND]
        await remote.raw_rest()  # the dial has ended
        await remote.close()


async def test_idle_close_takes_what_is_not_used(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(config=Config(idle_timeout=0.02)), await make_peer()
    events = alice.events()
    await alice.connect(await bob.listen())
    assert (await next_event(events, ConnectionClosed)).error is None
    assert not alice.is_connected(bob.peer_id)


# -- limits and bans -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["max_inbound_connections", "max_connections", "max_connections_per_peer"])
async def test_an_idle_connection_gives_way_to_a_newcomer(make_peer: MakePeer, limit: str) -> None:
    bob = await make_peer(config=Config(**{limit: 2}))
    address, events = await bob.listen(), bob.events()
    keypair = Keypair.generate()
    remotes = [await Remote.dial(address, keypair) for _ in range(2)]
    await until(lambda: len(bob.connections) == 2)
    ends = [asyncio.create_task(remote.rest()) for remote in remotes]
    remotes.append(await Remote.dial(address, keypair))
    assert await ends[0] == [go_away(0x1001)]  # though we are just asking who it is
    ends[1].cancel()
    assert await next_event(events, LimitReached) == LimitReached(limit, "127.0.0.1/32", 1)
    assert (await next_event(events, ConnectionClosed)).error is None
    assert len(bob.connections) == 2
    for remote in remotes:
        await remote.close()


async def test_a_peer_whose_connections_are_all_at_work_gets_no_further_one(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all(), config=Config(max_connections_per_peer=1))
    address, events = await bob.listen(), bob.events()
    bob.handle_stream("/held/1.0.0", _hold)
    keypair = Keypair.generate()
    first = await Remote.dial(address, keypair)
    first.send(data(1, lines("/held/1.0.0"), Flag.SYN))
    await until(lambda: [connection.streams for connection in bob.connections] == [1])
    second = await Remote.dial(address, keypair)
    assert await second.rest() == [go_away(0x1001)]
    failed = await next_event(events, InboundConnectionFailed)
    assert isinstance(failed.error, LimitExceeded)
    assert failed.error.limit == "max_connections_per_peer"
    for remote in (first, second):
        await remote.close()


async def _hold(stream: Stream) -> None:
    await asyncio.Event().wait()


async def test_an_upgrade_gives_way_to_a_newcomer(make_peer: MakePeer) -> None:
    bob = await make_peer(config=Config(max_pending_inbound_connections=2, connection_timeout=600))
    address, events = await bob.listen(), bob.events()
    upgraded = [await Remote.dial(address) for _ in range(3)]
    of_upgraded: list[Event] = []
    while sum(isinstance(event, ConnectionEstablished) for event in of_upgraded) < 3:
        of_upgraded.append(await anext(events))
    assert not any(isinstance(event, LimitReached) for event in of_upgraded)  # whose places are free again
    silent = [await Remote.connect(address) for _ in range(3)]
    async with asyncio.timeout(30):
        await silent[0].raw_rest()
        assert (await next_event(events, LimitReached)).limit == "max_pending_inbound_connections"
        upgraded.append(await Remote.dial(address))
        await silent[1].raw_rest()
    for each in (*silent, *upgraded):
        await each.close()


@pytest.mark.parametrize("limit", ["max_inbound_connections", "max_pending_inbound_connections"])
async def test_the_largest_network_gives_way(make_peer: MakePeer, limit: str) -> None:
    bob = await make_peer(config=Config(**{limit: 4}))
    events = bob.events()
    ipv4, ipv6 = await bob.listen(), await bob.listen("/ip6/::1/tcp/0")
    connect = Remote.connect if "pending" in limit else Remote.dial
    honest = await connect(ipv4)
    crowd = [await connect(ipv6) for _ in range(6)]
    gone = await next_event(events, LimitReached)
    assert (gone.limit, gone.network) == (limit, "::/48")
    if "pending" in limit:
        await honest.upgrade(initiator=True)
    await until(lambda: [str(one.address) for one in bob.connections if "/ip4/" in str(one.address)])
    for remote in (honest, *crowd):
        await remote.close()


async def test_a_limit_for_each_peer_does_not_touch_others(make_peer: MakePeer) -> None:
    bob = await make_peer(config=Config(max_connections_per_peer=1))
    address = await bob.listen()
    remotes = [await Remote.dial(address) for _ in range(3)]
    await until(lambda: len(bob.connections) == 3)
    for remote in remotes:
        await remote.close()


async def test_outbound_limits(make_peer: MakePeer) -> None:
    alice = await make_peer(config=Config(max_outbound_connections=1))
    bob, carol = await make_peer(), await make_peer()
    await alice.connect(await bob.listen())
    with pytest.raises(DialError) as caught:
        await alice.connect(await carol.listen())
    (attempt,) = caught.value.attempts
    assert isinstance(attempt.error, LimitExceeded)
    await alice.disconnect(bob.peer_id)
    await alice.connect(carol.listeners[0].addresses[0])


async def test_a_dial_over_our_own_limit_takes_no_place_at_the_other_end(make_peer: MakePeer) -> None:
    alice = await make_peer(config=Config(max_outbound_connections=1))
    bob = await make_peer(config=Config(max_inbound_connections=1))
    address, events = await bob.listen(), bob.events()
    carol = await Remote.dial(address)
    await next_event(events, ConnectionEstablished)
    await alice.connect(await (await make_peer()).listen())
    with pytest.raises(DialError, match="max_outbound_connections"):
        await alice.connect(address)
    failed = await next_event(events, InboundConnectionFailed)
    assert isinstance(failed.error, HandshakeError)
    assert [one.peer for one in bob.connections] == [carol.keypair.peer_id]
    await carol.close()


async def test_pending_outbound_limit(make_peer: MakePeer) -> None:
    alice = await make_peer(config=Config(max_pending_outbound_connections=1))
    async with listening() as silent:
        first = asyncio.create_task(alice.connect(silent.address))
        remote = await silent.accept()
        with pytest.raises(DialError, match="max_pending_outbound_connections"):
            await alice.connect(tcp(1).with_peer(Keypair.generate().peer_id))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await remote.close()


async def test_a_ban_closes_and_keeps_out(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    addresses = await alice.listen(), await bob.listen()
    await alice.connect(addresses[1])
    events = bob.events()
    await bob.ban_peer(alice.peer_id)
    assert bob.connections == ()
    await until(lambda: not alice.connections)
    with pytest.raises(NotPermitted) as caught:
        await bob.connect(addresses[0])
    assert caught.value.peer == alice.peer_id
    with pytest.raises(NotPermitted):
        await bob.send_request(addresses[0], 1)
    await alice.connect(addresses[1])  # whose handshake has ended before the refusal comes
    failed = await next_event(events, InboundConnectionFailed)
    assert isinstance(failed.error, NotPermitted)
    await until(lambda: not alice.connections)
    await bob.unban_peer(str(alice.peer_id))
    assert await bob.connect(addresses[0]) == alice.peer_id


async def test_whoever_is_banned_hears_so(make_peer: MakePeer) -> None:
    """On a connection that there is, and after the handshake of another one."""
    bob = await make_peer()
    address, keypair = await bob.listen(), Keypair.generate()
    remote = await Remote.dial(address, keypair)
    await until(lambda: bob.connections)
    await bob.ban_peer(keypair.peer_id)
    assert await remote.rest() == [go_away(0x1007)]
    again = await Remote.dial(address, keypair)
    assert await again.rest() == [go_away(0x1007)]
    for one in remote, again:
        await one.close()


async def test_a_policy_that_denies_a_peer_tells_it(make_peer: MakePeer) -> None:
    bob = await make_peer()
    keypair = Keypair.generate()
    remote = await Remote.dial(await bob.listen(), keypair)
    await until(lambda: bob.connections)
    bob._parts.admission.set_policy(AdmissionRules(deny_peers=frozenset({keypair.peer_id})))
    swarm_of(bob).admission_changed()
    assert await remote.rest() == [go_away(0x1007)]
    await remote.close()


async def test_a_ban_that_comes_while_dialing(make_peer: MakePeer) -> None:
    alice = await make_peer()
    async with listening() as listener:
        connecting = asyncio.create_task(alice.connect(listener.address))
        remote = await listener.accept()
        await alice.ban_peer(listener.keypair.peer_id)
        upgrading = asyncio.create_task(remote.upgrade(initiator=False))
        with pytest.raises((NotPermitted, DialError)):
            await connecting
        await asyncio.gather(upgrading, return_exceptions=True)
        await remote.close()
    assert alice.connections == ()


# -- listening -----------------------------------------------------------------------------------------


async def test_a_listener_is_announced_and_closed(make_peer: MakePeer) -> None:
    bob = await make_peer()
    events = bob.events()
    address = await bob.listen()
    assert address.peer_id == bob.peer_id
    (listener,) = bob.listeners
    assert listener.address == address
    assert listener.addresses == (address,)
    assert (await next_event(events, NewListener)).listener == listener
    await bob.stop_listening(address)
    assert (await next_event(events, ListenerClosed)).listener == listener
    assert bob.listeners == ()
    alice = await make_peer()
    with pytest.raises(DialError):
        await alice.connect(address)


async def test_connections_stay_when_a_listener_closes(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    first, second = await bob.listen(), await bob.listen()
    await alice.connect(first)
    await bob.stop_listening(first.without_peer())
    assert [listener.address for listener in bob.listeners] == [second]
    assert await alice.ping(bob.peer_id) > 0
    await bob.listen()
    await bob.stop_listening()
    assert bob.listeners == ()
    await bob.stop_listening("/ip4/127.0.0.1/tcp/1")  # unknown: nothing


@pytest.mark.parametrize("given", ["/dns4/localhost/tcp/0", "/ip4/127.0.0.1/tcp/0", "/ip4/0.0.0.0/tcp/0"])
async def test_a_listener_closes_by_the_address_that_was_given(make_peer: MakePeer, given: str) -> None:
    bob = await make_peer()
    other = await bob.listen("/ip4/127.0.0.1/tcp/0/ws")
    await bob.listen(given)
    await bob.stop_listening(given)
    assert [listener.address for listener in bob.listeners] == [other]


@pytest.mark.parametrize("wildcard", ["/ip4/0.0.0.0/tcp/0", pytest.param("/ip6/::/tcp/0", marks=needs_ipv6)])
async def test_wildcards_are_resolved(make_peer: MakePeer, wildcard: str) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen(wildcard)
    (listener,) = bob.listeners
    assert listener.address.without_peer().components[0] == Multiaddr.parse(wildcard).components[0]
    assert listener.addresses[0] == address
    assert all("0.0.0.0" not in str(one) and "/ip6/::/" not in str(one) for one in listener.addresses)
    loopback = listener.addresses[-1]
    assert loopback.components[0][1] in {"127.0.0.1", "::1"}
    assert await alice.connect(loopback) == bob.peer_id
    await bob.stop_listening(address)
    assert bob.listeners == ()


async def test_addresses_that_cannot_be_listened_on(make_peer: MakePeer) -> None:
    bob = await make_peer()
    address = (await bob.listen()).without_peer()
    for unusable in (
        str(address),  # in use
        "/ip4/192.0.2.1/tcp/0",  # not ours (RFC 5737)
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "/ip4/127.0.0.1",
        f"/dns4/{'x' * 64}.invalid/tcp/0",
    ):
        with pytest.raises(ListenError) as caught:
            await bob.listen(unusable)
        assert caught.value.address == unusable
    for malformed in "nonsense", "/ip4/127.0.0.1/tcp/65536", str(tcp(0).with_peer(Keypair.generate().peer_id)):
        with pytest.raises(InvalidAddress):
            await bob.listen(malformed)
    assert len(bob.listeners) == 1


async def test_a_machine_that_does_not_tell_its_interfaces(
    make_peer: MakePeer, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(netlink, "addresses", refuse)
    monkeypatch.setattr(ifaddr, "get_adapters", refuse)
    bob = await make_peer()
    with pytest.raises(ListenError, match=r"interfaces of this machine cannot be listed.*Permission denied"):
        await bob.listen(f"/ip4/0.0.0.0/tcp/{unused_port}")
    assert bob.listeners == ()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", unused_port)
    await bob.listen(tcp(unused_port))


async def test_ones_own_peer_id_may_stand_in_the_address(make_peer: MakePeer) -> None:
    bob = await make_peer()
    assert (await bob.listen(tcp(0).with_peer(bob.peer_id))).peer_id == bob.peer_id


# -- what is told --------------------------------------------------------------------------------------


async def test_events_of_a_connection(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen()
    events = alice.events(), bob.events()
    await alice.connect(address)
    for reader, remote in zip(events, (bob, alice), strict=True):
        assert (await next_event(reader, ConnectionEstablished)).connection.peer == remote.peer_id
    await alice.disconnect(bob.peer_id)
    for reader, remote in zip(events, (bob, alice), strict=True):
        closed = await next_event(reader, ConnectionClosed)
        assert closed.connection.peer == remote.peer_id
        assert closed.error is None


async def test_a_new_protocol_is_pushed(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    events = alice.events()
    await alice.connect(await bob.listen())
    assert "/own/1.0.0" not in (await next_event(events, PeerIdentified)).protocols

    async def serve(stream: Any) -> None:
        pass

    bob.handle_stream("/own/1.0.0", serve)
    assert "/own/1.0.0" in (await next_event(events, PeerIdentified)).protocols
    await bob.listen()
    assert len((await next_event(events, PeerIdentified)).listen_addresses) == 2


# -- closing -------------------------------------------------------------------------------------------


async def test_closing_while_dialing(make_peer: MakePeer) -> None:
    alice = await make_peer()
    async with listening() as silent:
        connecting = asyncio.create_task(alice.connect(silent.address))
        asking = asyncio.create_task(alice.send_request(silent.address, 1))
        remote = await silent.accept()
        await alice.close()
        for task in connecting, asking:
            with pytest.raises(ClosedError):
                await task
        await remote.raw_rest()
        await remote.close()


async def test_closing_while_a_remote_shakes_hands(make_peer: MakePeer) -> None:
    bob = await make_peer()
    remote = await Remote.connect(await bob.listen())
    await remote.greet()
    await bob.close()
    await remote.raw_rest()
    await remote.close()


async def test_closing_while_it_begins_to_listen(make_peer: MakePeer) -> None:
    bob = await make_peer()
    beginning = await begun(bob.listen())
    await bob.close()
    outcome = (await asyncio.gather(beginning, return_exceptions=True))[0]
    assert isinstance(outcome, Multiaddr | ClosedError)
    assert bob.listeners == ()


async def test_a_cancelled_close_leaves_no_connection(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(firewall=FirewallRules.allow_all()), await make_peer()
    alice.on_request(lambda request: asyncio.Event().wait())
    asking = asyncio.create_task(bob.send_request(await alice.listen(), 1))
    await until(lambda: alice.connections and alice.connections[0].streams)
    swarm = swarm_of(alice)
    closing = asyncio.create_task(alice.close())
    await settled()
    closing.cancel()
    await asyncio.gather(closing, asking, return_exceptions=True)
    await until(lambda: not swarm.connections)


async def test_a_connection_that_dies_with_streams_open(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: asyncio.Event().wait())
    remote = await Remote.dial(await bob.listen())
    events = bob.events()
    asking = asyncio.create_task(remote.request(1, b"1"))
    await until(lambda: bob.connections and bob.connections[0].streams)
    remote.abort()
    closed = await next_event(events, ConnectionClosed)
    assert closed.connection.streams == 0
    assert await asking == b""
    await remote.close()


async def test_a_late_caller_does_not_wait_for_the_dial_of_another(make_peer: MakePeer, unused_port: int) -> None:
    alice = await make_peer()
    async with listening() as listener:  # takes the connection, and says nothing
        first = asyncio.create_task(alice.connect(listener.address, timeout=30))
        remote = await listener.accept()
        with pytest.raises(DialError):
            await alice.connect(tcp(unused_port).with_peer(listener.keypair.peer_id), timeout=0)
        assert not first.done()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await remote.close()


@pytest.mark.parametrize("after", range(8))
async def test_listening_may_be_cancelled_at_any_moment(make_peer: MakePeer, unused_port: int, after: int) -> None:
    peer = await make_peer()
    task = asyncio.create_task(peer.listen(tcp(unused_port)))
    await turns(after)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if task.cancelled():
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", unused_port)
    else:
        assert len(peer.listeners) == 1


async def test_streams_that_are_reset_start_no_more_handlers_than_there_may_be_streams(make_peer: MakePeer) -> None:
    running = 0

    async def handle(stream: Stream) -> None:
        nonlocal running
        running += 1
        await asyncio.Event().wait()

    alice = await make_peer()
    config = Config(max_inbound_streams_per_connection=8, close_timeout=0.02)
    bob = await make_peer(firewall=FirewallRules.allow_all(), config=config)
    bob.handle_stream("/own/1.0.0", handle)
    address = await bob.listen()
    for _ in range(30):
        stream = await alice.open_stream(address, "/own/1.0.0")
        await stream.write(b"x")
        await settled()
        stream.reset()
    await until(lambda: running == 8)
    await settled()
    assert running == 8
