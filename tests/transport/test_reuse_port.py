"""Several peers of one identity on one port, which stand for processes here."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import MakePeer
from support.compiled import replaces_parts
from support.waiting import next_event

from stronghold_p2p import (
    Config,
    FirewallRules,
    Keypair,
    Limit,
    ListenError,
    Policy,
    PolicyError,
    PolicyFailed,
    StrongholdP2p,
)
from stronghold_p2p.firewall.traffic import TrafficLimits
from stronghold_p2p.transport import tcp

Peer = StrongholdP2p[Any, Any]
MANY = 200
"""Connections that do not all come to one of two listeners: the system spreads them by a hash of their ports."""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems spread no connections")


def answer(number: int, request: object) -> int:
    return number


async def listeners(make_peer: MakePeer, address: str) -> tuple[str, list[Peer]]:
    """The address of two peers, each of which answers with its number."""
    keypair = Keypair.generate()
    peers: list[Peer] = []
    for number in range(2):
        peer = await make_peer(keypair=keypair, firewall=FirewallRules.allow_all(), config=Config(processes=2))
        peer.on_request(partial(answer, number))
        bound = await peer.listen(address, reuse_port=True)
        address = str(bound.without_peer())
        peers.append(peer)
    return str(bound), peers


@linux
@pytest.mark.parametrize("form", ["", "/ws"])
async def test_connections_come_to_all(make_peer: MakePeer, form: str) -> None:
    address, (bob, _) = await listeners(make_peer, f"/ip4/127.0.0.1/tcp/0{form}")
    alice = await make_peer()
    reached = set()
    for _ in range(MANY):
        reached.add(await alice.send_request(address, None))
        if len(reached) == 2:
            break
        await alice.disconnect(bob.peer_id)
    assert reached == {0, 1}


@linux
async def test_one_that_stops_leaves_the_port_to_the_other(make_peer: MakePeer) -> None:
    address, (bob, other) = await listeners(make_peer, "/ip4/127.0.0.1/tcp/0")
    await bob.stop_listening()
    alice = await make_peer()
    assert await alice.send_request(address, None) == 1
    assert str(await bob.listen(address, reuse_port=True)) == address
    assert other.listeners[0].address == bob.listeners[0].address


@linux
@pytest.mark.parametrize("shared", [True, False])
async def test_a_port_is_shared_if_all_say_so(make_peer: MakePeer, shared: bool) -> None:
    bob, carol = await make_peer(), await make_peer()
    address = (await bob.listen(reuse_port=shared)).without_peer()
    with pytest.raises(ListenError, match="in use"):
        await carol.listen(address, reuse_port=not shared)


@replaces_parts
async def test_where_the_system_does_not_spread_connections(
    make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "SHARES_PORTS", False)
    bob = await make_peer()
    with pytest.raises(ListenError, match="share a port"):
        await bob.listen(reuse_port=True)
    await bob.listen()


async def test_a_policy_with_approvers_is_refused(make_peer: MakePeer, tmp_path: Path) -> None:
    approvers = frozenset({Keypair.generate().peer_id})
    with pytest.raises(PolicyError, match="several processes"):
        await make_peer(policy=Policy(approvers=approvers), config=Config(processes=2))
    path = tmp_path / "policy.toml"
    path.write_text('default.inbound = "allow"')
    bob = await make_peer(policy=path, config=Config(processes=2))
    events = bob.events()
    path.write_text(f'default.inbound = "allow"\napproval.approvers = ["{next(iter(approvers))}"]')
    await bob.reload_policy()
    failed = await next_event(events, PolicyFailed)
    assert failed.error.key == "approval.approvers"


def test_what_a_peer_may_have_is_divided() -> None:
    peer = Keypair.generate().peer_id
    config = Config(processes=4, max_requests_in_flight_per_peer=10, max_requests_per_second_per_peer=10)
    assert TrafficLimits.of(config) == TrafficLimits(2, 2.5)
    limits = TrafficLimits.of(config, Limit(per_second=1), {peer: Limit(in_flight=3, max_bytes=100)})
    assert limits == TrafficLimits(2, 0.25, {peer: Limit(in_flight=1, max_bytes=100)})
    assert TrafficLimits.of(Config()) == TrafficLimits(1024, None)
