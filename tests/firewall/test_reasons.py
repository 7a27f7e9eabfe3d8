"""Why a request or a stream was rejected: told to those who may know, and to nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest
from conftest import MakePeer
from support.remote import JSON, Remote, lines
from support.waiting import settled, until
from support.yamux import Frame, data

from stronghold_p2p import (
    Config,
    FirewallRequest,
    FirewallRules,
    Keypair,
    NoResponse,
    Policy,
    ProtocolNotSupported,
    Rule,
    StreamReset,
    StrongholdP2p,
)
from stronghold_p2p.firewall.quotas import Limit
from stronghold_p2p.wire.yamux import Flag, FrameType

Peer = StrongholdP2p[Any, Any]
CHAT = "/chat/1.0.0"
ASK = Rule.ASK
OWN = Keypair.generate()
"""That of who is rejected."""


REQUEST = b'\x0f{"type":"Read"}'
"""With its length."""


class Cause(NamedTuple):
    """Why something is rejected, and what of it may be known."""

    reason: str
    retry_after: float | None = None
    rule: Rule = ASK
    answer: Callable[[FirewallRequest, bool], object] | None = None
    """Also gets whether reasons may be known."""
    config: Config = Config()
    policy: Policy | None = None
    attempts: int = 1
    """Each is rejected; the last one for this reason."""
    waiting: int = 0
    """Others that wait for an answer before."""


def silent(question: FirewallRequest, reasons: bool) -> None:
    """No answer."""


CAUSES = {
    "rule": Cause("rejected", rule=Rule.restricted(allow={"Ping"})),
    "rule for all": Cause("rejected", rule=Rule.REJECT_ALL),
    "predicate": Cause("rejected", rule=Rule.restricted(lambda peer, direction, view: False)),
    "failing predicate": Cause("rejected", rule=Rule.restricted(lambda peer, direction, view: 1 / 0 > 0)),
    "handler": Cause("rejected", answer=lambda question, _: question.reject(reason="I do not like it")),
    "network": Cause("rejected", answer=lambda question, _: question.reject_network()),
    "new rule": Cause(
        "rejected", answer=lambda question, reasons: question.set_rule(Rule.REJECT_ALL.replace(reasons=reasons))
    ),
    "nobody": Cause("asked, no answer"),
    "time": Cause("asked, no answer", answer=silent, config=Config(firewall_timeout=0.02)),
    "quiet": Cause("asked, no answer", 30.0, answer=silent, config=Config(firewall_timeout=0.02), attempts=2),
    "full": Cause("busy", 10.0, answer=silent, config=Config(max_firewall_waiting_requests_per_peer=1), waiting=1),
    "size": Cause("rejected", policy=Policy(peer_limits={OWN.peer_id: Limit(max_bytes=1)})),
}


class Rejecting:
    """``bob``, and a remote that he rejects."""

    def __init__(self, bob: Peer, remote: Remote) -> None:
        self.bob, self.remote = bob, remote
        self._last = -1

    async def attempt(self, protocol: str) -> list[Frame]:
        """What comes back on a stream, but for its id."""
        stream_id = self.send(protocol)
        return [frame._replace(stream_id=0) for frame in await self.remote.frames_of(stream_id)]

    def send(self, protocol: str) -> int:
        self._last += 2
        body = REQUEST if protocol == JSON else b""
        self.remote.send(data(self._last, lines(protocol) + body, Flag.SYN))
        return self._last


@pytest.fixture
async def reject(make_peer: MakePeer) -> AsyncIterator[Callable[..., Any]]:
    """Has a remote rejected; returns the frames."""
    remotes: list[Remote] = []

    async def reject(cause: Cause, protocol: str, *, reasons: bool) -> list[Frame]:
        rules = FirewallRules(inbound=cause.rule.replace(reasons=reasons))
        bob = await make_peer(firewall=rules, config=cause.config, policy=cause.policy)
        bob.on_request(lambda request: "answered")
        bob.handle_stream(CHAT, lambda stream: stream.write(b"served"))
        questions: list[FirewallRequest] = []
        if cause.answer is not None:
            answer = cause.answer

            def ask(question: FirewallRequest) -> None:
                questions.append(question)
                answer(question, reasons)

            bob.on_firewall_request(ask)
        remotes.append(await Remote.dial(await bob.listen(), OWN))
        rejecting = Rejecting(bob, remotes[-1])
        for _ in range(cause.waiting):
            rejecting.send(protocol)
            await until(lambda: questions)
        frames: list[Frame] = []
        for _ in range(cause.attempts):
            frames = await rejecting.attempt(protocol)
        return frames

    yield reject
    for remote in remotes:
        await remote.close()


@pytest.mark.parametrize("protocol", [JSON, CHAT], ids=["request", "stream"])
@pytest.mark.parametrize("cause", CAUSES)
async def test_who_may_know_hears_why(reject: Callable[..., Any], cause: str, protocol: str) -> None:
    if cause == "size" and protocol == CHAT:
        pytest.skip("a stream has no size")
    *greeting, reset = await reject(CAUSES[cause], protocol, reasons=True)
    assert b"".join(frame.body for frame in greeting) == lines(protocol)
    assert (reset.kind, reset.flags) == (FrameType.WINDOW_UPDATE, Flag.RST)
    told = StreamReset(reset.length)
    assert (told.reason, told.retry_after) == (CAUSES[cause].reason, CAUSES[cause].retry_after)


HIDDEN = {"rule for all"}
"""The protocol is not offered to who may not know, and nothing is read of what it sends."""


async def test_nobody_else_can_tell_why(reject: Callable[..., Any]) -> None:
    """The bytes are the same whatever the cause."""
    for protocol, end, left_out in (JSON, Flag.FIN, set[str]()), (CHAT, Flag.RST, {"size", "rule", "new rule"}):
        expected = [Frame(FrameType.DATA, Flag.ACK, 0, len(lines(protocol)), lines(protocol)), Frame(0, end, 0, 0)]
        for name, cause in CAUSES.items():
            if name not in HIDDEN | left_out:
                frames = await reject(cause, protocol, reasons=False)
                assert frames == expected, (protocol, name)


@pytest.mark.parametrize("reasons", [False, True])
async def test_errors_of_requests_and_streams(make_peer: MakePeer, reasons: bool) -> None:
    alice = await make_peer()
    bob = await make_peer(firewall=FirewallRules(inbound=ASK.replace(reasons=reasons)))
    bob.on_request(lambda request: "answered")
    bob.handle_stream(CHAT, lambda stream: stream.write(b"served"))
    address = await bob.listen()
    reason = "asked, no answer" if reasons else None
    with pytest.raises(NoResponse) as rejected:
        await alice.send_request(address, 1)
    assert (rejected.value.peer, rejected.value.reason) == (bob.peer_id, reason)
    async with await alice.open_stream(address, CHAT) as stream:
        with pytest.raises(StreamReset) as reset:
            await stream.read()
        assert reset.value.reason == reason


async def test_a_rule_that_lets_its_reasons_be_known_is_for_its_peer_alone(make_peer: MakePeer) -> None:
    alice, mallory = await make_peer(), await make_peer()
    bob = await make_peer(
        firewall=FirewallRules(
            inbound=Rule.REJECT_ALL, peers={alice.peer_id: (Rule.REJECT_ALL.replace(reasons=True), None)}
        )
    )
    bob.on_request(lambda request: "answered")
    address = await bob.listen()
    with pytest.raises(NoResponse) as rejected:
        await alice.send_request(address, 1)
    assert rejected.value.reason == "rejected"
    with pytest.raises(ProtocolNotSupported):
        await mallory.send_request(address, 1)


@pytest.mark.parametrize("kind", ["rate", "busy"])
@pytest.mark.parametrize("reasons", [False, True])
async def test_what_waits_too_long_for_its_turn(make_peer: MakePeer, kind: str, reasons: bool) -> None:
    config = (
        Config(max_requests_per_second_per_peer=0.25, request_timeout=0.05)
        if kind == "rate"
        else Config(max_requests_in_flight_per_peer=1, request_timeout=0.05)
    )
    alice = await make_peer()
    bob = await make_peer(firewall=FirewallRules(inbound=Rule.ALLOW_ALL.replace(reasons=reasons)), config=config)
    handling = asyncio.Event()

    @bob.on_request
    async def handle(request: Any) -> str:
        if kind == "busy":
            await handling.wait()
        return "answered"

    address = await bob.listen()
    first = asyncio.create_task(alice.send_request(address, 1))
    await until(lambda: bob.connections)
    await settled()
    with pytest.raises((NoResponse, StreamReset)) as late:
        await alice.send_request(address, 2)
    handling.set()
    assert await first == "answered"
    error: Any = late.value
    assert isinstance(error, NoResponse) is reasons
    assert error.reason == (kind if reasons else None)
    assert error.retry_after == ({"rate": 4.0, "busy": 10.0}[kind] if reasons else None)


async def test_codes_of_other_implementations_stay_what_they_are(make_peer: MakePeer) -> None:
    """0x1003 is go-libp2p's "rate limited"."""
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())

    async def limit(stream: Any) -> None:
        stream.reset(0x1003)

    bob.handle_stream(CHAT, limit)
    stream = await alice.open_stream(await bob.listen(), CHAT)
    with pytest.raises(StreamReset) as reset:
        await stream.read()
    assert (reset.value.code, reset.value.reason) == (0x1003, None)
