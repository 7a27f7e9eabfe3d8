"""The firewall between whole peers, over TCP."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NewType, TypedDict, cast

import msgspec
import pytest
from conftest import MakePeer
from support.decisions import decision
from support.remote import JSON, Remote, lines, listening
from support.state import opened
from support.waiting import next_event, settled, until
from support.yamux import data

from stronghold_p2p import (
    Config,
    ConnectionLost,
    Direction,
    FirewallDecision,
    FirewallRequest,
    FirewallRequestEnded,
    FirewallRequestOpened,
    FirewallRules,
    Keypair,
    Multiaddr,
    NoResponse,
    NotPermitted,
    PeerIdentified,
    Policy,
    PolicyError,
    PolicyFailed,
    ProtocolNotSupported,
    Request,
    RequestTimeout,
    Rule,
    StrongholdP2p,
)
from stronghold_p2p.wire.yamux import Flag

Peer = StrongholdP2p[Any, Any]
IN, OUT, BOTH = Direction.INBOUND, Direction.OUTBOUND, Direction.BOTH
ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK
PINGS = Rule.restricted(allow={"Ping"})
SHORT = Rule.restricted(lambda peer, direction, view: len(view) < 5)
PING, READ = {"type": "Ping"}, {"type": "Read", "a": 1, "b": 2, "c": 3, "d": 4}


class Pair:
    """``alice`` asks, ``bob`` answers; ``handled`` is what has reached his handler."""

    def __init__(self, alice: Peer, bob: Peer, address: Multiaddr) -> None:
        self.alice, self.bob, self.address = alice, bob, address
        self.handled: list[Any] = []
        self.questions: list[FirewallRequest] = []
        bob.on_request(self._handle)

    def _handle(self, request: Request[Any]) -> Any:
        self.handled.append(request.body)
        return "handled"

    async def ask(self, body: Any = 1, *, timeout: float | None = None) -> Any:
        return await self.alice.send_request(self.address, body, timeout=timeout)

    async def waiting(self, number: int = 1, *, questions: int = 1) -> list[asyncio.Task[Any]]:
        """Requests that wait for an answer."""
        asking = [asyncio.create_task(self.ask(index)) for index in range(number)]
        await until(lambda: sum(question.waiting for question in self.questions) == number)
        assert len(self.questions) == questions
        return asking


MakePair = Callable[..., Any]


@pytest.fixture
async def make_pair(make_peer: MakePeer) -> MakePair:
    """Makes a pair: ``guard`` is the one whose firewall is tested, the other's is open to all."""

    async def make(
        guard: str = "bob", rules: FirewallRules | None = None, *, collect: bool = True, **arguments: Any
    ) -> Pair:
        own: dict[str, Any] = {"firewall": FirewallRules.allow_all()} | arguments
        tested = {"firewall": rules} | arguments
        alice = await make_peer(**(tested if guard == "alice" else own))
        bob = await make_peer(**(tested if guard == "bob" else own))
        pair = Pair(alice, bob, await bob.listen())
        if collect:
            (alice if guard == "alice" else bob).on_firewall_request(pair.questions.append)
        return pair

    return make


async def outcome(asking: Any) -> Any:
    """The response, or the exception's class."""
    try:
        return await asking
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return type(error)


# -- each rule, in each direction, by default and by peer ----------------------------------------------


@pytest.mark.parametrize("by", ["default", "peer", "peer over default", "text"])
@pytest.mark.parametrize("guard", ["alice", "bob"])
@pytest.mark.parametrize(
    ("rule", "ping", "read"),
    [(ALLOW, True, True), (REJECT, False, False), (PINGS, True, False), (SHORT, True, False)],
    ids=["allow all", "reject all", "types", "predicate"],
)
async def test_rules(make_pair: MakePair, guard: str, by: str, rule: Rule, ping: bool, read: bool) -> None:
    pair: Pair = await make_pair(guard, FirewallRules(inbound=None, outbound=None), collect=False)
    tested, other = (pair.alice, pair.bob) if guard == "alice" else (pair.bob, pair.alice)
    way = OUT if guard == "alice" else IN
    if by == "peer over default":
        tested.set_firewall_default(REJECT if rule is ALLOW else ALLOW)
    if by == "default":
        tested.set_firewall_default(rule, direction=way)
    else:
        tested.set_peer_rule(str(other.peer_id) if by == "text" else other.peer_id, rule, direction=way)
    rejected = NotPermitted if guard == "alice" else ProtocolNotSupported if rule is REJECT else NoResponse
    assert await outcome(pair.ask(READ)) == ("handled" if read else rejected)
    if guard == "alice" and not read:
        assert pair.bob.connections == ()  # not even a dial
    assert await outcome(pair.ask(PING)) == ("handled" if ping else rejected)
    assert pair.handled == [READ] * read + [PING] * ping


@pytest.mark.parametrize("guard", ["alice", "bob"])
@pytest.mark.parametrize("rule", [None, ASK], ids=repr)
@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (FirewallRequest.approve, True),
        (FirewallRequest.reject, False),
        (lambda question: question.set_rule(ALLOW), True),
        (lambda question: question.set_rule(REJECT), False),
    ],
)
async def test_questions(make_pair: MakePair, guard: str, rule: Rule | None, answer: Any, passes: bool) -> None:
    pair: Pair = await make_pair(guard, FirewallRules(inbound=rule, outbound=rule))
    [asking] = await pair.waiting()
    [question] = pair.questions
    tested, other = (pair.alice, pair.bob) if guard == "alice" else (pair.bob, pair.alice)
    assert question.kind == ("peer" if rule is None else "request")
    assert (question.peer, question.direction) == (other.peer_id, OUT if guard == "alice" else IN)
    assert pair.handled == []
    if guard == "alice":
        assert question.address is None
        assert pair.bob.connections == ()  # the question comes before any dial
    else:
        assert question.address == pair.bob.connections[0].address
    answer(question)
    assert await outcome(asking) == ("handled" if passes else NotPermitted if guard == "alice" else NoResponse)
    assert pair.handled == [0] * passes
    assert len(tested.get_firewall_config().peers) == (answer not in (FirewallRequest.approve, FirewallRequest.reject))


@pytest.mark.parametrize("guard", ["alice", "bob"])
async def test_nobody_is_there_to_answer(make_pair: MakePair, guard: str) -> None:
    pair: Pair = await make_pair(guard, FirewallRules(inbound=None, outbound=None), collect=False)
    assert await outcome(pair.ask()) is (NotPermitted if guard == "alice" else NoResponse)
    assert pair.handled == []


async def test_nobody_answers(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(config=Config(firewall_timeout=0.05))
    assert await outcome(pair.ask()) is NoResponse
    assert await outcome(pair.ask()) is NoResponse
    assert len(pair.questions) == 1  # the second raised none
    pair.bob.set_peer_rule(pair.alice.peer_id, ALLOW)
    assert await pair.ask() == "handled"


async def test_the_iterator_of_questions(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(collect=False)
    questions = pair.bob.firewall_requests()
    asking = asyncio.create_task(pair.ask())
    question = await anext(questions)
    question.approve()
    assert await asking == "handled"
    await pair.bob.close()
    assert [question async for question in questions] == []


async def test_several_answer_and_others_look_on(make_pair: MakePair) -> None:
    pair: Pair = await make_pair()
    events = pair.bob.events()
    questions = pair.bob.firewall_requests()
    [asking] = await pair.waiting()
    [kept], taken = pair.questions, await anext(questions)
    opened = FirewallRequestOpened(1, pair.alice.peer_id, None, IN, None, "peer")
    assert await next_event(events, FirewallRequestOpened) == opened
    assert taken.approve()
    assert not kept.reject()
    assert await asking == "handled"
    ended = FirewallRequestEnded(1, pair.alice.peer_id, None, IN, None, "peer", "approved", "handler", None)
    assert await next_event(events, FirewallRequestEnded) == ended
    questions.close()
    pair.bob.remove_firewall_handler(pair.questions.append)
    assert await outcome(pair.ask()) is NoResponse
    assert len(pair.questions) == 1


async def test_two_peers_with_different_rules(make_pair: MakePair, make_peer: MakePeer) -> None:
    pair: Pair = await make_pair(rules=FirewallRules.reject_all())
    carol = await make_peer()
    pair.bob.set_peer_rule(pair.alice.peer_id, PINGS)
    pair.bob.set_peer_rule(carol.peer_id, Rule.restricted(allow={"Read"}))
    bodies = [PING, READ]
    assert [await outcome(pair.ask(body)) for body in bodies] == ["handled", NoResponse]
    assert [await outcome(carol.send_request(pair.address, body)) for body in bodies] == [NoResponse, "handled"]
    dave = await make_peer()
    assert await outcome(dave.send_request(pair.address, PING)) is ProtocolNotSupported


class Ping(msgspec.Struct): ...


class Read(msgspec.Struct):
    path: str


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_types_of_a_union(make_pair: MakePair, codec: str) -> None:
    rules = FirewallRules(inbound=Rule.restricted(allow={Ping}))
    pair: Pair = await make_pair(rules=rules, codec=codec, request_type=Ping | Read, response_type=str)
    assert await outcome(pair.ask(Ping())) == "handled"
    assert await outcome(pair.ask(Read("Ping"))) is NoResponse


@dataclasses.dataclass
class Point:
    x: int


class Options(TypedDict):
    depth: int


class Place(NamedTuple):
    x: int


@pytest.mark.parametrize("guard", ["alice", "bob"])
@pytest.mark.parametrize(
    ("type_", "body"),
    [
        (Ping | None, Ping()),
        (Annotated[Ping | None, "a"], Ping()),
        (cast("Any", NewType)("Pings", Ping), Ping()),
        (Ping | Read | None, Ping()),
        (Point | None, Point(1)),
        (Options, {"depth": 1}),
        (Place, Place(1)),
        (Any, {"type": "dict"}),
        (dict, {"type": "dict"}),
    ],
)
async def test_a_type_behind_its_wrappers(make_pair: MakePair, guard: str, type_: Any, body: Any) -> None:
    name = "Options" if type_ is Options else type(body).__name__
    rules = FirewallRules(inbound=Rule.restricted(allow={name}), outbound=Rule.restricted(allow={name}))
    pair: Pair = await make_pair(guard, rules, request_type=type_)
    assert await outcome(pair.ask(body)) == "handled"
    assert pair.handled == [body]


@pytest.mark.parametrize(
    "arguments",
    [{"codec": "raw"}, {"request_type": int | str}, {"request_type": Read}, {"request_type": Read | list[int] | None}],
)
def test_a_rule_by_a_type_that_no_request_has(arguments: Any) -> None:
    carol = Keypair.generate().peer_id
    for rules in FirewallRules(outbound=PINGS), FirewallRules(peers={carol: (PINGS, None)}):
        with pytest.raises(TypeError, match="no request has the type 'Ping'"):
            Peer(firewall=rules, **arguments)
        with pytest.raises(TypeError, match="no request has the type 'Ping'"):
            Peer(policy=Policy(rules=rules), **arguments)
    peer = Peer(**arguments)
    with pytest.raises(TypeError, match="no request has the type 'Ping'"):
        peer.set_peer_rule(carol, PINGS)
    with pytest.raises(TypeError, match="no request has the type 'Ping'"):
        peer.set_firewall_default(PINGS)
    assert peer.get_firewall_config() == FirewallRules()


async def test_an_answer_by_a_type_that_no_request_has(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(rules=FirewallRules(inbound=None), request_type=Read | None)
    asking = asyncio.create_task(pair.ask(Read("a")))
    await until(lambda: pair.questions)
    with pytest.raises(TypeError, match="no request has the type 'Ping'; known types are 'Read'"):
        pair.questions[0].set_rule(PINGS)
    assert pair.bob.get_firewall_config().peers == {}
    assert pair.questions[0].set_rule(Rule.restricted(allow={Read}))
    assert await asking == "handled"


async def test_a_policy_file_by_a_type_that_no_request_has(make_peer: MakePeer, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[default]\ninbound = ["Ping"]')
    with pytest.raises(
        PolicyError, match=r"line 2, default\.inbound: no request has the type 'Ping'; known types are 'Read'"
    ):
        await make_peer(policy=path, request_type=Read)
    path.write_text('[default]\ninbound = ["Read"]')
    peer = await make_peer(policy=path, request_type=Read)
    events = peer.events()
    path.write_text('[default]\ninbound = ["Ping"]')
    await peer.reload_policy()
    assert (await next_event(events, PolicyFailed)).error.line == 2


async def test_a_kept_rule_by_a_type_that_no_request_has_any_more(
    make_pair: MakePair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was right when it was given, and rejects still."""
    keypair = Keypair.generate()
    with opened(tmp_path / "state.db") as state:
        state.set_rule(keypair.peer_id, IN, PINGS)
    bob = Peer(state=tmp_path / "state.db", request_type=Read, firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: "handled")
    async with bob, Peer(keypair=keypair, request_type=Read) as alice:
        assert await outcome(alice.send_request(await bob.listen(), Read("a"))) is NoResponse
    assert "no request has the type 'Ping'" in caplog.text


# -- changes -------------------------------------------------------------------------------------------


CHANGES: list[Callable[[Pair], None]] = [
    lambda pair: pair.bob.set_peer_rule(pair.alice.peer_id, REJECT),
    lambda pair: pair.bob.set_firewall_default(REJECT),
    lambda pair: pair.bob.set_firewall_default(REJECT, direction=IN),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("rule", [None, ASK], ids=repr)
async def test_rejecting_while_requests_wait(make_pair: MakePair, rule: Rule | None, change: Any) -> None:
    pair: Pair = await make_pair(rules=FirewallRules(inbound=rule))
    asking = await pair.waiting(3, questions=1 if rule is None else 3)
    change(pair)
    assert not any(question.approve() for question in pair.questions)
    assert [await outcome(request) for request in asking] == [NoResponse] * 3
    assert pair.handled == []
    assert await outcome(pair.ask()) is ProtocolNotSupported


async def test_another_peers_rule_leaves_a_question_alone(make_pair: MakePair) -> None:
    pair: Pair = await make_pair()
    [asking] = await pair.waiting()
    pair.bob.set_peer_rule(Keypair.generate().peer_id, REJECT)
    pair.bob.set_firewall_default(REJECT, direction=OUT)
    await settled()
    assert pair.questions[0].approve()
    assert await asking == "handled"


async def test_the_offer_follows_the_rules(make_pair: MakePair) -> None:
    """By identify push. Only a peer whose every request is rejected is not offered the protocol."""
    pair: Pair = await make_pair()
    events = pair.alice.events(decisions=True)
    await pair.alice.connect(pair.address)
    assert JSON in (await next_event(events, PeerIdentified)).protocols
    rules: list[Rule | None] = [ASK, PINGS, None]
    for rule in rules:
        pair.bob.set_firewall_default(REJECT)
        assert JSON not in (await next_event(events, PeerIdentified)).protocols
        pair.bob.set_firewall_default(rule)
        assert JSON in (await next_event(events, PeerIdentified)).protocols
    pair.bob.set_peer_rule(pair.alice.peer_id, REJECT, direction=IN)
    assert JSON not in (await next_event(events, PeerIdentified)).protocols


async def test_others_do_not_hear_of_a_peers_rule(make_pair: MakePair, make_peer: MakePeer) -> None:
    pair: Pair = await make_pair(rules=FirewallRules.allow_all())
    carol = await make_peer()
    carols, alices = carol.events(decisions=True), pair.alice.events(decisions=True)
    await carol.connect(pair.address)
    await pair.alice.connect(pair.address)
    await next_event(carols, PeerIdentified)
    await next_event(alices, PeerIdentified)
    pair.bob.set_peer_rule(pair.alice.peer_id, REJECT)
    assert JSON not in (await next_event(alices, PeerIdentified)).protocols
    pair.bob.set_firewall_default(REJECT)
    assert JSON not in (await next_event(carols, PeerIdentified)).protocols  # the first that she hears


async def test_a_handler_that_runs_is_left_alone(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    running, may_end = asyncio.Event(), asyncio.Event()

    @bob.on_request
    async def answer(request: Request[Any]) -> str:
        running.set()
        await may_end.wait()
        return "let in before"

    asking = asyncio.create_task(alice.send_request(await bob.listen(), 1))
    await running.wait()
    bob.set_firewall_default(REJECT)
    may_end.set()
    assert await asking == "let in before"


async def test_a_rule_that_comes_while_dialing(make_peer: MakePeer) -> None:
    alice: Peer = await make_peer()
    async with listening() as listener:
        asking = asyncio.create_task(alice.send_request(listener.address, 1))
        remote = await listener.accept()
        alice.set_firewall_default(REJECT)
        await remote.upgrade(initiator=False)
        assert await outcome(asking) is NotPermitted
        await alice.disconnect(listener.keypair.peer_id)
        assert not [frame for frame in await remote.rest() if lines(JSON) in frame.body]
        await remote.close()


async def test_a_rule_that_comes_between_a_streams_lines_and_its_request(make_peer: MakePeer) -> None:
    bob: Peer = await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: pytest.fail("it was let in"))
    remote = await Remote.dial(await bob.listen())
    remote.send(data(1, lines(JSON), Flag.SYN))
    while (frame := await remote.frame()) and frame.stream_id != 1:
        pass
    bob.set_firewall_default(REJECT)
    remote.send(data(1, b"\x011"))
    answer = await remote.frames_of(1)
    assert [(frame.flags & Flag.FIN, frame.body) for frame in answer] == [(Flag.FIN, b"")]
    await remote.close()


# -- what ends a question ------------------------------------------------------------------------------


@pytest.mark.parametrize("guard", ["alice", "bob"])
@pytest.mark.parametrize("end", ["deadline", "cancellation", "connection"])
async def test_the_end_of_a_request_ends_its_question(make_pair: MakePair, guard: str, end: str) -> None:
    pair: Pair = await make_pair(guard, FirewallRules(inbound=None, outbound=None))
    asking = asyncio.create_task(pair.ask("late", timeout=0.1 if end == "deadline" else None))
    await until(lambda: pair.questions)
    [question] = pair.questions
    if end == "cancellation":
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    elif end == "connection":
        if guard == "alice":
            asking.cancel()  # it waits before any connection: only its caller can end it
            await pair.bob.disconnect(pair.alice.peer_id)
        else:
            await pair.alice.disconnect(pair.bob.peer_id)
            assert await outcome(asking) is ConnectionLost
    else:
        assert await outcome(asking) is RequestTimeout
    await until(lambda: not question.waiting)
    assert not question.set_rule(ALLOW)
    assert not question.approve()
    if guard == "alice":
        assert await _next_answered(pair) == "handled"
        assert pair.handled == ["next"]
    else:  # who withdraws what it asks must not be able to ask for ever
        assert await outcome(asyncio.create_task(pair.ask("next"))) is NoResponse
        assert len(pair.questions) == 1


async def _next_answered(pair: Pair) -> Any:
    asking = asyncio.create_task(pair.ask("next"))
    await until(lambda: len(pair.questions) == 2)
    pair.questions[1].approve()
    return await asking


async def test_a_request_that_is_reset_in_the_breath_that_brought_it(make_peer: MakePeer) -> None:
    bob: Peer = await make_peer()
    bob.on_request(lambda request: pytest.fail("it was let in"))
    bob.on_firewall_request(lambda question: pytest.fail("nobody asks"))
    remote = await Remote.dial(await bob.listen())
    remote.send(data(1, lines(JSON) + b"\x011", Flag.SYN), data(1, flags=Flag.RST))
    assert await remote.request(3, b"not JSON") == b""
    await remote.close()
    gc.collect()  # tells of coroutines that never ran


async def test_closing_does_not_wait_for_answers(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(config=Config(close_timeout=0.2))
    [asking] = await pair.waiting()
    await pair.bob.close()
    assert await outcome(asking) is NoResponse
    assert pair.questions[0].waiting == 0
    assert pair.handled == []


async def test_a_question_outbound_when_the_peer_closes(make_pair: MakePair) -> None:
    pair: Pair = await make_pair("alice", FirewallRules(outbound=None))
    [asking] = await pair.waiting()
    await pair.alice.close()
    assert await outcome(asking) is NotPermitted
    assert not pair.questions[0].approve()
    assert pair.bob.connections == ()


# -- the wire, as a remote sees it ---------------------------------------------------------------------


async def test_a_rejection_is_an_ordinary_end(make_peer: MakePeer) -> None:
    """Closed in order, without a byte; nothing tells why."""
    bob: Peer = await make_peer(firewall=FirewallRules(inbound=PINGS))
    bob.on_request(lambda request: "handled")
    remote = await Remote.dial(await bob.listen())
    remote.send(data(1, lines(JSON) + b"\x011", Flag.SYN))
    frames = await remote.frames_of(1)
    assert b"".join(frame.body for frame in frames) == lines(JSON)
    assert frames[-1].flags == Flag.FIN
    assert not any(frame.flags & Flag.RST for frame in frames)
    await remote.close()


async def test_nothing_is_sent_to_a_peer_that_rules_forbid(make_peer: MakePeer) -> None:
    alice: Peer = await make_peer(firewall=FirewallRules(outbound=PINGS))
    async with listening() as listener:
        assert await outcome(alice.send_request(listener.address, READ)) is NotPermitted
        asking = asyncio.create_task(alice.send_request(listener.address, PING, timeout=0.2))
        remote = await listener.accept_upgraded([JSON])  # the first connection that there is
        while (frame := await remote.frame()) and lines(JSON) not in frame.body:
            pass
        assert frame
        assert frame.body.endswith(b'{"type":"Ping"}')
        assert await outcome(asking) is RequestTimeout
        await remote.close()


async def test_a_large_request_waits_whole_and_is_rejected(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(codec="raw", config=Config(max_firewall_waiting_bytes_per_peer=5_000_000))
    for number in (1, 2):  # what has waited counts no longer
        asking = asyncio.create_task(pair.ask(bytes(3_000_000)))
        await until(lambda number=number: len(pair.questions) == number)  # type: ignore[misc]
        assert await outcome(pair.ask(bytes(2_000_001))) is NoResponse
        pair.questions[-1].reject()
        assert await outcome(asking) is NoResponse
        assert pair.handled == []


async def test_too_many_bytes_to_wait(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(codec="raw", config=Config(max_firewall_waiting_bytes_per_peer=100_000))
    assert await outcome(pair.ask(bytes(100_001))) is NoResponse
    assert pair.questions == []


# -- with an iterator over requests --------------------------------------------------------------------


async def test_requests_that_are_iterated_over(make_peer: MakePeer) -> None:
    alice: Peer = await make_peer()
    bob: Peer = await make_peer()
    questions: list[FirewallRequest] = []
    bob.on_firewall_request(questions.append)
    requests = bob.requests(buffer=1)
    address = await bob.listen()
    asking = [asyncio.create_task(alice.send_request(address, number)) for number in range(3)]
    await until(lambda: questions)
    bob.set_peer_rule(alice.peer_id, Rule.restricted(lambda peer, direction, view: view != 1))
    for number in (0, 2):
        request = await anext(requests)
        assert request.body == number
        await request.respond(number)
    assert [await outcome(request) for request in asking] == [0, NoResponse, 2]


async def test_whoever_waits_for_an_answer_does_not_hold_up_others(make_peer: MakePeer) -> None:
    alice: Peer = await make_peer()
    mallory: Peer = await make_peer()
    bob: Peer = await make_peer(firewall=FirewallRules(peers={alice.peer_id: (ALLOW, None)}))
    questions: list[FirewallRequest] = []
    bob.on_firewall_request(questions.append)
    requests = bob.requests(buffer=2)
    address = await bob.listen()
    waiting = [asyncio.create_task(mallory.send_request(address, number)) for number in range(2)]
    await until(lambda: questions and questions[0].waiting == 2)
    asking = asyncio.create_task(alice.send_request(address, "of alice", timeout=2))
    async with asyncio.timeout(2):
        request = await anext(requests)
    await request.respond(request.body)
    assert await asking == "of alice"
    questions[0].reject()
    assert [await outcome(request) for request in waiting] == [NoResponse] * 2


# -- many peers ----------------------------------------------------------------------------------------


async def test_many_peers_that_all_trigger_a_question(make_peer: MakePeer) -> None:
    limit, number = 5, 16
    bob: Peer = await make_peer(config=Config(max_firewall_questions=limit))
    bob.on_request(lambda request: request.body)
    questions: list[FirewallRequest] = []
    bob.on_firewall_request(questions.append)
    address = await bob.listen()
    peers = [await make_peer() for _ in range(number)]
    asking = [asyncio.create_task(outcome(peer.send_request(address, 1))) for peer in peers]
    await until(lambda: sum(request.done() for request in asking) == number - limit)
    assert len(questions) == limit
    for question in questions:
        assert question.approve()
    outcomes = await asyncio.gather(*asking)
    assert (outcomes.count(1), outcomes.count(NoResponse)) == (limit, number - limit)
    late = asyncio.create_task(peers[0].send_request(address, 2))
    await until(lambda: len(questions) == limit + 1)
    questions[-1].approve()
    assert await late == 2


# -- what is told --------------------------------------------------------------------------------------


async def test_decisions_are_events(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(rules=FirewallRules(inbound=None), firewall_view=lambda body: len(body))
    bobs, alices = pair.bob.events(decisions=True), pair.alice.events(decisions=True)
    asking = asyncio.create_task(pair.ask(PING | {"content": "secret"}))
    await until(lambda: pair.questions)
    assert pair.questions[0].view == 2
    pair.questions[0].set_rule(PINGS)
    assert await asking == "handled"
    told = await next_event(bobs, FirewallDecision)
    assert (told.peer, told.direction, told.type) == (pair.alice.peer_id, IN, "Ping")
    assert (told.rule, told.layer, told.allowed) == (repr(PINGS), "peer", True)
    assert told.waited > 0
    assert "secret" not in repr(told)
    told = await next_event(alices, FirewallDecision)
    assert told == decision(pair.bob.peer_id, "Ping", ALLOW, allowed=True, direction=OUT)
    assert await outcome(pair.ask(READ)) is NoResponse
    told = await next_event(bobs, FirewallDecision)
    assert (told.type, told.rule, told.allowed, told.waited) == ("Read", repr(PINGS), False, 0.0)


async def test_a_request_by_a_peer_rejected_in_everything_is_told_too(make_pair: MakePair) -> None:
    pair: Pair = await make_pair(rules=FirewallRules.reject_all())
    events = pair.bob.events(decisions=True)
    assert await outcome(pair.ask()) is ProtocolNotSupported
    async with asyncio.timeout(1):
        told = await next_event(events, FirewallDecision)
    address = pair.bob.connections[0].address
    assert told == decision(pair.alice.peer_id, None, REJECT, allowed=False, address=address)


# -- rules of a peer -----------------------------------------------------------------------------------


async def test_the_rules_in_force(make_peer: MakePeer) -> None:
    peer: Peer = await make_peer(firewall=FirewallRules.reject_all())
    other = Keypair.generate().peer_id
    peer.set_peer_rule(other, ALLOW, direction=OUT)
    peer.remove_firewall_default(direction=IN)
    assert peer.get_firewall_config() == FirewallRules(inbound=None, outbound=REJECT, peers={other: (None, ALLOW)})
    peer.remove_peer_rule(str(other))
    peer.set_firewall_default(None)
    assert peer.get_firewall_config() == FirewallRules(inbound=None, outbound=None)


async def test_rules_may_be_set_before_the_start() -> None:
    bob = Peer()
    bob.set_firewall_default(ALLOW)
    bob.set_peer_rule(Keypair.generate().peer_id, REJECT)
    bob.on_request(lambda request: request.body)
    async with bob, Peer() as alice:
        assert await alice.send_request(await bob.listen(), 1) == 1


async def test_ping_is_not_guarded(make_peer: MakePeer) -> None:
    alice, bob = (
        await make_peer(firewall=FirewallRules.reject_all()),
        await make_peer(firewall=FirewallRules.reject_all()),
    )
    address = await bob.listen()
    assert await alice.ping(address) > 0
