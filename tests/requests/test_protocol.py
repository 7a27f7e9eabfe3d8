"""Several request protocols on one peer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from conftest import MakePeer
from support.compiled import replaces_parts
from support.remote import JSON
from support.waiting import next_event, until

from stronghold_p2p import (
    FirewallDecision,
    FirewallRequest,
    FirewallRules,
    PeerIdentified,
    ProtocolNotSupported,
    Rule,
    StrongholdP2p,
    wiring,
)
from stronghold_p2p.requests.protocol import RequestProtocol, make_protocols
from stronghold_p2p.transport.state import RemoteIdentify

pytestmark = replaces_parts

MSGPACK = "/stronghold-p2p/msgpack/1.0.0"


@pytest.fixture
def speak_both(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, a peer that is made speaks MessagePack, and JSON beside it to whom it does not know."""

    def make_both(codec: Any, *arguments: Any) -> tuple[RequestProtocol[Any, Any], ...]:
        return make_protocols("msgpack", *arguments) + make_protocols("json", *arguments)

    return lambda: monkeypatch.setattr(wiring, "make_protocols", make_both)


def identified(peer: StrongholdP2p[Any, Any]) -> bool:
    """Whether the one that it is connected to has told what it is."""
    assert peer._parts.swarm is not None
    return peer._parts.swarm.connections[0].remote_identify is RemoteIdentify.SERVED


async def test_protocols_beside_each_other(make_peer: MakePeer, speak_both: Callable[[], None]) -> None:
    """Each requester uses what it has in common with the peer; one that has both, the better one once it knows."""
    json, msgpack = await make_peer(), await make_peer(codec="msgpack")
    speak_both()
    bob, both = await make_peer(firewall=FirewallRules.allow_all()), await make_peer()
    bob.on_request(lambda request: [request.body, request._inbound.protocol.id])
    address = await bob.listen()
    for requester, protocol in (json, JSON), (msgpack, MSGPACK), (both, JSON):
        assert await requester.send_request(address, "asked") == ["asked", protocol]
        await until(partial(identified, requester))
    assert await both.send_request(address, "asked") == ["asked", MSGPACK]
    assert await json.send_request(address, "asked") == ["asked", JSON]


async def test_another_protocol_than_that_of_the_question(make_peer: MakePeer, speak_both: Callable[[], None]) -> None:
    """Whoever asks without a connection cannot know by which protocol the request will leave."""
    speak_both()
    bob, both = await make_peer(firewall=FirewallRules.allow_all()), await make_peer(firewall=FirewallRules.ask_all())
    bob.on_request(lambda request: [request.body, request._inbound.protocol.id])
    address = await bob.listen()

    @both.on_firewall_request
    async def answer(question: FirewallRequest) -> None:
        await both.connect(address)
        await until(partial(identified, both))
        question.approve()

    assert await both.send_request(address, "asked") == ["asked", MSGPACK]


async def test_the_gate_guards_every_protocol(make_peer: MakePeer, speak_both: Callable[[], None]) -> None:
    json, msgpack = await make_peer(), await make_peer(codec="msgpack")
    speak_both()
    bob = await make_peer(firewall=FirewallRules.reject_all())
    bob.on_request(lambda request: pytest.fail("it was let in"))
    address, events = await bob.listen(), bob.events(decisions=True)
    for requester, protocol in (json, JSON), (msgpack, MSGPACK):
        told = requester.events()
        with pytest.raises(ProtocolNotSupported) as caught:
            await requester.send_request(address, 1)
        assert caught.value.protocol == protocol
        decision = await next_event(events, FirewallDecision)
        assert (decision.peer, decision.allowed) == (requester.peer_id, False)
        assert not {JSON, MSGPACK} & set((await next_event(told, PeerIdentified)).protocols)
    bob.set_peer_rule(json.peer_id, Rule.ALLOW_ALL)
    assert {JSON, MSGPACK} <= set((await next_event(json.events(), PeerIdentified)).protocols)
    for protocol in JSON, MSGPACK:
        with pytest.raises(RuntimeError, match="already has a handler"):
            bob.handle_stream(protocol, lambda stream: stream.close())
