"""Whole peers over TCP: which paths the modes of relays and a policy leave open, and whom a relay serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import MakePeer
from support.waiting import next_event, until

from stronghold_p2p import (
    DialError,
    FirewallRules,
    Keypair,
    LimitReached,
    ListenError,
    Multiaddr,
    NotPermitted,
    PeerIdentified,
    Policy,
    ProtocolNotSupported,
    RelayServer,
    ReservationLost,
)

from .conftest import MakeNet, Peer, echo


def relays(peer: Peer, other: Peer) -> list[Any]:
    """By whom the connections of ``peer`` with ``other`` are forwarded; None for a direct one."""
    return [one.path.relay for one in peer.connections if one.peer == other.peer_id]


# -- modes -------------------------------------------------------------------------------------------------


async def test_never(make_net: MakeNet) -> None:
    """There is no circuit to or from the peer, and one that there is ends."""
    net = await make_net()
    address = await net.bob.listen_via_relay(net.address)
    assert await net.alice.send_request(address, 1) == 1
    net.alice.set_relay_mode("never", peer=net.bob.peer_id)
    await until(lambda: not relays(net.alice, net.bob))
    with pytest.raises(DialError, match="no relay may join us with it") as caught:
        await net.alice.connect(address)
    assert [type(attempt.error) for attempt in caught.value.attempts] == [NotPermitted]
    net.alice.set_relay_mode(None, peer=net.bob.peer_id)
    net.bob.set_relay_mode("never")
    with pytest.raises(ProtocolNotSupported, match="a ban or a policy of the remote"):
        await net.alice.ping(address)
    net.bob.set_relay_mode("allow", peer=net.alice.peer_id)
    assert await net.alice.send_request(address, 2) == 2


async def test_only(make_net: MakeNet) -> None:
    """Nothing is dialed directly, though a direct address is known and goes first; but for the relay, which must be."""
    net = await make_net()
    net.alice.set_relay_mode("only")
    net.bob.set_relay_mode("only")
    net.alice.addresses.add(await net.bob.listen())
    net.alice.addresses.add(await net.bob.listen_via_relay(net.address))
    assert await net.alice.send_request(net.bob.peer_id, 1) == 1
    assert relays(net.alice, net.bob) == relays(net.bob, net.alice) == [net.relay.peer_id]
    assert relays(net.alice, net.relay) == relays(net.bob, net.relay) == [None]


async def test_only_ends_direct_connections_and_refuses_them(make_net: MakeNet) -> None:
    net = await make_net()
    direct = await net.bob.listen()
    assert await net.alice.send_request(direct, 1) == 1
    net.bob.set_relay_mode("only", peer=net.alice.peer_id)
    await until(lambda: not net.alice.connections)
    with pytest.raises(ProtocolNotSupported, match="a ban or a policy of the remote"):
        await net.alice.ping(direct)
    net.alice.set_relay_mode("only", peer=net.bob.peer_id)
    with pytest.raises(DialError, match="only a relay may join us with it"):
        await net.alice.connect(direct)


async def test_who_refuses_direct_connections_is_dialed_through_a_relay_next(make_net: MakeNet) -> None:
    """By its id alone, though a direct address is known: the dial has succeeded before it was refused."""
    net = await make_net()
    net.bob.set_relay_mode("only", peer=net.alice.peer_id)
    net.alice.addresses.add(await net.bob.listen())
    net.alice.addresses.add(await net.bob.listen_via_relay(net.address))
    with pytest.raises(ProtocolNotSupported, match="a ban or a policy of the remote"):
        await net.alice.send_request(net.bob.peer_id, 1)
    assert await net.alice.send_request(net.bob.peer_id, 2) == 2
    assert relays(net.alice, net.bob) == [net.relay.peer_id]


async def test_a_relay_that_is_used_no_longer_is_refused_like_others(make_net: MakeNet) -> None:
    net = await make_net()
    net.bob.set_relay_mode("only")
    await net.bob.listen_via_relay(net.address)
    await net.bob.stop_listening()
    await net.bob.disconnect(net.relay.peer_id)
    with pytest.raises(DialError, match="only a relay may join us with it"):
        await net.bob.connect(net.address)


async def test_a_peer_behind_a_relay_is_none_that_we_use(make_net: MakeNet) -> None:
    """Else another one that names it as its relay would open the direct way to it."""
    net = await make_net(alice={"relay": RelayServer()})
    circuit = await net.alice.listen_via_relay(net.address)
    direct = await net.bob.listen()
    net.bob.set_relay_mode("only", peer=net.alice.peer_id)
    await net.bob.connect(circuit)
    with pytest.raises(DialError, match="the relay is itself connected by a relay"):
        await net.bob.connect(f"/p2p/{net.alice.peer_id}/p2p-circuit/p2p/{Keypair.generate().peer_id}")
    with pytest.raises(ListenError, match="the relay is itself connected by a relay"):
        await net.bob.listen_via_relay(circuit)
    assert net.alice.peer_id not in net.bob._parts.relaying.used
    await net.alice.disconnect(net.bob.peer_id)
    with pytest.raises(ProtocolNotSupported, match="a ban or a policy of the remote"):
        await net.alice.ping(direct)


async def test_a_peer_that_may_not_dial_us_directly_is_told_no_such_address(make_net: MakeNet) -> None:
    net = await make_net()
    await net.bob.listen(announce="/dns4/bob.example.com/tcp/1")
    net.bob.set_relay_mode("only", peer=net.alice.peer_id)
    assert await told(net.alice, await net.bob.listen_via_relay(net.address)) == ()
    net.bob.set_relay_mode(None, peer=net.alice.peer_id)
    await until(lambda: Multiaddr.parse("/dns4/bob.example.com/tcp/1") in net.alice.addresses.get(net.bob.peer_id))


async def test_a_peer_that_may_not_come_by_a_relay_is_told_of_none(make_net: MakeNet) -> None:
    net = await make_net()
    direct, circuit = await net.bob.listen(), await net.bob.listen_via_relay(net.address)
    net.bob.set_relay_mode("never", peer=net.alice.peer_id)
    assert await told(net.alice, direct) == (direct.without_peer(),)
    net.bob.set_relay_mode(None, peer=net.alice.peer_id)
    await until(lambda: circuit.without_peer() in net.alice.addresses.get(net.bob.peer_id))


async def told(peer: Peer, address: Multiaddr) -> tuple[Multiaddr, ...]:
    """What whoever is at ``address`` tells ``peer`` of its addresses."""
    events = peer.events()
    other = await peer.connect(address)
    while (identified := await next_event(events, PeerIdentified)).peer != other:
        pass  # that was the relay
    return identified.listen_addresses


async def test_modes_that_are_none(make_peer: MakePeer) -> None:
    peer = await make_peer()
    with pytest.raises(ValueError, match="unknown relay mode 'always': known are allow, never, only"):
        peer.set_relay_mode("always")  # type: ignore[arg-type]


async def test_a_mode_of_the_policy(make_net: MakeNet) -> None:
    net = await make_net(bob={"policy": Policy.parse('[default]\nrelay = "never"\n')})
    net.bob.set_relay_mode("allow")
    address = await net.bob.listen_via_relay(net.address)
    with pytest.raises(ProtocolNotSupported):
        await net.alice.ping(address)


# -- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "admitted"),
    [
        ('allow = ["127.0.0.0/8"]', False),
        ('allow = ["127.0.0.0/8"]\nrelayed = "allow"', True),
        ('deny = ["192.0.2.0/24"]', True),
        ('deny = ["192.0.2.0/24"]\nrelayed = "reject"', False),
        ('relayed = "reject"', False),
    ],
)
async def test_networks_and_relayed_connections(make_net: MakeNet, policy: str, admitted: bool) -> None:
    """Those of the peer that is reached, and those of the peer that dials."""
    rules = Policy.parse(f"[networks]\n{policy}\n")
    net = await make_net(bob={"policy": rules})
    address = await net.bob.listen_via_relay(net.address)
    if admitted:
        assert await net.alice.send_request(address, 1) == 1
    else:
        with pytest.raises(DialError):
            await net.alice.connect(address)
        assert [one.peer for one in net.bob.connections] == [net.relay.peer_id]
    net = await make_net(alice={"policy": rules})
    address = await net.bob.listen_via_relay(net.address)
    if admitted:
        assert await net.alice.send_request(address, 1) == 1
    else:
        with pytest.raises(DialError, match="it is relayed"):
            await net.alice.connect(address)
        assert net.alice.connections == ()


# -- the policy of a relay ---------------------------------------------------------------------------------


async def test_a_relay_for_one_network_only(make_peer: MakePeer, tmp_path: Path) -> None:
    """A few lines of its policy; and it ends what a new one does not allow."""
    alice, bob, carol = await make_peer(), await make_peer(firewall=FirewallRules.allow_all()), await make_peer()
    bob.on_request(echo)
    ours = f'[groups]\nours = ["{alice.peer_id}", "{bob.peer_id}"]\n'
    policy = tmp_path / "policy.toml"
    policy.write_text(f'{ours}[relay]\nreserve = ["ours"]\nconnect = ["ours"]\n')
    relay = await make_peer(relay=RelayServer(), policy=policy)
    address = await relay.listen()
    with pytest.raises(ListenError, match="202: its rules do not allow it"):
        await carol.listen_via_relay(address)
    circuit = await bob.listen_via_relay(address)
    assert await alice.send_request(circuit, 1) == 1
    with pytest.raises(DialError, match="202: its rules do not allow it"):
        await carol.connect(circuit)
    policy.write_text(f'{ours}[relay]\nreserve = ["{alice.peer_id}"]\n')
    events = bob.events()
    await relay.reload_policy()
    assert (await next_event(events, ReservationLost)).relay == relay.peer_id
    await until(lambda: not relays(bob, alice))
    with pytest.raises(DialError, match="204: the peer has no reservation there"):
        await alice.connect(circuit)


async def test_a_limit_that_is_reached_is_told_and_counted(make_net: MakeNet, caplog: pytest.LogCaptureFixture) -> None:
    net = await make_net(max_reservations=1)
    await net.bob.listen_via_relay(net.address)
    events = net.relay.events()
    with pytest.raises(ListenError, match="200: it has no reservation to give"):
        await net.alice.listen_via_relay(net.address)
    assert await next_event(events, LimitReached) == LimitReached("RelayServer.max_reservations", "127.0.0.1/32", 1)
    assert "RelayServer.max_reservations is reached: 1 refused, the last one of 127.0.0.1/32" in caplog.messages
    status = net.relay.relay_status
    assert status is not None
    assert (status.reservations, status.refusals) == (1, {"reservation: max_reservations": 1})
    assert net.alice.relay_status is None
