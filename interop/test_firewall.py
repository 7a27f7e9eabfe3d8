"""Our firewall towards js-libp2p peers: each rule in each direction, by default and by peer, and questions; reasons towards
all."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from stronghold_p2p import (
    Config,
    Direction,
    FirewallRequest,
    FirewallRules,
    Multiaddr,
    NotPermitted,
    PeerId,
    Rule,
    StrongholdP2p,
)

from .conftest import Shared
from .driver import WAIT, dial

pytestmark = pytest.mark.asyncio(loop_scope="session")

PING = {"type": "Ping"}
TYPES = Rule.restricted(allow={"Ping"})
NEVER = Rule.restricted(lambda peer, direction, view: False)
REJECTED = {"outcome": "no_response"}
NOT_OFFERED = {"outcome": "not_supported"}


async def ask(address: Multiaddr, body: Any = PING) -> Any:
    """One request of a js peer, which is somebody new each time; what it sees."""
    (line,) = await dial("js", address, "request", "-", body=json.dumps(body).encode())
    return line


def approve(question: FirewallRequest) -> None:
    question.approve()


def reject(question: FirewallRequest) -> None:
    question.reject()


@pytest.mark.parametrize(
    ("rule", "body", "seen"),
    [
        (Rule.ALLOW_ALL, PING, {"response": PING}),
        (Rule.REJECT_ALL, PING, NOT_OFFERED),
        (TYPES, PING, {"response": PING}),
        (TYPES, {"type": "Read"}, REJECTED),
        (TYPES, "a text has no type", REJECTED),
        (NEVER, PING, REJECTED),
    ],
)
async def test_inbound_by_default(rule: Rule, body: Any, seen: Any) -> None:
    async with StrongholdP2p(firewall=FirewallRules(inbound=rule)) as peer:
        peer.on_request(lambda request: request.body)
        assert await ask(await peer.listen(), body) == seen


@pytest.mark.parametrize("rule", [Rule.ASK, None], ids=["each request", "the peer"])
@pytest.mark.parametrize(("answer", "seen"), [(approve, {"response": PING}), (reject, REJECTED)])
async def test_inbound_is_asked_about(rule: Rule | None, answer: Any, seen: Any) -> None:
    async with StrongholdP2p(firewall=FirewallRules(inbound=rule)) as peer:
        peer.on_request(lambda request: request.body)
        peer.on_firewall_request(answer)
        assert await ask(await peer.listen()) == seen


async def test_inbound_by_peer_as_the_answer_says() -> None:
    """A rule kept for one peer holds for all of its requests, and for nobody else's."""
    asked: list[PeerId] = []
    async with StrongholdP2p() as peer:
        peer.on_request(lambda request: request.body)

        @peer.on_firewall_request
        def decide(question: FirewallRequest) -> None:
            asked.append(question.peer)
            question.set_rule(Rule.ALLOW_ALL if len(asked) == 1 else Rule.REJECT_ALL)

        address = await peer.listen()
        assert await dial("js", address, "burst", 20) == [{"ok": 20}]
        assert await ask(address) == REJECTED
        assert len(set(asked)) == len(asked) == 2
        kept = peer.get_firewall_config().peers
        assert [kept[who][0] for who in asked] == [Rule.ALLOW_ALL, Rule.REJECT_ALL]


async def test_rejected_while_requests_wait() -> None:
    async with StrongholdP2p(config=Config(firewall_timeout=2 * WAIT)) as peer:
        peer.on_request(lambda request: request.body)
        questions = peer.firewall_requests()
        asking = asyncio.create_task(dial("js", await peer.listen(), "burst", 8))
        async with asyncio.timeout(WAIT):
            question = await anext(questions)
            while question.waiting < 8:  # noqa: ASYNC110 - nobody tells when one more waits
                await asyncio.sleep(0)
        peer.set_peer_rule(question.peer, Rule.REJECT_ALL)
        assert question.waiting == 0
        (line,) = await asking
        assert line["failures"] == {"no_response": 8}


@pytest.mark.parametrize("by_peer", [False, True], ids=["by default", "by peer"])
@pytest.mark.parametrize(
    ("rule", "body", "passes"),
    [
        (Rule.ALLOW_ALL, PING, True),
        (Rule.REJECT_ALL, PING, False),
        (TYPES, PING, True),
        (TYPES, {"type": "Read"}, False),
        (NEVER, PING, False),
        (Rule.ASK, PING, True),
    ],
)
async def test_outbound(shared: Shared, rule: Rule, body: Any, passes: bool, by_peer: bool) -> None:
    listener = await shared("js", "--high-limits")
    remote = Multiaddr.parse(listener.address).peer_id
    assert remote is not None
    async with StrongholdP2p(firewall=FirewallRules(outbound=Rule.REJECT_ALL if by_peer else rule)) as peer:
        peer.on_firewall_request(approve)
        if by_peer:
            peer.set_peer_rule(remote, rule, direction=Direction.OUTBOUND)
        if passes:
            assert await peer.send_request(listener.address, body) == body
        else:
            with pytest.raises(NotPermitted):
                await peer.send_request(listener.address, body)
            assert not peer.connections


REASONS = Rule.restricted(allow={"Ping"}).replace(reasons=True)


async def test_codes_of_reasons_are_a_reset_to_others(language: str) -> None:
    """To rust and py, whose streams then just end, as without a code. It does no harm to others on the connection."""
    seen = "reset" if language in {"go", "js"} else "no_response"
    async with StrongholdP2p(firewall=FirewallRules(inbound=REASONS)) as peer:
        peer.on_request(lambda request: request.body)
        address = await peer.listen()
        (line,) = await dial(language, address, "request", "-", body=b'{"type":"Read"}')
        assert line == {"outcome": seen}
        (line,) = await dial(language, address, "burst", 8)
        assert line["failures"] == {seen: 8}
        (line,) = await dial(language, address, "request", "-", body=b'{"type":"Ping"}')
        assert line == {"response": PING}
