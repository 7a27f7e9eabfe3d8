"""Peers with AutoNAT: who dials for others, and what is known at first."""

from __future__ import annotations

from typing import Any

from conftest import MakePeer
from support.interfaces import FakeInterfaces, on
from support.waiting import next_event

from stronghold_p2p import (
    AddressOrigin,
    Multiaddr,
    PeerIdentified,
    Reachability,
    RelayServer,
    StrongholdP2p,
)
from stronghold_p2p.protocols.autonat.message import DIAL_BACK, DIAL_REQUEST

LO = on(1, "127.0.0.1")
PUBLIC = on(2, "1.2.3.4")
LAN = on(3, "192.168.1.2")


async def offered(make_peer: MakePeer, peer: StrongholdP2p[Any, Any], address: Multiaddr) -> set[str]:
    """What of AutoNAT ``peer`` offers to who dials it at ``address``."""
    asker = await make_peer()
    events = asker.events()
    await asker.connect(address)
    identified = await next_event(events, PeerIdentified)
    return {DIAL_BACK, DIAL_REQUEST} & set(identified.protocols)


async def test_a_peer_without_a_public_address_asks_alone(make_peer: MakePeer) -> None:
    peer = await make_peer()
    assert await offered(make_peer, peer, await peer.listen()) == {DIAL_BACK}
    assert peer.reachability == {}


async def test_a_relay_dials_for_others(make_peer: MakePeer) -> None:
    peer = await make_peer(relay=RelayServer())
    assert await offered(make_peer, peer, await peer.listen()) == {DIAL_BACK, DIAL_REQUEST}


async def test_a_peer_that_wants_none_of_it(make_peer: MakePeer) -> None:
    peer = await make_peer(autonat=False, relay=RelayServer())
    address = await peer.listen(announce="/ip4/1.2.3.4/tcp/1")
    assert await offered(make_peer, peer, address) == set()
    assert peer.reachability == {}


async def test_a_peer_with_a_public_address_dials_for_others(make_peer: MakePeer) -> None:
    peer = await make_peer()
    system = FakeInterfaces(*LO, *PUBLIC, *LAN)
    system.of(peer)
    await peer.listen("/ip4/0.0.0.0/tcp/0")
    (listener,) = peer.listeners
    public, lan, loopback = listener.addresses
    (known,) = peer.reachability.items()
    assert known[0] == public
    assert (known[1].state, known[1].origin) == (Reachability.UNKNOWN, AddressOrigin.INTERFACE)
    assert lan not in peer.reachability
    assert await offered(make_peer, peer, loopback) == {DIAL_BACK, DIAL_REQUEST}
    await peer.stop_listening()
    assert peer.reachability == {}
    system.close()


async def test_before_the_start_nothing_is_known() -> None:
    assert StrongholdP2p[Any, Any]().reachability == {}
