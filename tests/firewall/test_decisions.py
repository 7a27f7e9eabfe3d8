"""What is told of a decision: by whom, how, and what became of the request that passed."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from conftest import MakePeer
from support.approvers import PHONE, TABLET, Approvers, Collector, yes
from support.clock import Clock
from support.waiting import introduced, next_event, settled, until

from stronghold_p2p import (
    Config,
    Direction,
    FirewallDecision,
    FirewallRequest,
    FirewallRequestEnded,
    FirewallRequestOpened,
    FirewallRules,
    NoResponse,
    PeerId,
    Request,
    RequestHandled,
    Rule,
    StrongholdError,
    StrongholdP2p,
)
from stronghold_p2p.event_hub import EventHub, EventReader
from stronghold_p2p.events import Scope
from stronghold_p2p.firewall.approvals import Approvals
from stronghold_p2p.firewall.ends import Clocks
from stronghold_p2p.firewall.gate import Gate
from stronghold_p2p.firewall.rules import Firewall
from stronghold_p2p.requests.codec import make_codec
from stronghold_p2p.resources.refusals import Refusals

from .conftest import ALICE, BOB

Peer = StrongholdP2p[Any, Any]
IN = Direction.INBOUND
ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK
CODEC: Any = make_codec("json", None, max_size=1000)


class Guard:
    """A gate at whose questions somebody may sit, and a reader of its decisions."""

    def __init__(
        self,
        clock: Clock,
        *,
        rules: FirewallRules | None = None,
        views: Callable[[Any], Any] | None = None,
        view: Callable[[Any], Any] | None = None,
        **limits: Any,
    ) -> None:
        self.clock = clock
        self.firewall = Firewall(rules or FirewallRules(inbound=ASK), Clocks(clock, clock))
        self.hub = EventHub()
        self.approvals = Approvals(
            self.firewall, Config(**limits), self.hub.emit, Refusals(self.hub.emit), {ALICE: "alice"}.get
        )
        self.firewall.changed = self.approvals.rules_changed
        self.gate = Gate(self.firewall, self.approvals, view, self.hub)
        self.events = self.hub.subscribe(EventReader(64, "drop_newest", decisions=True, views=views))
        self.questions: list[FirewallRequest] = []
        self.tasks: list[asyncio.Task[bool]] = []

    def answered_by(self, by: str) -> Guard:
        self.approvals.add_handler(self.questions.append, by)
        return self

    async def ask(self, peer: PeerId = ALICE, body: Any = 1) -> None:
        """A request that comes to wait, unless it is decided at once."""

        async def decide() -> bool:
            decision = self.gate.decide(peer, IN, CODEC, body, b"1", None)
            return decision if isinstance(decision, bool) else await decision

        self.tasks.append(asyncio.create_task(decide()))
        await self.clock.settle()

    async def told(self) -> FirewallDecision:
        """The next decision."""
        return await next_event(self.events, FirewallDecision)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    loop = asyncio.get_running_loop()
    clock = Clock(math.ceil(loop.time()))  # dates have whole microseconds
    monkeypatch.setattr(loop, "time", clock)
    return clock


# -- by whom, and how ----------------------------------------------------------------------------------


async def reject(guard: Guard) -> None:
    guard.questions[0].reject("not today")


async def wait_in_vain(guard: Guard) -> None:
    await guard.clock.advance(10)


async def withdraw(guard: Guard) -> None:
    guard.tasks[0].cancel()
    await guard.clock.settle()


async def crowd_out(guard: Guard) -> None:
    for _ in range(3):
        await guard.ask(BOB)


async def leave(guard: Guard) -> None:
    guard.approvals.remove_handler(guard.questions.append)


async def close(guard: Guard) -> None:
    guard.approvals.close()


async def set_rule(guard: Guard, rule: Rule) -> None:
    guard.questions[0].set_rule(rule)


async def change_rules(guard: Guard) -> None:
    guard.firewall.set_default(ALLOW, IN)


@pytest.mark.parametrize(
    ("end", "by", "how"),
    [
        (lambda guard: guard.questions[0].approve(), "person", "approved"),
        (lambda guard: guard.questions[0].approve_all(), "person", "approved"),
        (lambda guard: set_rule(guard, REJECT), "person", "rejected"),
        (reject, "person", "rejected"),
        (change_rules, "rule", "approved"),
        (wait_in_vain, "firewall", "timeout"),
        (withdraw, "firewall", "withdrawn"),
        (leave, "firewall", "no answerer"),
        (close, "firewall", "closed"),
    ],
)
async def test_who_has_ended_a_question(clock: Clock, end: Callable[[Guard], Any], by: str, how: str) -> None:
    guard = Guard(clock).answered_by("person")
    await guard.ask()
    if isinstance(ending := end(guard), Awaitable):
        await ending
    told = await guard.told()
    assert (told.id, told.peer, told.name) == (1, ALICE, "alice")
    assert (told.by, told.how, told.allowed) == (by, how, how == "approved")
    assert told.reason == ("not today" if end is reject else None)


@pytest.mark.parametrize(
    ("default", "by", "how"), [(REJECT, "rule", "expired"), (ALLOW, "rule", "approved"), (ASK, "person", "approved")]
)
async def test_a_rule_that_ends_while_a_request_waits(clock: Clock, default: Rule, by: str, how: str) -> None:
    guard = Guard(clock, rules=FirewallRules(inbound=default)).answered_by("person")
    guard.firewall.set_peer_rule(ALICE, ASK.replace(until=guard.firewall.in_seconds(5)), IN)
    await guard.ask()
    assert guard.questions[0].outcome is None
    guard.clock.now += 5
    guard.firewall.expire()
    await guard.clock.settle()
    guard.questions[-1].approve()
    told = await guard.told()
    assert (told.by, told.how, told.allowed) == (by, how, how == "approved")


async def test_who_has_to_make_room(clock: Clock) -> None:
    guard = Guard(clock, max_firewall_questions=1).answered_by("person")
    await guard.ask(ALICE)
    await guard.ask(ALICE)
    told = await guard.told()
    assert (told.by, told.how) == ("firewall", "full")
    guard.approvals.close()


async def test_with_nobody_to_ask(clock: Clock) -> None:
    guard = Guard(clock)
    await guard.ask()
    assert ((told := await guard.told()).by, told.how) == ("firewall", "no answerer")
    guard.approvals.close()
    await guard.ask()
    assert ((told := await guard.told()).by, told.how) == ("firewall", "closed")


async def test_during_the_quiet(clock: Clock) -> None:
    guard = Guard(clock).answered_by("person")
    await guard.ask()
    await clock.advance(10)
    await guard.ask()
    assert [((told := await guard.told()).id, told.how) for _ in range(2)] == [(1, "timeout"), (2, "quiet")]


async def test_an_answer_is_told_of_all_that_waited_for_it(clock: Clock) -> None:
    guard = Guard(clock, rules=FirewallRules()).answered_by("person")
    await guard.ask()
    await guard.ask(body={"type": "Ping"})
    guard.questions[0].set_rule(Rule.restricted(allow={"Ping"}))
    assert [((told := await guard.told()).by, told.how) for _ in range(2)] == [
        ("person", "rejected"),
        ("person", "approved"),
    ]


async def test_who_had_the_last_word(clock: Clock) -> None:
    """The rule that one has set only leads to another question."""
    guard = Guard(clock, rules=FirewallRules()).answered_by("first")
    await guard.ask()
    guard.questions[0].set_rule(ASK)
    await clock.settle()
    guard.approvals.remove_handler(guard.questions.append)
    assert ((told := await guard.told()).by, told.how) == ("firewall", "no answerer")


async def test_the_line_of_the_policy(clock: Clock) -> None:
    guard = Guard(clock)
    guard.firewall.set_policy(FirewallRules(peers={ALICE: (ALLOW, None)}), {(ALICE, IN): 12})
    await guard.ask()
    await guard.ask(BOB)
    assert [((told := await guard.told()).name, told.line) for _ in range(2)] == [("alice", 12), (None, None)]


async def test_questions_are_told_with_the_name(clock: Clock) -> None:
    guard = Guard(clock).answered_by("person")
    await guard.ask()
    guard.questions[0].reject("not today")
    opened = await next_event(guard.events, FirewallRequestOpened)
    ended = await next_event(guard.events, FirewallRequestEnded)
    assert opened.name == ended.name == guard.questions[0].name == "alice"
    assert (ended.by, ended.reason) == ("person", "not today")


@pytest.mark.parametrize("by", ["rule", "firewall", "approver", "approver 12D3Koo"])
def test_nobody_passes_for_another(by: str) -> None:
    with pytest.raises(ValueError, match="stands for other decisions"):
        Peer().on_firewall_request(lambda _: None, by=by)
    with pytest.raises(ValueError, match="stands for other decisions"):
        Peer().firewall_requests(by=by)


async def test_who_answers_by_an_iterator(clock: Clock) -> None:
    guard = Guard(clock)
    queue = guard.approvals.open_queue(1, by="person")
    await guard.ask()
    (await anext(queue)).approve()
    assert (await guard.told()).by == "person"


@pytest.mark.parametrize("scope", ["once", "type", "all"])
async def test_what_approvers_have_signed_is_told(clock: Clock, scope: Scope) -> None:
    guard = Guard(clock).answered_by("person")
    guard.approvals.quorum = Approvers(need=2)
    collector = Collector()
    guard.approvals.add(collector)
    await guard.ask(body={"type": "Sign"})
    votes = yes(PHONE, scope), yes(TABLET, scope)
    for vote in votes:
        collector.questions[0].vote(vote)
    told = await guard.told()
    assert (told.by, told.how, told.signatures) == (f"approver {PHONE}, {TABLET}", "approved", votes)


# -- views ---------------------------------------------------------------------------------------------


def kept(view: Any) -> str:
    return f"saw {view}"


@pytest.mark.parametrize(
    "rule", [ALLOW, Rule.restricted(allow={"Ping"}), Rule.restricted(lambda *_: True)], ids=["all", "type", "predicate"]
)
async def test_a_view_for_those_who_want_it(clock: Clock, rule: Rule) -> None:
    guard = Guard(clock, rules=FirewallRules(inbound=rule), views=kept, view=lambda body: body["type"])
    others = guard.hub.subscribe(EventReader(64, "drop_newest", decisions=True))
    await guard.ask(body={"type": "Ping", "secret": "secret"})
    assert (await guard.told()).view == "saw Ping"
    assert (await next_event(others, FirewallDecision)).view is None


async def test_the_view_of_a_question(clock: Clock) -> None:
    guard = Guard(clock, views=kept).answered_by("person")
    await guard.ask(body={"type": "Ping"})
    guard.questions[0].approve()
    assert (await guard.told()).view == "saw {'type': 'Ping'}"


async def test_a_view_that_fails_takes_no_decision_away(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Any) -> Any:
        raise LookupError("broken")

    for what in ({"view": fail, "views": kept}, {"views": fail}):
        guard = Guard(clock, rules=FirewallRules(inbound=ALLOW), **what)
        with caplog.at_level(logging.ERROR):
            await guard.ask(body="secret")
        told = await guard.told()
        assert (told.allowed, told.view) == (True, None)
    assert len(caplog.records) == 2
    assert "secret" not in caplog.text


def test_views_without_decisions() -> None:
    with pytest.raises(ValueError, match="decisions=True"):
        Peer().events(views=repr)


# -- what became of it ---------------------------------------------------------------------------------


class Answered:
    """A peer that serves, one that asks, and the events of the first."""

    def __init__(self, bob: Peer, alice: Peer) -> None:
        self.bob = bob
        self.alice = alice
        self.events: AsyncIterator[Any] = bob.events(decisions=True)

    async def ask(self, body: Any = 1) -> Any:
        return await self.alice.send_request(self.bob.listeners[0].address, body)

    async def handled(self) -> RequestHandled:
        decision = await next_event(self.events, FirewallDecision)
        async with asyncio.timeout(5):
            handled = await next_event(self.events, RequestHandled)
        assert (handled.id, handled.peer) == (decision.id, self.alice.peer_id)
        assert handled.seconds >= 0
        return handled


@pytest.fixture
async def answered(make_peer: MakePeer) -> Answered:
    bob = await make_peer(firewall=FirewallRules.allow_all(), config=Config(handler_timeout=0.01))
    await bob.listen()
    return Answered(bob, await make_peer())


async def hang(_: Request[Any]) -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_request_that_is_responded_to(answered: Answered) -> None:
    answered.bob.on_request(lambda request: request.body)
    for number in (1, 2):
        assert await answered.ask(number) == number
        handled = await answered.handled()
        assert (handled.id, handled.outcome) == (number, "responded")


@pytest.mark.parametrize(
    ("handler", "outcome"), [(lambda _: 1 / 0, "failed"), (lambda _: object(), "failed"), (hang, "timeout")]
)
async def test_a_request_without_a_response(answered: Answered, handler: Any, outcome: str) -> None:
    answered.bob.on_request(handler)
    with pytest.raises(StrongholdError):
        await answered.ask()
    assert (await answered.handled()).outcome == outcome


async def test_a_requester_that_leaves(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all())
    await bob.listen()
    answered = Answered(bob, await make_peer())
    await introduced(answered.alice, bob.listeners[0].address)
    requests = bob.requests()
    asking = asyncio.create_task(answered.ask())
    taken = await anext(requests)
    asking.cancel()
    assert (await answered.handled()).outcome == "left"
    del taken


async def test_a_request_that_is_declined(answered: Answered) -> None:
    requests = answered.bob.requests()
    asking = asyncio.create_task(answered.ask())
    await (await anext(requests)).decline()
    with pytest.raises(NoResponse):
        await asking
    assert (await answered.handled()).outcome == "declined"


async def test_what_the_firewall_rejects_is_not_handled(answered: Answered) -> None:
    answered.bob.on_request(lambda request: request.body)
    answered.bob.set_peer_rule(answered.alice.peer_id, Rule.restricted(allow={"Ping"}))
    with pytest.raises(NoResponse):
        await answered.ask({"type": "Read"})
    assert await answered.ask({"type": "Ping"})
    first, second, handled = [await anext_of(answered.events) for _ in range(3)]
    assert (first.allowed, second.allowed) == (False, True)
    assert isinstance(handled, RequestHandled)
    assert handled.id == second.id == 2


async def anext_of(events: AsyncIterator[Any]) -> Any:
    """The next one that is about a request."""
    async for event in events:
        if isinstance(event, FirewallDecision | RequestHandled):
            return event
    pytest.fail("the events have ended")


async def test_a_handler_begins_when_the_answer_is_there(make_peer: MakePeer) -> None:
    """The time that the question took is not the handler's."""
    bob = await make_peer(firewall=FirewallRules(inbound=ASK))
    bob.on_request(lambda request: request.body)
    await bob.listen()
    answered = Answered(bob, await make_peer())
    questions: list[FirewallRequest] = []
    bob.on_firewall_request(questions.append, by="person")
    asking = asyncio.create_task(answered.ask())
    await until(lambda: questions)
    await settled()
    assert questions[0].approve()
    assert await asking == 1
    decision = await next_event(answered.events, FirewallDecision)
    handled = await next_event(answered.events, RequestHandled)
    assert (decision.by, decision.how) == ("person", "approved")
    assert decision.waited > 0
    assert handled.outcome == "responded"


async def test_a_request_that_times_out_at_its_reader(answered: Answered) -> None:
    requests = answered.bob.requests()
    asking = asyncio.create_task(answered.ask())
    taken = await anext(requests)
    with pytest.raises(StrongholdError):
        await asking
    assert (await answered.handled()).outcome == "timeout"
    del taken
