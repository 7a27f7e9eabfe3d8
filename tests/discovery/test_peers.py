"""Whole peers that find each other on the loopback interface."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest
from conftest import MakePeer
from support.multicast import neighbor, only_loopback
from support.waiting import next_event, settled

from stronghold_p2p import (
    AddressSource,
    DialError,
    FirewallRules,
    Keypair,
    ListenError,
    NotPermitted,
    PeerDiscovered,
    PeerExpired,
    StrongholdP2p,
)
from stronghold_p2p.discovery import links, mdns


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    only_loopback(monkeypatch)


async def echoing(make_peer: MakePeer, **arguments: Any) -> StrongholdP2p[Any, Any]:
    peer = await make_peer(firewall=FirewallRules.allow_all(), mdns=True, **arguments)
    peer.on_request(lambda request: request.body)
    return peer


async def test_a_request_by_peer_id_alone(make_peer: MakePeer) -> None:
    bob, alice = await echoing(make_peer), await make_peer(mdns=True)
    await bob.listen()
    assert await alice.send_request(bob.peer_id, "hello") == "hello"
    (entry,) = alice.addresses.entries(bob.peer_id)
    assert entry.last_success is not None
    assert entry.source is AddressSource.MDNS


async def test_who_listens_later_is_found_by_whoever_waits(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(mdns=True), await echoing(make_peer)
    events = alice.events()
    await bob.listen("/ip4/127.0.0.1/tcp/0/ws")
    discovered = await next_event(events, PeerDiscovered)
    assert discovered.peer == bob.peer_id
    assert [address.with_peer(bob.peer_id) for address in discovered.addresses] == [bob.listeners[0].address]
    assert await alice.ping(str(bob.peer_id)) > 0


async def test_a_goodbye_ends_no_connection(make_peer: MakePeer) -> None:
    bob, alice = await echoing(make_peer), await make_peer(mdns=True)
    events = alice.events()
    await bob.listen()
    await alice.connect(bob.peer_id)
    await bob.stop_listening()
    assert (await next_event(events, PeerExpired)).peer == bob.peer_id
    assert await alice.send_request(bob.peer_id, 1) == 1
    assert alice.is_connected(bob.peer_id)


async def test_nobody_is_a_clear_error(make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "FIND_TIME", 0.1)
    alice = await make_peer(mdns=True)
    nobody = Keypair.generate().peer_id
    with pytest.raises(DialError, match=r"no address is known, and nobody on the local network answered within 0\.1 s"):
        await alice.connect(nobody)


async def test_whoever_is_banned_is_not_asked_for(make_peer: MakePeer) -> None:
    alice = await make_peer(mdns=True)
    nobody = Keypair.generate().peer_id
    await alice.ban_peer(nobody)
    with pytest.raises(NotPermitted):
        await alice.connect(nobody)


async def test_without_mdns_nothing_is_said_or_sought(make_peer: MakePeer) -> None:
    with neighbor() as remote:
        bob = await make_peer()
        await bob.listen()
        with pytest.raises(DialError, match=r"no address is known$"):
            await bob.connect(Keypair.generate().peer_id)
        await settled()
        assert remote.received() == []


async def test_a_port_that_another_program_keeps_for_itself_fails_the_start() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", links.PORT))
        peer: StrongholdP2p[Any, Any] = StrongholdP2p(mdns=True)
        with pytest.raises(ListenError):
            await peer.start()
    async with peer:
        await peer.listen()


def test_zeroconf_is_imported_on_first_use() -> None:
    program = """
import asyncio, sys
from stronghold_p2p import StrongholdP2p

async def main():
    async with StrongholdP2p() as peer:
        await peer.listen()
    print("zeroconf" in sys.modules)

asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=30)
    assert ran.stdout == "False\n"
