"""Requests to a peer that refuses its requester: who asked must not be left to wonder whether they were handled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import MakePeer
from support.waiting import turns, until

from stronghold_p2p import (
    Config,
    ConnectionLost,
    FirewallRequest,
    FirewallRules,
    Multiaddr,
    NoResponse,
    ProtocolNotSupported,
    Request,
    StrongholdP2p,
)
from stronghold_p2p.wire.yamux import GoAwayCode

Peer = StrongholdP2p[Any, Any]
Pair = tuple[Peer, Peer, Multiaddr]


@pytest.fixture
async def pair(make_peer: MakePeer) -> Pair:
    """Alice, Bob who listens and lets all in, and his address."""
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    return alice, bob, await bob.listen()


async def test_a_banned_requester_learns_that_nothing_was_taken(pair: Pair) -> None:
    """Each time it dials anew: the refusal comes when the requests have left."""
    alice, bob, address = pair
    bob.on_request(lambda request: pytest.fail("it was let in"))
    await bob.ban_peer(alice.peer_id)
    for number in (1, 8, 20):
        asking = (alice.send_request(address, body) for body in range(number))
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, ProtocolNotSupported)
            assert outcome.code == 0x1007
        await until(lambda: not alice.connections)


async def test_a_requester_over_a_limit_learns_that_nothing_was_taken(make_peer: MakePeer) -> None:
    """Nobody can give way: bob has dialed all whom he is connected to."""
    alice, carol = await make_peer(), await make_peer()
    bob = await make_peer(config=Config(max_connections=1), firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: request.body)
    address = await bob.listen()
    await bob.connect(await alice.listen())
    with pytest.raises(ProtocolNotSupported) as caught:
        await carol.send_request(address, 2)
    assert caught.value.code == 0x1001


async def test_a_ban_meets_requests_on_their_way(pair: Pair) -> None:
    alice, bob, address = pair
    bob.on_request(lambda request: pytest.fail("it was let in"))
    await alice.connect(address)
    await until(lambda: bob.connections)
    asking = [asyncio.create_task(alice.send_request(address, number)) for number in range(3)]
    await turns(1)
    assert alice._parts.swarm is not None
    assert alice._parts.swarm.connections[0].info.streams == 3
    await bob.ban_peer(alice.peer_id)
    for outcome in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(outcome, ProtocolNotSupported)


async def test_a_ban_rejects_what_nobody_has_got(make_peer: MakePeer) -> None:
    """Waiting for room, or ready to be taken. What is in part is lost with its stream."""
    alice = await make_peer()
    bob = await make_peer(firewall=FirewallRules.allow_all())
    bob.requests(buffer=1)
    queue: Any = bob._parts.responder._queue
    address = await bob.listen()
    await alice.connect(address)
    bodies = ("ready", "waits", "waits, too")
    asking = [asyncio.create_task(alice.send_request(address, body)) for body in bodies]
    await until(lambda: len(queue._waiting) == 2)
    assert len(queue._ready) == 1
    await bob.ban_peer(alice.peer_id)
    for outcome in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(outcome, NoResponse)
    assert queue._room == 1


async def test_a_ban_as_the_answer_to_a_question(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    bob.on_request(lambda request: pytest.fail("it was let in"))

    @bob.on_firewall_request
    async def answer(question: FirewallRequest) -> None:
        await bob.ban_peer(question.peer)

    with pytest.raises(NoResponse):
        await alice.send_request(await bob.listen(), 1)


async def test_a_ban_leaves_it_open_whether_a_handler_was_done(pair: Pair) -> None:
    alice, bob, address = pair
    bans: list[asyncio.Task[None]] = []

    @bob.on_request
    def answer(request: Request[Any]) -> Any:
        bans.append(asyncio.create_task(bob.ban_peer(request.peer)))
        return asyncio.Event().wait()

    with pytest.raises(ConnectionLost):
        await alice.send_request(address, 1)
    await asyncio.gather(*bans)


async def test_what_a_handler_has_got_does_not_look_as_if_it_was_not_taken(pair: Pair) -> None:
    """The lines of a stream leave at the end of a turn; this connection ends within it."""
    alice, bob, address = pair
    await alice.connect(address)
    await until(lambda: bob.connections)

    @bob.on_request
    def answer(request: Request[Any]) -> Any:
        assert bob._parts.swarm is not None
        bob._parts.swarm.connections[0].close(GoAwayCode.GATED)

    with pytest.raises(ConnectionLost):
        await alice.send_request(address, 1)
