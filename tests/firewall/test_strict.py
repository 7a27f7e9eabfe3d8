"""Strict rules between whole peers: what they have let in ends with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from conftest import MakePeer
from support.waiting import next_event, until

from stronghold_p2p import (
    Direction,
    FirewallDecision,
    FirewallRequest,
    FirewallRules,
    NoResponse,
    PeerId,
    Request,
    Rule,
    StrongholdP2p,
)

Peer = StrongholdP2p[Any, Any]
IN = Direction.INBOUND
STRICT = Rule.ALLOW_ALL.replace(strict=True)
SIGN, READ = {"type": "Sign"}, {"type": "Read"}


class Handling:
    """``alice`` asks; ``bob`` answers when he may, and notes who was cancelled."""

    def __init__(self, alice: Peer, bob: Peer, address: Any) -> None:
        self.alice, self.bob, self.address = alice, bob, address
        self.running: list[Any] = []
        self.cancelled: list[Any] = []
        self.may_end = asyncio.Event()
        bob.on_request(self._handle)

    async def _handle(self, request: Request[Any]) -> Any:
        self.running.append(request.body)
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled.append(request.body)
            raise
        return "handled"

    async def asks(self, *bodies: Any) -> list[asyncio.Task[Any]]:
        """Requests whose handlers run."""
        running = len(self.running) + len(bodies)
        asking = [asyncio.create_task(self.alice.send_request(self.address, body)) for body in bodies]
        await until(lambda: len(self.running) == running)
        return asking


@pytest.fixture
async def make(make_peer: MakePeer) -> Callable[..., Any]:
    async def make(inbound: Rule | None = None) -> Handling:
        bob = await make_peer(firewall=FirewallRules(inbound=inbound))
        return Handling(await make_peer(), bob, await bob.listen())

    return make


def own(handling: Handling) -> PeerId:
    return handling.alice.peer_id


async def test_handlers_end_with_their_rule(make: Callable[..., Any]) -> None:
    handling: Handling = await make(STRICT)
    asking = await handling.asks(SIGN, READ)
    handling.bob.set_firewall_default(Rule.restricted(allow={"Read"}), direction=IN)
    with pytest.raises(NoResponse):
        await asking[0]
    assert handling.cancelled == [SIGN]
    handling.may_end.set()
    assert await asking[1] == "handled"


async def test_handlers_of_other_rules_go_on(make: Callable[..., Any]) -> None:
    handling: Handling = await make(Rule.ALLOW_ALL)
    asking = await handling.asks(SIGN)
    handling.bob.set_firewall_default(Rule.REJECT_ALL, direction=IN)
    handling.may_end.set()
    assert await asking[0] == "handled"


async def test_what_was_approved_ends_with_the_rule_that_asked(make: Callable[..., Any]) -> None:
    asks = Rule.ASK.replace(strict=True)
    handling: Handling = await make(asks)
    handling.bob.on_firewall_request(FirewallRequest.approve)
    asking = await handling.asks(SIGN, READ)
    handling.bob.set_peer_rule(own(handling), asks.allowing("Sign"), direction=IN)
    assert not handling.cancelled
    handling.bob.set_firewall_default(Rule.ASK, direction=IN)
    handling.bob.remove_peer_rule(own(handling))
    for each in asking:
        with pytest.raises(NoResponse):
            await each
    assert handling.cancelled == [SIGN, READ]


async def test_a_rule_that_goes_with_the_answer_lets_nothing_in(make: Callable[..., Any]) -> None:
    """Between an answer and what it lets in, a rule may change."""
    handling: Handling = await make(Rule.ASK.replace(strict=True))

    @handling.bob.on_firewall_request
    def approve(question: FirewallRequest) -> None:
        question.approve()
        handling.bob.set_firewall_default(None, direction=IN)

    with pytest.raises(NoResponse):
        await handling.alice.send_request(handling.address, SIGN)


async def test_what_an_iterator_has_not_answered_ends_too(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules(inbound=STRICT))
    alice = await make_peer()
    requests, decisions = bob.requests(buffer=8), bob.events(decisions=True)
    address = await bob.listen()
    asking = [asyncio.create_task(alice.send_request(address, body)) for body in (SIGN, READ)]
    for _ in asking:
        await next_event(decisions, FirewallDecision)
    first = await anext(requests)
    bob.set_firewall_default(Rule.REJECT_ALL, direction=IN)
    for each in asking:
        with pytest.raises(NoResponse):
            await each
    await first.respond("late")  # without effect
    bob.set_firewall_default(STRICT, direction=IN)
    last = asyncio.create_task(alice.send_request(address, SIGN))
    await (await anext(requests)).respond("signed")
    assert await last == "signed"
