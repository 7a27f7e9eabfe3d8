"""Streams of protocols of one's own pass the firewall: over TCP, between whole peers and with remotes by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import MakePeer
from support.remote import Remote, lines, listening
from support.waiting import next_event, settled, until
from support.yamux import data

from stronghold_p2p import (
    Config,
    Direction,
    FirewallDecision,
    FirewallRequest,
    FirewallRequestEnded,
    FirewallRules,
    Multiaddr,
    NoResponse,
    NotPermitted,
    Policy,
    ProtocolNotSupported,
    RequestHandled,
    RequestTimeout,
    Rule,
    Stream,
    StreamReset,
    StrongholdP2p,
)
from stronghold_p2p.firewall.quotas import Limit
from stronghold_p2p.wire.yamux import INITIAL_WINDOW, Flag, FrameType

Peer = StrongholdP2p[Any, Any]
IN, OUT = Direction.INBOUND, Direction.OUTBOUND
ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK
CHAT, OTHER = "/chat/1.0.0", "/other/1.0.0"
CHATS = Rule.restricted(allow={CHAT})
PINGS = Rule.restricted(allow={"Ping"})
RESET = Flag.RST


class Pair:
    """``alice`` opens, ``bob`` serves; ``served`` are the streams that his handler has got."""

    def __init__(self, alice: Peer, bob: Peer, address: Multiaddr) -> None:
        self.alice, self.bob, self.address = alice, bob, address
        self.served: list[Stream] = []
        self.questions: list[FirewallRequest] = []
        self.decisions: AsyncIterator[Any] = bob.events(decisions=True)
        for protocol in (CHAT, OTHER):
            bob.handle_stream(protocol, self._echo)

    async def _echo(self, stream: Stream) -> None:
        self.served.append(stream)
        while piece := await stream.read():
            await stream.write(piece)

    async def say(self, protocol: str = CHAT, words: bytes = b"hello") -> bytes:
        """Opens a stream, and returns what comes back."""
        async with await self.alice.open_stream(self.address, protocol) as stream:
            await stream.write(words)
            return await stream.readexactly(len(words))

    async def remote(self) -> Remote:
        """A peer by hand, with which Bob is connected."""
        return await Remote.dial(self.address)

    async def asked(self, number: int = 1) -> list[FirewallRequest]:
        await until(lambda: len(self.questions) >= number)
        return self.questions

    async def decision(self) -> FirewallDecision:
        return await next_event(self.decisions, FirewallDecision)


MakePair = Callable[..., Any]


@pytest.fixture
async def make_pair(make_peer: MakePeer) -> MakePair:
    """Makes a pair: ``rules`` are Bob's, who collects his questions."""

    async def make(rules: FirewallRules | Rule | None = None, *, collect: bool = True, **arguments: Any) -> Pair:
        if not isinstance(rules, FirewallRules):
            rules = FirewallRules(inbound=rules)
        bob = await make_peer(firewall=rules, **arguments)
        pair = Pair(await make_peer(), bob, await bob.listen())
        if collect:
            bob.on_firewall_request(pair.questions.append)
        return pair

    return make


async def outcome(asking: Any) -> Any:
    """The result, or the exception's class."""
    try:
        return await asking
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return type(error)


def opening(stream_id: int, protocol: str = CHAT, words: bytes = b"") -> Any:
    return data(stream_id, lines(protocol) + words, Flag.SYN)


# -- rules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "chat", "other"),
    [
        (ALLOW, b"hello", b"hello"),
        (REJECT, ProtocolNotSupported, ProtocolNotSupported),
        (CHATS, b"hello", ProtocolNotSupported),
        (PINGS, ProtocolNotSupported, ProtocolNotSupported),
        (Rule.restricted(reject={CHAT}, otherwise="ask"), ProtocolNotSupported, StreamReset),
        (Rule.restricted(lambda peer, direction, view: view is None), b"hello", b"hello"),
        (Rule.restricted(lambda peer, direction, view: False), StreamReset, StreamReset),
        (Rule.restricted(lambda peer, direction, view: view["type"] == "Ping"), StreamReset, StreamReset),
        (ASK, StreamReset, StreamReset),
        (None, StreamReset, StreamReset),
    ],
    ids=["allow", "reject", "chats", "pings", "ask others", "predicate", "no", "fails", "ask", "none"],
)
async def test_rules_for_who_opens_one(make_pair: MakePair, rule: Rule | None, chat: Any, other: Any) -> None:
    """Nobody is there to answer."""
    pair: Pair = await make_pair(rule, collect=False)
    assert [await outcome(pair.say(protocol)) for protocol in (CHAT, OTHER)] == [chat, other]
    assert len(pair.served) == [chat, other].count(b"hello")


@pytest.mark.parametrize(
    ("rule", "permitted"),
    [(ALLOW, True), (REJECT, False), (CHATS, True), (PINGS, False), (ASK, False), (None, False)],
    ids=["allow", "reject", "chats", "pings", "ask", "none"],
)
async def test_rules_for_our_own(make_pair: MakePair, rule: Rule | None, permitted: bool) -> None:
    pair: Pair = await make_pair(ALLOW)
    pair.alice.set_firewall_default(rule, direction=OUT)
    assert await outcome(pair.say()) == (b"hello" if permitted else NotPermitted)
    assert len(pair.bob.connections) == permitted  # not even a dial


async def test_who_is_banned_is_not_asked_about(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ALLOW)
    pair.alice.set_firewall_default(None, direction=OUT)
    pair.alice.on_firewall_request(pair.questions.append)
    await pair.alice.ban_peer(pair.bob.peer_id)
    assert await outcome(pair.say()) is NotPermitted
    assert pair.questions == []


async def test_our_own_question_comes_before_any_dial(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ALLOW)
    pair.alice.set_firewall_default(ASK, direction=OUT)
    pair.alice.on_firewall_request(pair.questions.append)
    saying = asyncio.create_task(pair.say())
    [question] = await pair.asked()
    assert (question.direction, question.type, question.address) == (OUT, CHAT, None)
    assert pair.bob.connections == ()
    question.approve()
    assert await saying == b"hello"


async def test_our_own_question_without_an_answer_in_time(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ALLOW)
    pair.alice.set_firewall_default(ASK, direction=OUT)
    pair.alice.on_firewall_request(pair.questions.append)
    assert await outcome(pair.alice.open_stream(pair.address, CHAT, timeout=0.02)) is RequestTimeout
    assert pair.questions[0].outcome == "withdrawn"


async def test_a_rule_that_rejects_while_we_dial(make_pair: MakePair) -> None:
    pair: Pair = await make_pair()
    async with listening() as listener:
        opened = asyncio.create_task(pair.alice.open_stream(listener.address, CHAT))
        remote = await listener.accept()
        pair.alice.set_firewall_default(PINGS, direction=OUT)
        await remote.upgrade(initiator=False)
        assert await outcome(opened) is NotPermitted
        await remote.close()


async def test_a_request_that_calls_itself_a_protocol_is_none(make_pair: MakePair) -> None:
    """The rule is about streams: whoever may chat may not ask for that something else."""
    pair: Pair = await make_pair(CHATS)
    handled: list[Any] = []
    pair.bob.on_request(lambda request: handled.append(request.body))
    assert await outcome(pair.alice.send_request(pair.address, {"type": CHAT})) is NoResponse
    assert handled == []
    assert await pair.say() == b"hello"


async def test_what_is_refused_by_rule_is_told(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(PINGS)
    assert await outcome(pair.say()) is ProtocolNotSupported
    decision = await pair.decision()
    assert (decision.type, decision.allowed, decision.by, decision.how) == (CHAT, False, "rule", "rejected")


# -- questions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [None, ASK, Rule.restricted(ask={CHAT})], ids=["none", "ask", "by type"])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (FirewallRequest.approve, b"hello"),
        (FirewallRequest.approve_type, b"hello"),
        (FirewallRequest.approve_all, b"hello"),
        (FirewallRequest.reject, StreamReset),
        (lambda question: question.set_rule(CHATS), b"hello"),
        (lambda question: question.set_rule(REJECT), StreamReset),
    ],
    ids=["approve", "type", "all", "reject", "rule", "reject all"],
)
async def test_questions(make_pair: MakePair, rule: Rule | None, answer: Any, expected: Any) -> None:
    pair: Pair = await make_pair(rule)
    saying = asyncio.create_task(pair.say())
    [question] = await pair.asked()
    assert (question.peer, question.direction) == (pair.alice.peer_id, IN)
    assert (question.type, question.view) == (CHAT, None)
    assert pair.served == []
    answer(question)
    assert await outcome(saying) == expected
    assert len(pair.served) == (expected == b"hello")


async def test_an_answer_about_one_protocol_is_none_about_another(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ASK)
    saying = asyncio.create_task(pair.say())
    [question] = await pair.asked()
    question.approve_type()
    assert [await saying, await pair.say()] == [b"hello", b"hello"]
    other = asyncio.create_task(pair.say(OTHER))
    [_, question] = await pair.asked(2)
    assert question.type == OTHER
    question.reject()
    assert await outcome(other) is StreamReset


async def test_what_comes_before_the_decision_is_bounded_and_kept(make_pair: MakePair) -> None:
    """Until then nothing comes back but the lines: no window, and no byte of the handler."""
    pair: Pair = await make_pair(ASK)
    remote = await pair.remote()
    words = bytes(range(256)) * (INITIAL_WINDOW // 256)
    first = words[: INITIAL_WINDOW - len(lines(CHAT))]
    remote.send(opening(1), *(data(1, first[start : start + 4000]) for start in range(0, len(first), 4000)))
    remote.send(data(1, b"", Flag.FIN))
    [question] = await pair.asked()
    frame = await remote.frame()
    assert frame is not None
    assert (frame.stream_id, frame.body) == (1, lines(CHAT))
    reading = asyncio.create_task(remote.frame())
    await settled()
    assert not reading.done()
    assert pair.served == []
    question.approve()
    body = b""
    frame = await reading
    while frame is not None and not frame.flags & Flag.FIN:
        body += frame.body
        frame = await remote.frame()
    assert body == first
    await remote.close()


async def test_more_than_the_window_before_the_decision_ends_the_connection(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ASK)
    remote = await pair.remote()
    remote.send(opening(1))
    await pair.asked()
    remote.send(*(data(1, bytes(16_384)) for _ in range(INITIAL_WINDOW // 16_384 + 1)))
    await remote.rest()
    await until(lambda: not pair.bob.connections)
    assert pair.questions[0].outcome == "withdrawn"
    assert pair.served == []
    await remote.close()


@pytest.mark.parametrize("how", ["reset", "crash", "banned"])
async def test_one_that_leaves_before_the_decision(make_pair: MakePair, how: str) -> None:
    pair: Pair = await make_pair(ASK)
    remote = await pair.remote()
    remote.send(opening(1, words=b"x" * 1000))
    [question] = await pair.asked()
    if how == "reset":
        remote.send(data(1, b"", RESET))
    elif how == "crash":
        remote.abort()
    else:
        await pair.bob.ban_peer(remote.keypair.peer_id)
    await until(lambda: question.outcome)
    assert question.outcome == "withdrawn"
    assert not question.approve()
    decision = await pair.decision()
    assert (decision.allowed, decision.how) == (False, "withdrawn")
    await settled()
    assert pair.served == []
    await remote.close()


async def test_a_flood_of_openings_waits_within_the_limits_of_questions(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ASK, config=Config(max_firewall_questions_per_peer=4))
    remote = await pair.remote()
    count = 40
    remote.send(*(opening(2 * number + 1) for number in range(count)))
    refused: set[int] = set()
    while len(refused) < count - 4:
        frame = await remote.frame()
        assert frame is not None
        if frame.flags & RESET:
            assert (frame.kind, frame.length) == (FrameType.DATA, 0)
            refused.add(frame.stream_id)
    assert len(pair.questions) == 4
    assert sum(question.waiting for question in pair.questions) == 4
    assert pair.served == []
    await remote.close()


async def test_opened_and_reset_again_and_again(make_pair: MakePair) -> None:
    """After the first one the peer causes no further question for a while, and nothing piles up."""
    pair: Pair = await make_pair(ASK)
    remote = await pair.remote()
    for number in range(50):
        remote.send(opening(2 * number + 1))
        await settled()
        remote.send(data(2 * number + 1, b"", RESET))
        await settled()
    remote.send(opening(1001))
    frames = await remote.frames_of(1001)
    assert frames[-1].flags & RESET
    [question] = pair.questions
    assert not question.waiting
    await until(lambda: pair.bob.connections[0].streams == 0)
    await remote.close()


async def test_closing_while_one_waits(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ASK)
    saying = asyncio.create_task(pair.say())
    [question] = await pair.asked()
    await pair.bob.close()
    assert await outcome(saying) is StreamReset
    assert question.outcome in {"closed", "withdrawn"}
    assert pair.served == []


# -- rules that change, and end ------------------------------------------------------------------------


async def test_a_rule_that_changes_while_one_waits(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ASK)
    waiting = [asyncio.create_task(pair.say(protocol)) for protocol in (CHAT, OTHER)]
    await pair.asked(2)
    pair.bob.set_peer_rule(pair.alice.peer_id, CHATS)
    assert [await outcome(task) for task in waiting] == [b"hello", StreamReset]


@pytest.mark.parametrize("strict", [False, True])
async def test_what_a_rule_has_let_in_goes_on_unless_it_is_strict(make_pair: MakePair, strict: bool) -> None:
    pair: Pair = await make_pair(CHATS.replace(strict=strict))
    stream = await pair.alice.open_stream(pair.address, CHAT)
    await stream.write(b"one")
    assert await stream.readexactly(3) == b"one"
    pair.bob.set_firewall_default(PINGS, direction=IN)
    await settled()
    await outcome(stream.write(b"two"))
    assert await outcome(stream.readexactly(3)) == (StreamReset if strict else b"two")
    assert await outcome(pair.say()) is ProtocolNotSupported
    stream.reset()


async def test_a_strict_rule_has_an_end(make_pair: MakePair) -> None:
    pair: Pair = await make_pair()
    strict = CHATS.replace(strict=True)
    pair.bob.set_peer_rule(pair.alice.peer_id, strict, direction=IN)
    stream = await pair.alice.open_stream(pair.address, CHAT)
    await stream.write(b"one")
    assert await stream.readexactly(3) == b"one"
    soon = datetime.now(UTC) + timedelta(seconds=0.02)
    pair.bob.set_peer_rule(pair.alice.peer_id, strict.replace(until=soon), direction=IN)
    with pytest.raises(StreamReset):
        await stream.read()
    await until(lambda: not pair.bob.connections[0].streams)


async def test_a_handler_that_ignores_its_cancellation_cannot_use_an_ended_stream(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(Rule.ALLOW_ALL.replace(strict=True))
    ended: asyncio.Future[type[Exception]] = asyncio.get_running_loop().create_future()

    async def stubborn(stream: Stream) -> None:
        try:
            await stream.write(b"!")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set_result(await outcome(stream.read()))

    pair.bob.handle_stream("/stubborn", stubborn)
    stream = await pair.alice.open_stream(pair.address, "/stubborn")
    assert await stream.readexactly(1) == b"!"
    pair.bob.set_firewall_default(REJECT, direction=IN)
    assert (await ended).__name__ == "NotPermitted"
    assert await outcome(stream.read()) is StreamReset


@pytest.mark.parametrize("moment", ["open", "waiting"])
async def test_a_strict_rule_for_our_own(make_pair: MakePair, moment: str) -> None:
    pair: Pair = await make_pair(ALLOW)
    pair.alice.set_firewall_default(CHATS.replace(strict=True), direction=OUT)
    stream = await pair.alice.open_stream(pair.address, CHAT)
    await stream.write(b"one")
    assert await stream.readexactly(3) == b"one"
    ended = [await outcome(pair.say()) for _ in range(3)]
    assert ended == [b"hello"] * 3
    reading = asyncio.create_task(stream.read())
    if moment == "waiting":
        await settled()
    pair.alice.set_firewall_default(PINGS, direction=OUT)
    assert await outcome(reading) is NotPermitted
    assert await outcome(stream.write(b"two")) is NotPermitted
    await until(lambda: not pair.bob.connections[0].streams)


async def test_a_strict_rule_that_goes_while_we_dial(make_pair: MakePair) -> None:
    pair: Pair = await make_pair()
    pair.alice.set_firewall_default(CHATS.replace(strict=True), direction=OUT)
    async with listening() as listener:
        opened = asyncio.create_task(pair.alice.open_stream(listener.address, CHAT))
        remote = await listener.accept()
        pair.alice.set_firewall_default(ASK, direction=OUT)
        await remote.upgrade(initiator=False)
        stream = await opened
        assert await outcome(stream.read()) is NotPermitted
        await remote.close()


# -- limits --------------------------------------------------------------------------------------------


async def test_one_more_than_there_may_be_at_once_waits_its_turn(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ALLOW, config=Config(max_requests_in_flight_per_peer=1))
    first = await pair.alice.open_stream(pair.address, CHAT)
    await first.write(b"x")
    await first.readexactly(1)
    second = asyncio.create_task(pair.say())
    await until(lambda: pair.bob.connections[0].streams == 2)
    await settled()
    assert len(pair.served) == 1
    await first.close()
    assert await second == b"hello"


async def test_streams_and_requests_are_counted_apart(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ALLOW, config=Config(max_requests_in_flight_per_peer=1))
    pair.bob.on_request(lambda request: "answered")
    async with await pair.alice.open_stream(pair.address, CHAT) as stream:
        await stream.write(b"x")
        await stream.readexactly(1)
        assert await pair.alice.send_request(pair.address, 1) == "answered"


async def test_one_that_waits_too_long_for_its_turn_is_reset(make_pair: MakePair) -> None:
    config = Config(max_requests_in_flight_per_peer=1, request_timeout=0.05)
    pair: Pair = await make_pair(ALLOW, config=config)
    first = await pair.alice.open_stream(pair.address, CHAT)
    await first.write(b"x")
    await first.readexactly(1)
    assert await outcome(pair.say()) is StreamReset
    await first.write(b"y")
    assert await first.readexactly(1) == b"y"
    first.reset()
    assert await pair.say() == b"hello"


async def test_one_that_leaves_while_it_waits_for_its_turn(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ALLOW, config=Config(max_requests_in_flight_per_peer=1))
    first = await pair.alice.open_stream(pair.address, CHAT)
    await first.write(b"x")
    await first.readexactly(1)
    second = await pair.alice.open_stream(pair.address, CHAT)
    await second.write(b"x")
    await until(lambda: pair.bob.connections[0].streams == 2)
    second.reset()
    await until(lambda: pair.bob.connections[0].streams == 1)
    await first.close()
    assert await pair.say() == b"hello"
    assert len(pair.served) == 2


async def test_a_rate(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ALLOW, config=Config(max_requests_per_second_per_peer=20.0))
    loop = asyncio.get_running_loop()
    since = loop.time()
    assert await asyncio.gather(*(pair.say() for _ in range(22))) == [b"hello"] * 22
    assert loop.time() - since >= 0.09


async def test_a_limit_by_type(make_pair: MakePair) -> None:
    policy = Policy(type_limits={CHAT: Limit(in_flight=1)})
    pair: Pair = await make_pair(ALLOW, policy=policy)
    first = await pair.alice.open_stream(pair.address, CHAT)
    await first.write(b"x")
    await first.readexactly(1)
    assert [await outcome(pair.say(protocol)) for protocol in (CHAT, OTHER)] == [StreamReset, b"hello"]
    await pair.decision()
    decision = await pair.decision()
    assert (decision.type, decision.allowed, decision.by, decision.how) == (CHAT, False, "firewall", "limit")
    await first.close()
    await until(lambda: not pair.bob.connections[0].streams)
    assert await pair.say() == b"hello"


# -- what is told --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["returns", "fails", "left"])
async def test_what_has_become_of_one(make_pair: MakePair, end: str) -> None:
    pair: Pair = await make_pair(ALLOW)

    async def handle(stream: Stream) -> None:
        if end == "fails":
            raise ValueError("of the handler")
        await stream.read()

    pair.bob.handle_stream("/end", handle)
    stream = await pair.alice.open_stream(pair.address, "/end")
    await stream.negotiated()
    if end == "returns":
        await stream.close()
    elif end == "left":
        stream.reset()
    decision = await pair.decision()
    handled = await next_event(pair.decisions, RequestHandled)
    assert (decision.allowed, decision.type, decision.address) == (True, "/end", pair.bob.connections[0].address)
    assert (handled.id, handled.peer) == (decision.id, pair.alice.peer_id)
    assert handled.outcome == ("ended" if end == "returns" else "failed")
    assert handled.seconds >= 0
    stream.reset()


async def test_a_question_about_a_stream_is_told_like_any_other(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(ASK)
    events = pair.bob.events()
    saying = asyncio.create_task(pair.say())
    [question] = await pair.asked()
    question.reject(reason="not now")
    assert await outcome(saying) is StreamReset
    ended = await next_event(events, FirewallRequestEnded)
    assert (ended.type, ended.outcome, ended.reason) == (CHAT, "rejected", "not now")
    decision = await pair.decision()
    assert (decision.by, decision.how, decision.reason) == ("handler", "rejected", "not now")
