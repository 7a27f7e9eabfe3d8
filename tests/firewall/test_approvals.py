"""Questions: who is asked, what each answer does, what ends without one. Time passes when a test says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from support.clock import Clock

from stronghold_p2p import Config, Direction, FirewallRequest, FirewallRules, Keypair, PeerId, Rule
from stronghold_p2p.firewall import approvals as approval_module
from stronghold_p2p.firewall.approvals import Approvals
from stronghold_p2p.firewall.rules import Firewall, Subject

ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id
IN, OUT, BOTH = Direction.INBOUND, Direction.OUTBOUND, Direction.BOTH
ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK
PINGS = Rule.restricted(allow={"Ping"})
NO_RULES = FirewallRules(outbound=None)


class Desk:
    """A firewall and its approvals, and the questions that they raise."""

    def __init__(self, clock: Clock, rules: FirewallRules, config: Config) -> None:
        self.clock = clock
        self.config = config
        self.firewall = Firewall(rules)
        self.approvals = Approvals(self.firewall, config)
        self.firewall.changed = self.approvals.rules_changed
        self.questions: list[FirewallRequest] = []
        self.requests: list[asyncio.Task[bool]] = []
        self._timers = timers()

    async def ask(self, peer: PeerId = ALICE, kind: str = "Ping", *, way: Direction = IN, size: int = 1) -> Any:
        """A request that comes to wait, unless it is decided at once."""
        request = asyncio.create_task(self._decide(Subject(peer, way, kind, "view"), size))
        self.requests.append(request)
        await self.clock.settle()
        return request

    async def _decide(self, subject: Subject, size: int) -> bool:
        return (await self.approvals.decide(subject, None, size)).allowed

    @property
    def outcomes(self) -> list[bool | None]:
        """Of each request: whether it has passed; None while it waits."""
        return [request.result() if request.done() else None for request in self.requests]

    def check_empty(self) -> None:
        approvals = self.approvals
        assert (approvals._waiting, approvals._bytes, len(approvals._tasks)) == (0, 0, 0)
        assert not approvals._questions
        assert not approvals._questions_by_peer
        assert not approvals._waiting_by_peer
        assert not approvals._bytes_by_peer
        assert timers() == self._timers


def timers() -> int:
    """Those that are set."""
    loop: Any = asyncio.get_running_loop()
    return sum(not timer.cancelled() for timer in loop._scheduled)


MakeDesk = Callable[..., Desk]


@pytest.fixture
async def make_desk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a desk at which nobody sits. In the end everything at it has been put away."""
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time())
    monkeypatch.setattr(loop, "time", clock)
    desks: list[Desk] = []

    def make(rules: FirewallRules = NO_RULES, **limits: Any) -> Desk:
        desks.append(Desk(clock, rules, Config(**limits)))
        return desks[-1]

    yield make
    for desk in desks:
        desk.approvals.close()
        await clock.settle()
        assert None not in desk.outcomes
        desk.check_empty()


@pytest.fixture
async def desk(make_desk: MakeDesk) -> Desk:
    """One that notes the questions, with no rule at all."""
    return listening(make_desk())


def listening(desk: Desk) -> Desk:
    desk.approvals.set_handler(desk.questions.append)
    return desk


# -- questions and answers -----------------------------------------------------------------------------


async def test_a_question_about_a_peer_holds_all_its_requests(desk: Desk) -> None:
    await desk.ask(kind="Ping")
    await desk.ask(kind="Read")
    [question] = desk.questions
    assert (question.kind, question.peer, question.direction) == ("peer", ALICE, IN)
    assert (question.type, question.view, question.address, question.waiting) == ("Ping", "view", None, 2)
    assert "view" not in repr(question)
    assert desk.outcomes == [None, None]
    assert question.approve()
    await desk.clock.settle()
    assert desk.outcomes == [True, True]
    assert question.waiting == 0
    await desk.ask()  # no rule was kept
    assert len(desk.questions) == 2
    desk.questions[1].reject()


async def test_each_request_has_its_own_question_where_the_rule_is_to_ask(make_desk: MakeDesk) -> None:
    desk = listening(make_desk(FirewallRules.ask_all()))
    for _ in range(3):
        await desk.ask()
    assert [question.kind for question in desk.questions] == ["request"] * 3
    assert desk.questions[1].approve()
    assert desk.questions[2].reject()
    await desk.clock.settle()
    assert desk.outcomes == [None, True, False]
    assert desk.questions[0].waiting == 1
    assert desk.questions[0].reject()


async def test_peers_and_directions_have_questions_of_their_own(desk: Desk) -> None:
    for peer, way in ((ALICE, IN), (ALICE, OUT), (BOB, IN)):
        await desk.ask(peer, way=way)
    assert [(question.peer, question.direction) for question in desk.questions] == [
        (ALICE, IN),
        (ALICE, OUT),
        (BOB, IN),
    ]
    desk.questions[0].approve()
    await desk.clock.settle()
    assert desk.outcomes == [True, None, None]


@pytest.mark.parametrize("rules", [NO_RULES, FirewallRules.ask_all()], ids=["peer", "request"])
async def test_a_rule_is_kept_and_applied(make_desk: MakeDesk, rules: FirewallRules) -> None:
    desk = listening(make_desk(rules))
    await desk.ask(kind="Ping")
    await desk.ask(BOB)
    assert desk.questions[0].set_rule(PINGS)
    await desk.clock.settle()
    assert desk.outcomes == [True, None]
    assert desk.firewall.rules.peers == {ALICE: (PINGS, None)}
    await desk.ask(kind="Read")
    assert desk.outcomes == [True, None, False]


async def test_a_rule_sorts_those_that_wait(desk: Desk) -> None:
    await desk.ask(kind="Ping")
    await desk.ask(kind="Read")
    desk.questions[0].set_rule(PINGS)
    await desk.clock.settle()
    assert desk.outcomes == [True, False]


async def test_to_be_asked_about_each_request_is_an_answer_too(desk: Desk) -> None:
    await desk.ask()
    await desk.ask()
    assert desk.questions[0].set_rule(ASK)
    await desk.clock.settle()
    assert [question.kind for question in desk.questions] == ["peer", "request", "request"]
    assert desk.questions[1].set_rule(ASK)  # nothing new: the request still waits
    desk.questions[2].approve()
    await desk.clock.settle()
    assert desk.outcomes == [None, True]
    assert desk.questions[1].approve()


@pytest.mark.parametrize(("rule", "outcome"), [(ALLOW, True), (REJECT, False), (PINGS, True), (ASK, None)], ids=repr)
async def test_a_rule_under_a_policy_that_says_to_ask(make_desk: MakeDesk, rule: Rule, outcome: bool | None) -> None:
    """The policy goes on asking, but who waits has heard the answer."""
    desk = listening(make_desk())
    desk.firewall.set_policy(FirewallRules(outbound=None, peers={ALICE: (ASK, None)}))
    await desk.ask()
    assert desk.questions[0].set_rule(rule)
    await desk.clock.settle()
    assert desk.outcomes == [outcome]
    await desk.ask()
    assert len(desk.questions) == 2


async def test_what_is_no_rule_changes_nothing(desk: Desk) -> None:
    await desk.ask()
    with pytest.raises(TypeError):
        desk.questions[0].set_rule("allow")  # type: ignore[arg-type]
    assert desk.questions[0].waiting == 1
    assert desk.firewall.rules == NO_RULES


LATE: list[Callable[[FirewallRequest], bool]] = [
    FirewallRequest.approve,
    FirewallRequest.reject,
    lambda question: question.set_rule(ALLOW),
]


@pytest.mark.parametrize("answer", LATE)
async def test_a_late_answer_changes_nothing(desk: Desk, answer: Callable[[FirewallRequest], bool]) -> None:
    await desk.ask()
    desk.questions[0].reject()
    await desk.ask()
    assert not answer(desk.questions[0])
    await desk.clock.settle()
    assert desk.outcomes == [False, None]
    assert desk.firewall.rules == NO_RULES


async def test_a_late_answer_does_not_overwrite_a_rule_set_meanwhile(desk: Desk) -> None:
    await desk.ask()
    desk.firewall.set_peer_rule(ALICE, REJECT, IN)
    assert not desk.questions[0].set_rule(ALLOW)
    await desk.clock.settle()
    assert desk.outcomes == [False]
    assert desk.firewall.rules.peers == {ALICE: (REJECT, None)}


async def test_an_answer_stands_though_a_rule_follows_at_once(desk: Desk) -> None:
    """This one, and then no more."""
    await desk.ask()
    desk.questions[0].approve()
    desk.firewall.set_peer_rule(ALICE, REJECT, IN)
    await desk.clock.settle()
    assert desk.outcomes == [True]


# -- handlers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "outcomes"),
    [
        (FirewallRequest.approve, [True]),
        (FirewallRequest.reject, [False]),
        (lambda question: question.set_rule(ALLOW), [True]),
        (lambda question: question.set_rule(REJECT), [False]),
    ],
)
@pytest.mark.parametrize("rules", [NO_RULES, FirewallRules.ask_all()], ids=["peer", "request"])
async def test_answers_from_within_the_handler(
    make_desk: MakeDesk, rules: FirewallRules, answer: Callable[[FirewallRequest], None], outcomes: list[bool]
) -> None:
    desk = make_desk(rules)
    desk.approvals.set_handler(answer)
    await desk.ask()
    assert desk.outcomes == outcomes


async def test_a_handler_that_asks_on(make_desk: MakeDesk) -> None:
    """From a question about the peer to one about the request, both answered at once."""
    desk = make_desk()

    def answer(question: FirewallRequest) -> None:
        desk.questions.append(question)
        question.set_rule(ASK) if question.kind == "peer" else question.approve()

    desk.approvals.set_handler(answer)
    await desk.ask()
    assert desk.outcomes == [True]
    assert [question.kind for question in desk.questions] == ["peer", "request"]


async def test_an_asynchronous_handler(make_desk: MakeDesk) -> None:
    desk = make_desk()
    may_answer = asyncio.Event()

    async def answer(question: FirewallRequest) -> None:
        await may_answer.wait()
        question.approve()

    desk.approvals.set_handler(answer)
    await desk.ask()
    assert desk.outcomes == [None]
    may_answer.set()
    await desk.clock.settle()
    assert desk.outcomes == [True]


def broken(desk: Desk, *, asynchronous: bool, answer: Callable[[FirewallRequest], Any]) -> Callable[..., Any]:
    def handler(question: FirewallRequest) -> None:
        desk.questions.append(question)
        answer(question)
        raise LookupError("broken")

    async def asynchronously(question: FirewallRequest) -> None:
        handler(question)

    return asynchronously if asynchronous else handler


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_handler_that_raises_rejects(
    make_desk: MakeDesk, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk()
    desk.approvals.set_handler(broken(desk, asynchronous=asynchronous, answer=lambda _: None))
    with caplog.at_level(logging.ERROR):
        await desk.ask()
    assert desk.outcomes == [False]
    assert "broken" in caplog.text
    [question] = desk.questions  # which it may have kept
    assert question.waiting == 0
    assert not question.set_rule(ALLOW)
    assert not question.approve()
    assert desk.firewall.rules == NO_RULES
    await desk.ask()
    assert len(desk.questions) == 2  # it was no lack of an answer


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_answer_counts_though_the_handler_raises_then(make_desk: MakeDesk, asynchronous: bool) -> None:
    desk = make_desk()
    handler = broken(desk, asynchronous=asynchronous, answer=lambda question: question.set_rule(ALLOW))
    desk.approvals.set_handler(handler)
    await desk.ask()
    assert desk.outcomes == [True]


@pytest.mark.parametrize("end", ["time", "cancellation", "close"])
async def test_a_handler_is_not_left_with_a_question_that_has_ended(make_desk: MakeDesk, end: str) -> None:
    """A remote would make as many of them wait as it likes."""
    desk = make_desk()
    ended = asyncio.Event()

    async def answer(question: FirewallRequest) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    desk.approvals.set_handler(answer)
    request = await desk.ask()
    if end == "time":
        await desk.clock.advance(desk.config.firewall_timeout)
    elif end == "cancellation":
        request.cancel()
    else:
        desk.approvals.close()
    await desk.clock.settle()
    assert ended.is_set()
    if end == "cancellation":
        desk.requests.clear()
    desk.check_empty()


async def test_a_handler_that_has_answered_may_go_on(make_desk: MakeDesk) -> None:
    desk = make_desk()
    may_end, ended = asyncio.Event(), False

    async def answer(question: FirewallRequest) -> None:
        nonlocal ended
        question.approve()
        await may_end.wait()
        ended = True

    desk.approvals.set_handler(answer)
    await desk.ask()
    assert desk.outcomes == [True]
    may_end.set()
    await desk.clock.settle()
    assert ended


async def test_nobody_listens(make_desk: MakeDesk) -> None:
    desk = make_desk()
    await desk.ask()
    assert desk.outcomes == [False]
    listening(desk)
    await desk.ask()
    assert len(desk.questions) == 1  # nobody was asked before, so nobody was worn out


async def test_one_listener_only(make_desk: MakeDesk) -> None:
    desk = listening(make_desk())
    with pytest.raises(RuntimeError):
        desk.approvals.set_handler(print)
    with pytest.raises(RuntimeError):
        desk.approvals.open_queue(1)
    other = make_desk()
    other.approvals.open_queue(1)
    with pytest.raises(RuntimeError):
        other.approvals.open_queue(1)


# -- the queue -----------------------------------------------------------------------------------------


async def test_the_queue(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue = desk.approvals.open_queue(2)
    for peer in (ALICE, BOB):
        await desk.ask(peer)
    first = await anext(queue)
    assert first.peer == ALICE
    first.approve()
    (await anext(queue)).reject()
    await desk.clock.settle()
    assert desk.outcomes == [True, False]
    desk.approvals.close()
    assert [question async for question in queue] == []


async def test_a_full_queue_rejects_and_forgets(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue = desk.approvals.open_queue(1)
    await desk.ask(ALICE)
    await desk.ask(BOB)
    assert desk.outcomes == [None, False]
    (await anext(queue)).approve()
    await desk.ask(BOB)
    assert (await anext(queue)).peer == BOB


@pytest.mark.parametrize("end", ["time", "cancellation", "rule"])
async def test_questions_that_have_ended_take_no_place_in_the_queue(make_desk: MakeDesk, end: str) -> None:
    """Otherwise one peer that comes and goes would keep all others from being asked about."""
    desk = make_desk()
    queue = desk.approvals.open_queue(1)
    request = await desk.ask(ALICE)
    if end == "time":
        await desk.clock.advance(desk.config.firewall_timeout)
    elif end == "cancellation":
        request.cancel()
        desk.requests.clear()
        await desk.clock.settle()
    else:
        desk.firewall.set_peer_rule(ALICE, REJECT, IN)
        await desk.clock.settle()
    await desk.ask(BOB)
    assert (await anext(queue)).peer == BOB


async def test_several_take_from_the_queue(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue = desk.approvals.open_queue(8)
    takers = [asyncio.create_task(_take_all(queue)) for _ in range(2)]
    await desk.clock.settle()
    for peer in (ALICE, BOB):
        await desk.ask(peer)
    desk.approvals.close()
    taken = await asyncio.gather(*takers)
    assert sorted(question.peer is ALICE for part in taken for question in part) == [False, True]


async def _take_all(queue: Any) -> list[FirewallRequest]:
    return [question async for question in queue]


async def test_a_queue_without_room(make_desk: MakeDesk) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_desk().approvals.open_queue(0)


# -- time ----------------------------------------------------------------------------------------------


async def test_without_an_answer_all_that_wait_are_rejected(desk: Desk) -> None:
    await desk.ask()
    await desk.clock.advance(9.75)
    await desk.ask()  # its time does not begin anew
    assert desk.outcomes == [None, None]
    await desk.clock.advance(0.25)
    assert desk.outcomes == [False, False]
    assert not desk.questions[0].approve()


async def test_quiet_after_a_question_without_an_answer(make_desk: MakeDesk) -> None:
    assert Config().firewall_quiet == 30
    desk = listening(make_desk(firewall_timeout=1, firewall_quiet=3))
    await desk.ask()
    await desk.clock.advance(1)
    await desk.clock.advance(2.75)
    await desk.ask()
    await desk.ask(way=OUT)
    assert desk.outcomes == [False, False, False]
    assert len(desk.questions) == 1
    await desk.ask(BOB)  # others may be asked about
    assert desk.questions[1].peer == BOB
    desk.questions[1].approve()
    await desk.clock.advance(0.25)
    await desk.ask()
    assert desk.questions[2].peer == ALICE


async def test_quiet_is_about_questions_not_about_rules(desk: Desk) -> None:
    await desk.ask()
    await desk.clock.advance(10)
    desk.firewall.set_peer_rule(ALICE, ALLOW, IN)
    await desk.ask()
    assert desk.outcomes == [False, True]


async def test_an_answer_in_time_makes_nobody_quiet(desk: Desk) -> None:
    for _ in range(3):
        await desk.ask()
        await desk.clock.advance(9.75)
        desk.questions[-1].reject()
    await desk.ask()
    assert len(desk.questions) == 4


async def test_how_many_quiet_peers_are_remembered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval_module, "MAX_QUIET_PEERS", 1)
    await desk.ask(ALICE)
    await desk.clock.advance(1)
    await desk.ask(BOB)
    await desk.clock.advance(10)
    await desk.ask(ALICE)
    assert desk.outcomes == [False, False, None]
    await desk.ask(BOB)
    assert desk.outcomes[3] is False


# -- what ends a question early ------------------------------------------------------------------------


async def test_cancellation_ends_a_question_with_the_last_that_waits(desk: Desk) -> None:
    first, second = await desk.ask(), await desk.ask()
    first.cancel()
    await desk.clock.settle()
    assert desk.questions[0].waiting == 1
    second.cancel()
    await desk.clock.settle()
    assert desk.questions[0].waiting == 0
    assert not desk.questions[0].set_rule(ALLOW)
    desk.requests.clear()
    desk.check_empty()


async def test_quiet_after_a_question_that_its_peer_withdrew(desk: Desk) -> None:
    for peer, way, questions in ((ALICE, IN, 1), (BOB, OUT, 3)):  # what we withdraw ourselves is no fault of Bob's
        for _ in range(2):
            asking = await desk.ask(peer, way=way)
            asking.cancel()
            await desk.clock.settle()
        assert len(desk.questions) == questions
    desk.requests.clear()


CHANGES: list[tuple[Callable[[Firewall], Any], bool | None]] = [
    (lambda firewall: firewall.set_peer_rule(ALICE, ALLOW, IN), True),
    (lambda firewall: firewall.set_peer_rule(ALICE, REJECT, BOTH), False),
    (lambda firewall: firewall.set_peer_rule(ALICE, PINGS, IN), True),
    (lambda firewall: firewall.set_peer_rule(ALICE, ALLOW, OUT), None),
    (lambda firewall: firewall.set_peer_rule(BOB, ALLOW, BOTH), None),
    (lambda firewall: firewall.set_peer_rule(ALICE, None, BOTH), None),
    (lambda firewall: firewall.set_default(ALLOW, BOTH), True),
    (lambda firewall: firewall.set_default(REJECT, IN), False),
    (lambda firewall: firewall.set_default(REJECT, OUT), None),
    (lambda firewall: firewall.set_policy(FirewallRules(inbound=ALLOW)), True),
    (lambda firewall: firewall.set_policy(FirewallRules(inbound=None)), None),
]


@pytest.mark.parametrize(("change", "outcome"), CHANGES)
@pytest.mark.parametrize("rules", [NO_RULES, FirewallRules.ask_all()], ids=["peer", "request"])
async def test_a_change_of_rules_takes_effect_on_what_waits(
    make_desk: MakeDesk, rules: FirewallRules, change: Callable[[Firewall], Any], outcome: bool | None
) -> None:
    desk = listening(make_desk(rules))
    await desk.ask()
    change(desk.firewall)
    await desk.clock.settle()
    assert desk.outcomes == [outcome]
    assert len(desk.questions) == 1
    assert desk.questions[0].waiting == (outcome is None)


async def test_from_no_rule_to_ask_and_back(desk: Desk) -> None:
    await desk.ask()
    await desk.ask()
    desk.firewall.set_default(ASK, IN)
    await desk.clock.settle()
    assert [(question.kind, question.waiting) for question in desk.questions[1:]] == [("request", 1)] * 2
    desk.firewall.set_default(None, IN)
    await desk.clock.settle()
    assert [(question.kind, question.waiting) for question in desk.questions[3:]] == [("peer", 2)]
    assert desk.outcomes == [None, None]
    desk.questions[3].approve()


async def test_of_two_changes_at_once_the_last_counts(desk: Desk) -> None:
    await desk.ask()
    desk.firewall.set_peer_rule(ALICE, ALLOW, IN)
    desk.firewall.set_peer_rule(ALICE, REJECT, IN)
    await desk.clock.settle()
    assert desk.outcomes == [False]


async def test_a_question_that_follows_another_at_once_is_not_lost(desk: Desk) -> None:
    """What is cleared up after the first must not be the second: it would outlive a change of rules."""
    await desk.ask()
    await desk.ask()
    desk.firewall.set_peer_rule(ALICE, ALLOW, IN)
    desk.firewall.set_peer_rule(ALICE, None, IN)
    await desk.clock.settle()
    assert [question.waiting for question in desk.questions] == [0, 2]
    desk.firewall.set_peer_rule(ALICE, REJECT, IN)
    assert not desk.questions[1].approve()
    await desk.clock.settle()
    assert desk.outcomes == [False, False]


async def test_closing_rejects_what_waits(desk: Desk) -> None:
    await desk.ask()
    await desk.ask(BOB, way=OUT)
    desk.approvals.close()
    await desk.clock.settle()
    assert desk.outcomes == [False, False]
    await desk.ask()
    assert desk.outcomes == [False, False, False]
    assert len(desk.questions) == 2


# -- limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "value", "outcomes"),
    [
        ("max_firewall_questions", 2, [None, None, False]),
        ("max_firewall_questions_per_peer", 1, [None, False, None]),
        ("max_firewall_waiting_requests", 2, [None, None, False]),
        ("max_firewall_waiting_requests_per_peer", 1, [None, False, None]),
        ("max_firewall_waiting_bytes", 200, [None, None, False]),
        ("max_firewall_waiting_bytes_per_peer", 100, [None, False, None]),
    ],
)
async def test_limits(make_desk: MakeDesk, limit: str, value: int, outcomes: list[bool | None]) -> None:
    desk = listening(make_desk(FirewallRules.ask_all(), **{limit: value}))
    for peer in (ALICE, ALICE, BOB):
        await desk.ask(peer, size=100)
    assert desk.outcomes == outcomes
    while None in desk.outcomes:
        for question in desk.questions:
            question.approve()
        await desk.clock.settle()
    desk.check_empty()
    await desk.ask(size=100)  # there is room again
    assert desk.outcomes[3] is None


async def test_limits_are_for_those_that_wait(make_desk: MakeDesk) -> None:
    """Who meets a rule by the time of its turn needs no room."""
    desk = listening(make_desk(max_firewall_waiting_requests=1))
    await desk.ask(BOB)
    late = asyncio.create_task(desk._decide(Subject(ALICE, IN, None, None), 1))
    desk.firewall.set_peer_rule(ALICE, ALLOW, IN)
    assert await late
    assert desk.outcomes == [None]


async def test_a_thousand_peers(make_desk: MakeDesk) -> None:
    """All trigger a question: those within the limits wait, the rest is rejected, answers still arrive."""
    desk = listening(make_desk(max_firewall_questions=64, max_firewall_waiting_bytes=64_000))
    peers = [PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32)) for number in range(1000)]
    for peer in peers:
        await desk.ask(peer, size=1000)
        await desk.ask(peer, size=1000)
    assert len(desk.questions) == desk.approvals._bytes // 2000 == 32
    assert len(desk.approvals._waiting_by_peer) == 32
    assert desk.outcomes.count(False) == 2 * (1000 - 32)
    for question in desk.questions:
        assert question.approve()
    await desk.clock.settle()
    assert desk.outcomes.count(True) == 64
    desk.check_empty()


async def test_a_handler_that_raises_what_ends_tasks_rejects(desk: Desk) -> None:
    def answer(question: FirewallRequest) -> None:
        raise asyncio.CancelledError

    desk.approvals._handler = answer
    await desk.ask()
    assert desk.outcomes == [False]


async def test_a_handler_that_has_not_begun_is_put_away_with_its_question(make_desk: MakeDesk) -> None:
    desk = make_desk()

    async def answer(question: FirewallRequest) -> None:
        raise AssertionError

    def changes_its_mind(question: FirewallRequest) -> Any:
        asyncio.get_running_loop().call_soon(desk.firewall.set_peer_rule, ALICE, ALLOW, IN)
        return answer(question)

    desk.approvals.set_handler(changes_its_mind)
    await desk.ask()
    assert desk.outcomes == [True]
