"""The firewall: decisions first, then what they do to two peers."""

from __future__ import annotations

import asyncio
from itertools import product
from typing import Any

import pytest
from conftest import MakePeer
from support.waiting import next_event, until

from stronghold_p2p import (
    Direction,
    FirewallRules,
    Keypair,
    NotPermitted,
    PeerIdentified,
    ProtocolNotSupported,
    Request,
    Rule,
    StrongholdP2p,
)
from stronghold_p2p.firewall import Firewall

Peer = StrongholdP2p[Any, Any]
PEER, OTHER = Keypair.generate().peer_id, Keypair.generate().peer_id
ALLOW, REJECT = Rule.ALLOW_ALL, Rule.REJECT_ALL
JSON = "/stronghold-p2p/1.0.0"


# -- decisions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("default", "own"), list(product([ALLOW, REJECT, None], repeat=2)))
@pytest.mark.parametrize("direction", [Direction.INBOUND, Direction.OUTBOUND])
def test_a_peers_rule_then_the_default_then_no(default: Rule | None, own: Rule | None, direction: Direction) -> None:
    inbound = direction is Direction.INBOUND
    rules = (own, None) if inbound else (None, own)
    firewall = Firewall(
        FirewallRules(inbound=default if inbound else None, outbound=None if inbound else default, peers={PEER: rules})
    )
    permits = firewall.permits_inbound if inbound else firewall.permits_outbound
    forbids = firewall.permits_outbound if inbound else firewall.permits_inbound
    assert permits(PEER) == ((own or default) is ALLOW)
    assert permits(OTHER) == (default is ALLOW)
    assert not forbids(PEER)


def test_safe_by_default() -> None:
    firewall = Firewall(FirewallRules())
    assert not firewall.permits_inbound(PEER)
    assert firewall.permits_outbound(PEER)


def test_rules_by_name() -> None:
    assert FirewallRules.allow_all() == FirewallRules(inbound=ALLOW, outbound=ALLOW)
    assert FirewallRules.reject_all() == FirewallRules(inbound=REJECT, outbound=REJECT)
    assert [repr(rule) for rule in (ALLOW, REJECT)] == ["Rule.ALLOW_ALL", "Rule.REJECT_ALL"]


def test_changes_by_direction() -> None:
    firewall = Firewall(FirewallRules())
    firewall.set_default(ALLOW, Direction.BOTH)
    firewall.set_default(None, Direction.OUTBOUND)
    assert firewall.rules == FirewallRules(inbound=ALLOW, outbound=None)
    firewall.set_peer_rule(PEER, REJECT, Direction.INBOUND)
    firewall.set_peer_rule(PEER, ALLOW, Direction.OUTBOUND)
    assert firewall.rules.peers == {PEER: (REJECT, ALLOW)}
    firewall.set_peer_rule(PEER, None, Direction.INBOUND)
    assert firewall.rules.peers == {PEER: (None, ALLOW)}
    firewall.set_peer_rule(PEER, None, Direction.BOTH)
    assert firewall.rules.peers == {}


def test_the_rules_given_and_returned_are_copies() -> None:
    peers: dict[Any, Any] = {PEER: (ALLOW, None)}
    rules = FirewallRules(peers=peers)
    firewall = Firewall(rules)
    peers.clear()
    firewall.set_peer_rule(OTHER, ALLOW, Direction.BOTH)
    assert rules.peers == {PEER: (ALLOW, None)}
    with pytest.raises(TypeError):
        firewall.rules.peers[OTHER] = (None, None)  # type: ignore[index]


# -- two peers -----------------------------------------------------------------------------------------


async def start(make_peer: MakePeer, firewall: FirewallRules | None = None) -> tuple[Peer, Peer, Any]:
    alice, bob = await make_peer(), await make_peer(firewall=firewall)
    bob.on_request(lambda request: request.body)
    return alice, bob, await bob.listen()


async def test_inbound_without_a_rule_is_rejected(make_peer: MakePeer) -> None:
    alice, _, address = await start(make_peer)
    with pytest.raises(ProtocolNotSupported):
        await alice.send_request(address, 1)
    assert alice.is_connected(address.peer_id)  # that is not guarded
    assert await alice.ping(address) > 0


async def test_outbound_nothing_is_dialed(make_peer: MakePeer) -> None:
    alice, bob, address = await start(make_peer, FirewallRules.allow_all())
    alice.set_firewall_default(REJECT, direction=Direction.OUTBOUND)
    with pytest.raises(NotPermitted) as caught:
        await alice.send_request(address, 1)
    assert caught.value.peer == bob.peer_id
    assert alice.connections == bob.connections == ()
    alice.set_peer_rule(bob.peer_id, ALLOW)
    assert await alice.send_request(address, 1) == 1


async def test_a_rule_that_comes_while_dialing(make_peer: MakePeer) -> None:
    alice, _, address = await start(make_peer, FirewallRules.allow_all())
    asking = asyncio.create_task(alice.send_request(address, 1))
    await asyncio.sleep(0)
    alice.set_firewall_default(REJECT)
    with pytest.raises(NotPermitted):
        await asking


@pytest.mark.parametrize("by", ["default", "peer", "peer's text"])
async def test_changes_take_effect_at_once(make_peer: MakePeer, by: str) -> None:
    alice, bob, address = await start(make_peer)

    def change(rule: Rule | None) -> None:
        if by == "default":
            bob.set_firewall_default(rule)
        elif rule is None:
            bob.remove_peer_rule(alice.peer_id if by == "peer" else str(alice.peer_id))
        else:
            bob.set_peer_rule(alice.peer_id if by == "peer" else str(alice.peer_id), rule)

    for rule in ALLOW, REJECT, ALLOW, None, ALLOW:
        change(rule)
        if rule is ALLOW:
            assert await alice.send_request(address, 1) == 1
        else:
            with pytest.raises(ProtocolNotSupported):
                await alice.send_request(address, 1)
    assert len(alice.connections) == 1


async def test_a_running_request_ends_though_the_rule_has_changed(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    running, may_end = asyncio.Event(), asyncio.Event()

    @bob.on_request
    async def answer(request: Request[Any]) -> str:
        running.set()
        await may_end.wait()
        return "let in before"

    asking = asyncio.create_task(alice.send_request(await bob.listen(), 1))
    await running.wait()
    bob.remove_firewall_default()
    may_end.set()
    assert await asking == "let in before"


async def test_the_offer_follows_the_rules(make_peer: MakePeer) -> None:
    alice, bob, address = await start(make_peer)
    events = alice.events()
    await alice.connect(address)
    identified = await next_event(events, PeerIdentified)
    assert identified.peer == bob.peer_id
    assert JSON not in identified.protocols
    bob.set_peer_rule(alice.peer_id, ALLOW, direction=Direction.INBOUND)
    assert JSON in (await next_event(events, PeerIdentified)).protocols
    bob.set_peer_rule(alice.peer_id, REJECT)
    assert JSON not in (await next_event(events, PeerIdentified)).protocols
    bob.remove_peer_rule(alice.peer_id)
    bob.set_firewall_default(ALLOW)
    async for event in events:
        if isinstance(event, PeerIdentified) and JSON in event.protocols:
            break


async def test_others_are_not_told_of_a_peers_rule(make_peer: MakePeer) -> None:
    alice, bob, address = await start(make_peer)
    carol = await make_peer()
    events = alice.events()
    await alice.connect(address)
    await carol.connect(address)
    await next_event(events, PeerIdentified)
    await until(lambda: bob._swarm and all(connection.identified for connection in bob._swarm.connections))
    bob.set_peer_rule(carol.peer_id, ALLOW)
    with pytest.raises(ProtocolNotSupported):
        await alice.send_request(address, 1)
    assert await carol.send_request(address, 1) == 1


async def test_the_rules_in_force(make_peer: MakePeer) -> None:
    peer = await make_peer(firewall=FirewallRules.reject_all())
    peer.set_peer_rule(PEER, ALLOW, direction=Direction.OUTBOUND)
    peer.remove_firewall_default(direction=Direction.INBOUND)
    assert peer.get_firewall_config() == FirewallRules(inbound=None, outbound=REJECT, peers={PEER: (None, ALLOW)})


async def test_rules_may_be_set_before_the_start() -> None:
    bob = StrongholdP2p[Any, Any]()
    bob.set_firewall_default(ALLOW)
    bob.set_peer_rule(PEER, REJECT)
    bob.on_request(lambda request: request.body)
    async with bob, StrongholdP2p[Any, Any]() as alice:
        assert await alice.send_request(await bob.listen(), 1) == 1


async def test_own_protocols_are_not_guarded(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(firewall=FirewallRules.reject_all()), await make_peer()

    async def serve(stream: Any) -> None:
        await stream.write(b"open to all")

    bob.handle_stream("/own/1.0.0", serve)
    async with await alice.open_stream(await bob.listen(), "/own/1.0.0") as stream:
        assert await stream.readexactly(11) == b"open to all"
