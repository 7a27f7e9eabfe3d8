"""A relay that is reached by every transport, and circuits from one to another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from conftest import MakePeer
from support.certificates import Authority

from stronghold_p2p import FirewallRules, Multiaddr, RelayServer

TRANSPORTS = ["tcp", "ws", "tls/ws"]


@pytest.mark.parametrize("target", TRANSPORTS)
@pytest.mark.parametrize("source", TRANSPORTS)
async def test_a_circuit_between_transports(make_peer: MakePeer, tmp_path: Path, source: str, target: str) -> None:
    """Each asks the other, on the one circuit."""
    authority = Authority(tmp_path)
    relay = await make_peer(relay=RelayServer())
    addresses = {
        "tcp": await relay.listen(),
        "ws": await relay.listen("/ip4/127.0.0.1/tcp/0/ws"),
        "tls/ws": await relay.listen("/ip4/127.0.0.1/tcp/0/tls/ws", certificate=authority.issue("127.0.0.1")),
    }
    alice, bob = [await make_peer(firewall=FirewallRules.allow_all(), authorities=authority.file) for _ in range(2)]
    for peer in alice, bob:
        peer.on_request(lambda request: request.body)
    circuit = await bob.listen_via_relay(addresses[target])
    assert circuit == addresses[target].encapsulate(Multiaddr.parse("/p2p-circuit")).with_peer(bob.peer_id)
    through = addresses[source].encapsulate(Multiaddr.parse("/p2p-circuit")).with_peer(bob.peer_id)
    body = "x" * 300_000
    assert await alice.send_request(through, body) == body
    [path] = [one.path for one in alice.connections if one.peer == bob.peer_id]
    assert (path.transport, path.relay) == (source, relay.peer_id)
    [path] = [one.path for one in bob.connections if one.peer == alice.peer_id]
    assert (path.transport, path.relay) == (target, relay.peer_id)
    bodies = [f"{number}" for number in range(20)]
    asked = [peer.send_request(other.peer_id, one) for peer, other in ((alice, bob), (bob, alice)) for one in bodies]
    assert await asyncio.gather(*asked) == bodies * 2
    assert len(alice.connections) == len(bob.connections) == 2
