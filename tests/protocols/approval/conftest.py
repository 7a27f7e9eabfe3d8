"""A peer whose firewall asks approvers, those approvers, and who sends it requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MakePeer
from support.waiting import begun, next_event, settled

from stronghold_p2p import (
    ApprovalRequest,
    ApprovalRequests,
    Config,
    Event,
    FirewallDecision,
    FirewallRules,
    Keypair,
    Multiaddr,
    NoResponse,
    PeerId,
    PeerIdentified,
    Policy,
    Rule,
    StrongholdP2p,
)
from stronghold_p2p.protocols.approval import PROTOCOL

Peer = StrongholdP2p[Any, Any]

ASK = FirewallRules(inbound=Rule.ASK, outbound=None)


class Phone:
    """An approver: its peer, and the questions that it has got."""

    def __init__(self, peer: Peer, requests: ApprovalRequests) -> None:
        self.peer = peer
        self.requests = requests

    async def question(self) -> ApprovalRequest:
        """The next one."""
        return await anext(self.requests)

    async def is_asked(self) -> bool:
        """Whether there is one."""
        question = await begun(self.question())
        await settled()
        return question.done() or not question.cancel()


class Office:
    """The peer that asks."""

    def __init__(self, peer: Peer, address: Multiaddr, make_peer: MakePeer) -> None:
        self.peer = peer
        self.address = address
        self._make_peer = make_peer
        self._events: AsyncIterator[Event] = peer.events(decisions=True)

    async def phone(self, keypair: Keypair) -> Phone:
        """An approver, connected, whom the office knows to serve the protocol."""
        peer = await self._make_peer(keypair=keypair)
        requests = peer.approval_requests([self.peer.peer_id])
        await self.connect(peer)
        return Phone(peer, requests)

    async def connect(self, peer: Peer, address: Multiaddr | None = None) -> None:
        """Returns when it is known to be an approver."""
        events = self.peer.events()
        await peer.connect(address or self.address)
        while (
            event := await next_event(events, PeerIdentified)
        ).peer != peer.peer_id or PROTOCOL not in event.protocols:
            pass

    async def request(self, body: Any = "hello", by: Peer | None = None) -> asyncio.Task[Any]:
        """A request on its way to the office, by a stranger if by nobody else: True if it passes."""
        requester = by or await self._make_peer()

        async def passes() -> bool:
            try:
                await requester.send_request(self.address, body)
            except NoResponse:
                return False
            return True

        return await begun(passes())

    async def decision(self) -> FirewallDecision:
        """The next one."""
        return await next_event(self._events, FirewallDecision)


MakeOffice = Callable[..., Awaitable[Office]]


@pytest.fixture
def make_office(make_peer: MakePeer) -> MakeOffice:
    async def make(*approvers: PeerId, need: int = 1, rules: FirewallRules = ASK, policy: Path | None = None) -> Office:
        """``policy``: a file in place of the rest."""
        given = Policy(rules=rules, approvers=frozenset(approvers), need=need)
        peer = await make_peer(policy=policy or given, config=Config(firewall_timeout=60.0, request_timeout=60.0))
        peer.on_request(lambda request: request.body)
        return Office(peer, await peer.listen(), make_peer)

    return make
