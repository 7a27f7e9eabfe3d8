"""Approvers: how many must agree, whose answers count, what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.approvers import PHONE, TABLET, WATCH, Approvers, Collector, no, yes

from stronghold_p2p import Direction, FirewallRequest, FirewallRequestEnded, FirewallRules, Rule, SignedAnswer
from stronghold_p2p.firewall.questions import Question

from .conftest import ALICE, BOB, Desk, MakeDesk

IN = Direction.INBOUND
ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK


class Votes:
    """A desk with approvers, at which one question is open."""

    def __init__(self, desk: Desk, need: int) -> None:
        self.desk = desk
        self.quorum = desk.approvals.quorum = Approvers(need)
        self.collector = Collector()
        desk.approvals.add(self.collector)

    @property
    def question(self) -> Question:
        return self.collector.questions[-1]

    @property
    def seen(self) -> FirewallRequest:
        """As handlers see it."""
        return self.desk.questions[-1]

    async def end(self) -> FirewallRequestEnded:
        await self.desk.clock.settle()
        [ended] = [event for event in self.desk.events if isinstance(event, FirewallRequestEnded)]
        return ended


@pytest.fixture
async def votes(make_desk: MakeDesk) -> Votes:
    """Two of three approvers must agree about a request of Alice."""
    votes = Votes(make_desk(FirewallRules.ask_all()).listen(), 2)
    await votes.desk.ask(kind="Sign")
    return votes


async def test_as_many_must_agree(votes: Votes) -> None:
    assert (votes.seen.need, votes.seen.agreed) == (2, 0)
    assert votes.question.vote(yes(PHONE))
    assert votes.seen.agreed == 1
    assert votes.desk.outcomes == [None]
    assert votes.question.vote(yes(WATCH))
    ended = await votes.end()
    assert votes.desk.outcomes == [True]
    assert (ended.outcome, ended.by) == ("approved", f"approver {PHONE}, {WATCH}")
    assert votes.question.answer is not None
    assert votes.question.answer.signatures == (yes(PHONE), yes(WATCH))


async def test_one_approver_is_one(votes: Votes) -> None:
    assert votes.question.vote(yes(PHONE))
    assert not votes.question.vote(yes(PHONE, "all"))
    assert votes.desk.outcomes == [None]
    assert votes.question.vote(yes(TABLET))


async def test_who_is_no_approver_does_not_count(votes: Votes) -> None:
    assert not votes.question.vote(yes(BOB))
    assert not votes.question.vote(no(BOB))
    assert votes.question.outcome is None
    votes.seen.reject()


async def test_nobody_approves_its_own_request(votes: Votes) -> None:
    votes.quorum.need = 1
    await votes.desk.ask(PHONE, kind="Sign")
    assert votes.question.subject.peer == PHONE
    assert not votes.question.vote(yes(PHONE))
    assert votes.desk.outcomes == [None, None]
    assert votes.question.vote(yes(TABLET))
    await votes.desk.clock.settle()
    assert votes.desk.outcomes == [None, True]


async def test_a_single_rejection_ends_it(votes: Votes) -> None:
    votes.question.vote(yes(PHONE))
    assert votes.question.vote(no(WATCH, "not at night"))
    ended = await votes.end()
    assert votes.desk.outcomes == [False]
    assert (ended.outcome, ended.by, ended.reason) == ("rejected", f"approver {WATCH}", "not at night")
    assert not votes.question.vote(yes(TABLET))
    assert (votes.seen.by, votes.seen.reason) == (f"approver {WATCH}", "not at night")


@pytest.mark.parametrize(
    "approve",
    [
        FirewallRequest.approve,
        FirewallRequest.approve_type,
        FirewallRequest.approve_all,
        lambda question: question.set_rule(ALLOW),
        lambda question: question.set_rule(Rule.restricted(allow={"Ping"})),
        lambda question: question.set_rule(REJECT.ending(datetime.now(UTC) + timedelta(hours=1), ALLOW)),
    ],
)
async def test_nobody_else_can_approve(votes: Votes, approve: Callable[[FirewallRequest], bool]) -> None:
    votes.question.vote(yes(PHONE))
    assert not approve(votes.seen)
    assert votes.question.outcome is None
    assert votes.desk.firewall.rules.peers == {}


@pytest.mark.parametrize("reject", [FirewallRequest.reject, lambda question: question.set_rule(REJECT)])
async def test_anybody_else_can_reject(votes: Votes, reject: Callable[[FirewallRequest], Any]) -> None:
    votes.question.vote(yes(PHONE))
    assert reject(votes.seen)
    assert (await votes.end()).by == "handler"
    assert votes.desk.outcomes == [False]


async def test_with_one_any_answer_counts(votes: Votes) -> None:
    votes.quorum.need = 1
    assert votes.seen.approve()
    assert (await votes.end()).by == "handler"


@pytest.mark.parametrize(
    ("first", "second", "sign", "ping", "seconds"),
    [
        (yes(PHONE, "all"), yes(WATCH), None, None, None),
        (yes(PHONE), yes(WATCH, "type"), None, None, None),
        (yes(PHONE, "all"), yes(WATCH, "type"), True, None, None),
        (yes(PHONE, "all"), yes(WATCH, "type", 60), True, None, 60),
        (yes(PHONE, "type", 90), yes(WATCH, "all", 60), True, None, 60),
        (yes(PHONE, "all"), yes(WATCH, "all"), True, True, None),
        (yes(PHONE, "all", 60), yes(WATCH, "all"), True, True, 60),
    ],
)
async def test_the_narrowest_scope_counts(
    votes: Votes, first: SignedAnswer, second: SignedAnswer, sign: bool | None, ping: bool | None, seconds: float | None
) -> None:
    desk = votes.desk
    votes.question.vote(first)
    assert votes.question.vote(second)
    await desk.clock.settle()
    for after in (0.0, (seconds or 1e6) - 0.5):
        desk.clock.now += after
        await desk.ask(kind="Sign")
        await desk.ask(kind="Ping")
        assert desk.outcomes[-2:] == [sign, ping]
        for question in desk.questions:
            question.reject()
    if seconds is not None:
        desk.clock.now += 0.5
        await desk.ask(kind="Sign")
        assert desk.outcomes[-1] is None


async def test_a_type_is_no_scope_of_what_has_none(make_desk: MakeDesk) -> None:
    for kind in (None, "x" * 201):
        votes = Votes(make_desk(FirewallRules.ask_all()).listen(), 1)
        await votes.desk.ask(kind=kind)
        assert votes.question.vote(yes(PHONE, "type"))
        await votes.desk.clock.settle()
        assert votes.desk.outcomes == [True]
        assert votes.desk.firewall.rules.peers == {}


async def test_a_rule_with_too_many_ends_is_not_set(make_desk: MakeDesk) -> None:
    votes = Votes(make_desk(FirewallRules.ask_all()).listen(), 1)
    for number in range(66):
        await votes.desk.ask(kind=str(number))
        assert votes.question.vote(yes(PHONE, "type", 1000 - number))
    await votes.desk.clock.settle()
    assert votes.desk.outcomes == [True] * 66
    await votes.desk.ask(kind="0")
    await votes.desk.ask(kind="65")
    assert votes.desk.outcomes[66:] == [True, None]


async def test_who_is_an_approver_no_more_does_not_count(votes: Votes) -> None:
    votes.question.vote(yes(PHONE))
    votes.quorum.members.discard(PHONE)
    votes.desk.approvals.quorum_changed()
    assert votes.seen.agreed == 0
    assert votes.question.vote(yes(WATCH))
    assert votes.desk.outcomes == [None]
    assert votes.question.vote(yes(TABLET))
    assert (await votes.end()).by == f"approver {WATCH}, {TABLET}"


async def test_fewer_may_be_enough_by_now(votes: Votes) -> None:
    votes.question.vote(yes(PHONE))
    votes.quorum.need = 1
    votes.desk.approvals.quorum_changed()
    assert (await votes.end()).by == f"approver {PHONE}"
    assert votes.desk.outcomes == [True]


async def test_a_change_of_approvers_alone_approves_nothing(votes: Votes) -> None:
    votes.quorum.need = 1
    votes.desk.approvals.quorum_changed()
    assert votes.question.outcome is None
    votes.seen.reject()


async def test_there_are_no_approvers_by_default(desk: Desk) -> None:
    collector = Collector()
    desk.approvals.add(collector)
    await desk.ask()
    assert not collector.questions[0].vote(yes(PHONE))
    assert desk.questions[0].need == 1
    assert desk.questions[0].peer == ALICE
    assert desk.questions[0].approve()
