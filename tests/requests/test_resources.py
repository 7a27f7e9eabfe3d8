"""What one remote can fill is not taken from the others. Hostile remotes are on ::1, honest ones on 127.0.0.1."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from conftest import MakePeer
from support.compiled import replaces_parts
from support.remote import JSON, Remote, lines
from support.waiting import introduced, next_event, settled, until
from support.yamux import KIB, MIB, Frame, data

from stronghold_p2p import (
    Config,
    FirewallRules,
    LimitExceeded,
    LimitReached,
    Multiaddr,
    Request,
    RequestFailed,
    Rule,
    StrongholdP2p,
)
from stronghold_p2p.encoding import varint
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.wire.yamux import Flag

SYN, ACK, FIN, RST = Flag.SYN, Flag.ACK, Flag.FIN, Flag.RST
ASK = lines(JSON) + b"\x010"
"""A request: the number 0."""


async def places(bob: StrongholdP2p[Any, Any]) -> tuple[Multiaddr, Multiaddr]:
    """For the hostile and the honest."""
    return await bob.listen("/ip6/::1/tcp/0"), await bob.listen()


def partial_requests(count: int, told: int, sent: int) -> list[Frame]:
    """Which say that they are ``told`` bytes long."""
    head = lines(JSON) + varint.encode(told)
    return [data(2 * number + 1, head + bytes(sent), SYN) for number in range(count)]


async def test_who_does_not_read_gets_no_further_response(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all(), config=Config(max_response_buffer=6 * MIB))
    handled = itertools.count()
    bob.on_request(lambda request: (next(handled), "x" * MIB_OF_TEXT)[1])
    hostile, honest = await places(bob)
    remote = await Remote.dial(hostile)
    remote.send(*(data(2 * number + 1, ASK, SYN) for number in range(100)))
    await settled()
    responder: Any = bob._parts.responder
    assert 2 <= len(responder._responses) <= 4  # a third of all, and what began with it
    assert next(handled) == len(responder._responses)
    alice = await make_peer()
    assert len(await alice.send_request(honest, 0)) == MIB_OF_TEXT
    remote.send(*(data(2 * number + 1, flags=RST) for number in range(100)))
    await until(lambda: not responder._responses)
    assert not responder.traffic
    await remote.close()


MIB_OF_TEXT = MIB - 100


async def test_an_empty_response_may_have_to_wait(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all(), codec="raw")
    bob.on_request(lambda request: request.body if request.body == b"" else bytes(250_000))
    remote = await Remote.dial(await bob.listen())
    raw = lines("/stronghold-p2p/raw/1.0.0")
    remote.send(*(data(2 * number + 1, raw + b"\x01?", SYN) for number in range(100)))
    responder: Any = bob._parts.responder
    assert bob._parts.swarm is not None
    await until(
        lambda: bob._parts.swarm and bob._parts.swarm.connections and bob._parts.swarm.connections[0].output.congested
    )
    remote.send(*(data(2 * number + 1001, raw + b"\x00", SYN) for number in range(3)))
    await settled()
    remote.abort()
    await until(lambda: not responder._responses and not responder.traffic)


async def test_hundreds_of_requests_may_be_cancelled_at_once(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    finish = asyncio.Event()
    handling: list[Any] = []

    @bob.on_request
    async def answer(request: Request[Any]) -> Any:
        handling.append(request.body)
        await finish.wait()
        return request.body

    address = await bob.listen()
    await introduced(alice, address)
    kept = asyncio.create_task(alice.send_request(address, "kept"))
    asking = [asyncio.create_task(alice.send_request(address, number)) for number in range(250)]
    await until(lambda: len(handling) == 251)
    for call in asking:
        call.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert bob._parts.swarm is not None
    await until(lambda: [connection.streams for connection in bob.connections] == [1])
    finish.set()
    assert await kept == "kept"


async def test_the_newest_response_of_the_largest_holder_gives_way(make_peer: MakePeer) -> None:
    """Handlers that are at work already cannot be held back."""
    bob = await make_peer(firewall=FirewallRules.allow_all(), config=Config(max_response_buffer=4 * MIB))
    finish = asyncio.Event()
    waiting: list[Request[Any]] = []

    @bob.on_request
    async def answer(request: Request[Any]) -> str:
        waiting.append(request)
        await finish.wait()
        return "x" * MIB_OF_TEXT

    events = bob.events()
    hostile, honest = await places(bob)
    remote = await Remote.dial(hostile)
    remote.send(*(data(2 * number + 1, ASK, SYN) for number in range(10)))
    await until(lambda: len(waiting) == 10)
    alice = await make_peer()
    asking = asyncio.create_task(alice.send_request(honest, 0))
    await until(lambda: len(waiting) == 11)
    finish.set()
    assert len(await asking) == MIB_OF_TEXT
    reached = await next_event(events, LimitReached)
    assert (reached.limit, reached.network) == ("max_response_buffer", "::/48")
    failed = await next_event(events, RequestFailed)
    assert isinstance(failed.error, LimitExceeded)
    responder: Any = bob._parts.responder
    assert responder._responses.used <= 4 * MIB
    remote.abort()
    await until(lambda: not responder._responses)


async def test_requests_in_part_take_no_place_of_those_that_are_whole(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all())
    requests = bob.requests(buffer=2)
    hostile, honest = await places(bob)
    remote = await Remote.dial(hostile)
    remote.send(*partial_requests(50, told=100, sent=10))
    await settled()
    alice = await make_peer()
    for number in range(3):
        asking = asyncio.create_task(alice.send_request(honest, number))
        request = await anext(requests)
        assert request.body == number
        await request.respond(number)
        assert await asking == number
    await remote.close()


async def test_iterating_serves_networks_by_turns(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all())
    requests = bob.requests(buffer=1)
    hostile, honest = await places(bob)
    remote = await Remote.dial(hostile)
    remote.send(*(data(2 * number + 1, ASK, SYN) for number in range(50)))
    queue: Any = bob._parts.responder._queue
    await until(lambda: len(queue._waiting) == 49)
    alice = await make_peer()
    asking = asyncio.create_task(alice.send_request(honest, "honest"))
    await until(lambda: len(queue._waiting) == 50)
    bodies = []
    for _ in range(3):
        request = await anext(requests)
        bodies.append(request.body)
        await request.respond(None)
    assert "honest" in bodies
    assert await asking is None
    await remote.close()


def asking(number: int) -> bytes:
    return lines(JSON) + b"\x01%d" % number


async def test_iterating_serves_a_peer_in_its_order_while_it_replaces_each_request_that_is_answered(
    make_peer: MakePeer,
) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all())
    requests = bob.requests(buffer=1)
    remote = await Remote.dial(await bob.listen())
    remote.send(*(data(2 * number + 1, asking(number), SYN) for number in range(3)))
    queue: Any = bob._parts.responder._queue
    for number in range(3, 9):
        await until(lambda: len(queue._waiting) == 2)
        request = await anext(requests)
        assert request.body == number - 3
        await request.respond(None)
        remote.send(data(2 * number + 1, asking(number), SYN))
    await remote.close()


async def test_of_a_peer_that_gives_requests_up_the_newest_goes_first(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all())
    requests = bob.requests(buffer=1)
    remote = await Remote.dial(await bob.listen())
    remote.send(*(data(2 * number + 1, asking(number), SYN) for number in range(5)))
    queue: Any = bob._parts.responder._queue
    await until(lambda: len(queue._waiting) == 4)
    remote.send(data(3, flags=RST))
    await until(lambda: len(queue._waiting) == 3)
    assert [(await anext(requests)).body for _ in range(4)] == [0, 4, 3, 2]
    await remote.close()


@pytest.mark.parametrize("identities", [1, 5])
async def test_who_is_not_approved_fills_a_small_share(make_peer: MakePeer, identities: int) -> None:
    bob = await make_peer(config=Config(max_receive_buffer=16 * MIB))
    bob.on_request(lambda request: request.body)
    hostile, honest = await places(bob)
    alice = await make_peer()
    bob.set_peer_rule(alice.peer_id, Rule.ALLOW_ALL)
    await alice.connect(honest)
    remotes = [await Remote.dial(hostile) for _ in range(identities)]
    for remote in remotes:
        remote.send(*partial_requests(60, told=500 * KIB, sent=100 * KIB))
    await settled()
    assert bob._parts.swarm is not None
    assert 0.5 * MIB < bob._parts.swarm.memory.used < 10 * MIB
    large = "y" * (900 * KIB)
    assert await alice.send_request(honest, large) == large
    for remote in remotes:
        await remote.close()


async def test_what_was_asked_for_may_fill_a_whole_share(make_peer: MakePeer) -> None:
    """A response is not small because no rule allows its sender to ask."""
    alice = await make_peer(codec="raw", config=Config(max_receive_buffer=32 * MIB))
    bob = await make_peer(codec="raw", firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: bytes(6 * MIB))
    await bob.connect(await alice.listen())
    await until(lambda: alice.connections)
    assert len(await alice.send_request(bob.peer_id, b"")) == 6 * MIB


async def handling(make_peer: MakePeer) -> tuple[StrongholdP2p[Any, Any], list[Any], Remote]:
    """A peer, what it has handled, and a remote that is connected."""
    bob = await make_peer(firewall=FirewallRules.allow_all())
    handled: list[Any] = []
    bob.on_request(lambda request: handled.append(request.body))
    return bob, handled, await Remote.dial(await bob.listen())


@replaces_parts
async def test_requests_wait_while_a_turn_is_over(make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    bob, handled, remote = await handling(make_peer)
    turns = bob._parts.responder.turns
    with monkeypatch.context() as patch:
        patch.setattr(turns, "_schedule", lambda: None)
        remote.send(data(1, ASK, SYN), data(3, ASK, SYN))
        bob._parts.responder._let_in = as_long_as_a_turn(turns, bob._parts.responder._let_in)  # type: ignore[method-assign]
        await settled()
        assert len(handled) == 1
    turns._schedule()
    await until(lambda: len(handled) == 2)
    await remote.close()


@replaces_parts
async def test_a_request_that_is_given_up_while_it_waits_does_not_begin(
    make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, handled, remote = await handling(make_peer)
    turns = bob._parts.responder.turns
    with monkeypatch.context() as patch:
        patch.setattr(turns, "_schedule", lambda: None)
        turns.crowded = True
        remote.send(*(data(2 * number + 1, asking(number), SYN) for number in range(3)))
        await settled()
        remote.send(data(5, flags=RST))
        await settled()
        assert handled == []
    turns._schedule()
    await until(lambda: handled == [1, 0])
    await remote.close()


def as_long_as_a_turn(turns: Turns, work: Callable[..., None]) -> Callable[..., None]:
    def slow(*arguments: Any) -> None:
        work(*arguments)
        turns.over = turns.crowded = True

    return slow


@pytest.mark.parametrize("turn_time", [1e-9, 10.0])
async def test_any_turn_serves_all_requests(make_peer: MakePeer, turn_time: float) -> None:
    config = Config(turn_time=turn_time)
    alice, bob = await make_peer(config=config), await make_peer(config=config, firewall=FirewallRules.allow_all())

    @bob.on_request
    async def answer(request: Request[Any]) -> Any:
        return request.body

    address = await bob.listen()
    bodies = [number if number % 7 else str(number) * 20_000 for number in range(150)]
    assert await asyncio.gather(*(alice.send_request(address, body) for body in bodies)) == bodies


async def test_no_response_waits_behind_the_input_of_others(
    make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work is done, and would be lost when the requester has waited too long, while more is begun."""
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all(), config=Config(turn_time=1e-9))
    address = await bob.listen()
    waiting: list[str] = []
    wait, wait_to_end = Turns.wait, Turns.wait_to_end

    def noticed(self: Turns, path: Any, work: Callable[[], None]) -> None:
        waiting.append("input")
        wait(self, path, work)

    def noticed_at_end(self: Turns, path: Any, work: Callable[[], None]) -> None:
        waiting.append("response")
        wait_to_end(self, path, work)

    monkeypatch.setattr(Turns, "wait", noticed)
    monkeypatch.setattr(Turns, "wait_to_end", noticed_at_end)
    answers: list[asyncio.Future[str]] = []

    @bob.on_request
    def answer(request: Request[Any]) -> asyncio.Future[str]:
        answers.append(asyncio.get_running_loop().create_future())
        return answers[-1]

    asked = [asyncio.create_task(alice.send_request(address, 0)) for _ in range(8)]
    await until(lambda: len(answers) == 8)
    await settled()
    waiting.clear()
    for each in answers:
        each.set_result("answered")
    assert await asyncio.gather(*asked) == 8 * ["answered"]
    assert "response" in waiting
