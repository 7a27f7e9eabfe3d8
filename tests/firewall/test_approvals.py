"""Approvals: which requests share a question, what ends it without an answer, how much may wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stronghold_p2p import Config, Direction, FirewallRequest, FirewallRules, LimitReached, Multiaddr, PeerId, Rule
from stronghold_p2p.firewall import silence as silence_module
from stronghold_p2p.firewall.answerers import Turns
from stronghold_p2p.firewall.rules import Firewall, Subject

from .conftest import ALICE, BOB, HERE, NO_RULES, STRANGERS, THERE, Desk, MakeDesk

IN, OUT, BOTH = Direction.INBOUND, Direction.OUTBOUND, Direction.BOTH
ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK
PINGS = Rule.restricted(allow={"Ping"})

# -- what is asked together ---------------------------------------------------------------------------


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
    desk = make_desk(FirewallRules.ask_all()).listen()
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


# -- time ---------------------------------------------------------------------------------------------


async def test_without_an_answer_all_that_wait_are_rejected(desk: Desk) -> None:
    await desk.ask()
    await desk.clock.advance(9.75)
    await desk.ask()  # its time does not begin anew
    assert desk.outcomes == [None, None]
    await desk.clock.advance(0.25)
    assert desk.outcomes == [False, False]
    assert not desk.questions[0].approve()


async def test_a_forgotten_firewall_is_not_silent(make_desk: MakeDesk, caplog: pytest.LogCaptureFixture) -> None:
    desk = make_desk()
    for way in (IN, OUT, IN):
        await desk.ask(way=way)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert f"a request from {ALICE} was rejected, since no rule decides it" in record.getMessage()


async def test_an_answerer_that_has_left_was_not_forgotten(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.approvals.remove_handler(desk.questions.append)
    await desk.ask()
    assert desk.outcomes == [False]
    assert not caplog.records


async def test_quiet_after_a_question_without_an_answer(make_desk: MakeDesk) -> None:
    assert Config().firewall_quiet == 30
    desk = make_desk(firewall_timeout=1, firewall_quiet=3).listen()
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


async def test_quiet_about_one_type_leaves_the_others(make_desk: MakeDesk) -> None:
    desk = make_desk(FirewallRules.ask_all()).listen()
    await desk.ask(kind="Sign")
    await desk.clock.advance(10)
    await desk.ask(kind="Sign")
    assert desk.outcomes == [False, False]
    await desk.ask(kind="Ping")
    assert [question.type for question in desk.questions] == ["Sign", "Ping"]
    desk.questions[1].approve()
    await desk.clock.settle()
    assert desk.outcomes == [False, False, True]


async def test_a_peer_with_a_type_for_each_request_is_quiet_as_a_whole(make_desk: MakeDesk) -> None:
    desk = make_desk(FirewallRules.ask_all()).listen()
    for number in range(silence_module.MAX_TOPICS + 1):
        await desk.ask(kind=f"Type {number}")
    await desk.clock.advance(10)
    asked = len(desk.questions)
    await desk.ask(kind="another")
    await desk.ask(BOB, kind="another")
    assert len(desk.questions) == asked + 1
    await desk.clock.advance(30)
    await desk.ask(kind="another")
    assert len(desk.questions) == asked + 2


async def test_types_that_may_be_asked_about_again_do_not_make_a_peer_quiet(make_desk: MakeDesk) -> None:
    desk = make_desk(FirewallRules.ask_all()).listen()
    for number in range(silence_module.MAX_TOPICS):
        await desk.ask(kind=f"Type {number}")
    await desk.clock.advance(10)
    await desk.clock.advance(30)
    await desk.ask(kind="last")
    await desk.clock.advance(10)
    await desk.ask(kind="another")
    assert desk.questions[-1].type == "another"


async def test_a_question_that_nobody_saw_makes_nobody_quiet(make_desk: MakeDesk) -> None:
    desk = make_desk()
    queue = desk.approvals.open_queue(1)
    await desk.ask()
    await desk.clock.advance(10)  # nobody has taken it
    await desk.ask()
    assert desk.outcomes == [False, None]
    seen = await anext(queue)
    await desk.clock.advance(10)
    await desk.ask()
    assert (seen.outcome, desk.outcomes) == ("timed out", [False, False, False])


async def test_a_question_that_waits_for_its_turn_makes_nobody_quiet(make_desk: MakeDesk) -> None:
    desk = make_desk(FirewallRules.ask_all())
    turns, shown = Turns(), []

    async def show(question: FirewallRequest) -> None:
        await turns.take(question)
        try:
            shown.append(question.type)
            await asyncio.get_running_loop().create_future()
        finally:
            turns.pass_on()

    desk.approvals.add_handler(show)
    await desk.ask(kind="Sign")
    await desk.ask(kind="Read")
    await desk.clock.advance(10)
    assert shown == ["Sign"]
    await desk.ask(kind="Sign")
    await desk.ask(kind="Read")
    assert (shown, desk.outcomes) == (["Sign", "Read"], [False, False, False, None])


async def test_quiet_can_be_switched_off(make_desk: MakeDesk) -> None:
    desk = make_desk(firewall_quiet=None).listen()
    for number in range(3):
        await desk.ask(address=HERE)
        assert len(desk.questions) == number + 1
        await desk.clock.advance(10)
    await desk.ask(address=HERE)
    assert desk.questions[-1].reject_network() == 1
    await desk.ask(address=HERE)
    assert desk.outcomes == [False] * 4 + [None]


async def test_an_answer_in_time_makes_nobody_quiet(desk: Desk) -> None:
    for _ in range(3):
        await desk.ask()
        await desk.clock.advance(9.75)
        desk.questions[-1].reject()
    await desk.ask()
    assert len(desk.questions) == 4


async def test_how_many_quiet_peers_are_remembered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence_module, "MAX_REMEMBERED", 1)
    await desk.ask(ALICE)
    await desk.clock.advance(1)
    await desk.ask(BOB)
    await desk.clock.advance(10)
    await desk.ask(ALICE)
    assert desk.outcomes == [False, False, None]
    await desk.ask(BOB)
    assert desk.outcomes[3] is False


async def test_a_network_of_many_peers_has_no_others_forgotten(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever is asked about in vain would be asked about again as soon as it came with other identities."""
    monkeypatch.setattr(silence_module, "MAX_REMEMBERED", 2)
    await desk.ask(BOB, address=THERE)
    for stranger in STRANGERS[:3]:
        await desk.ask(stranger, address=HERE)
    await desk.clock.advance(10)
    await desk.ask(BOB, address=THERE)
    await desk.ask(STRANGERS[0], address=HERE)
    assert desk.outcomes == [False, False, False, False, False, None]


# -- what ends a question early -----------------------------------------------------------------------


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
    desk = make_desk(rules).listen()
    await desk.ask()
    change(desk.firewall)
    await desk.clock.settle()
    assert desk.outcomes == [outcome]
    assert len(desk.questions) == 1
    assert desk.questions[0].waiting == (outcome is None)


async def test_a_policy_that_says_the_same_again_asks_nothing_again(make_desk: MakeDesk) -> None:
    """As when another part of its file has changed."""
    desk = make_desk().listen()
    for _ in range(2):
        desk.firewall.set_policy(FirewallRules(inbound=Rule.restricted(allow={"Read"}, ask={"Ping"})))
        if not desk.questions:
            await desk.ask(kind="Ping")
        await desk.clock.settle()
        assert [question.waiting for question in desk.questions] == [1]
    desk.questions[0].approve()


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


# -- limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "value", "outcomes"),
    [
        ("max_firewall_questions", 2, [None, False, None]),
        ("max_firewall_questions_per_peer", 1, [None, False, None]),
        ("max_firewall_waiting_requests", 2, [None, False, None]),
        ("max_firewall_waiting_requests_per_peer", 1, [None, False, None]),
        ("max_firewall_waiting_bytes", 200, [None, False, None]),
        ("max_firewall_waiting_bytes_per_peer", 100, [None, False, None]),
    ],
)
async def test_limits(make_desk: MakeDesk, limit: str, value: int, outcomes: list[bool | None]) -> None:
    """The newest of Alice's gives way, whether that is beyond her own limit or has to make room for Bob's."""
    desk = make_desk(FirewallRules.ask_all(), **{limit: value}).listen()
    for peer in (ALICE, ALICE, BOB):
        await desk.ask(peer, size=100)
    assert desk.outcomes == outcomes
    assert [event for event in desk.events if isinstance(event, LimitReached)] == [LimitReached(limit, "none", 1)]
    while None in desk.outcomes:
        for question in desk.questions:
            question.approve()
        await desk.clock.settle()
    desk.check_empty()
    await desk.ask(size=100)  # there is room again
    assert desk.outcomes[3] is None


async def test_limits_are_for_those_that_wait(make_desk: MakeDesk) -> None:
    """Who meets a rule by the time of its turn needs no room."""
    desk = make_desk(max_firewall_waiting_requests=1).listen()
    await desk.ask(BOB)
    late = asyncio.create_task(desk.decide(Subject(ALICE, IN, None, None), 1))
    desk.firewall.set_peer_rule(ALICE, ALLOW, IN)
    assert await late
    assert desk.outcomes == [None]


async def test_a_thousand_peers(make_desk: MakeDesk) -> None:
    """All trigger a question: those within the limits wait, one request of each, the rest is rejected, answers still
    arrive."""
    desk = make_desk(max_firewall_questions=64, max_firewall_waiting_bytes=64_000).listen()
    peers = [PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32)) for number in range(1000)]
    for peer in peers:
        await desk.ask(peer, size=1000)
        await desk.ask(peer, size=1000)
    assert len(desk.questions) == 64
    assert desk.outcomes.count(False) == 2000 - 64
    for question in desk.questions:
        assert question.approve()
    await desk.clock.settle()
    assert desk.outcomes.count(True) == 64
    desk.check_empty()


# -- who gives way ------------------------------------------------------------------------------------

LIMITS = [
    {"max_firewall_questions": 8},
    {"max_firewall_waiting_requests": 8},
    {"max_firewall_waiting_bytes": 800},
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("rules", [NO_RULES, FirewallRules.ask_all()], ids=["peer", "request"])
async def test_a_network_with_many_peers_crowds_nobody_out(
    make_desk: MakeDesk, rules: FirewallRules, limits: dict[str, int]
) -> None:
    desk = make_desk(rules, **limits).listen()
    for stranger in STRANGERS:
        await desk.ask(stranger, address=HERE, size=100)
    assert desk.outcomes == [None] * 8 + [False] * 12  # who came last has no more than the others
    await desk.ask(BOB, address=THERE, size=100)
    assert desk.outcomes == [None] * 7 + [False] * 13 + [None]
    assert [question.outcome for question in desk.questions] == [None] * 7 + ["crowded out", None]
    await desk.ask(STRANGERS[-1], address=HERE, size=100)
    assert desk.outcomes[-2:] == [None, False]
    assert desk.questions[-1].peer == BOB
    assert desk.questions[-1].approve()


@pytest.mark.parametrize("limits", LIMITS, ids=str)
async def test_a_peer_with_many_requests_crowds_none_of_its_network_out(
    make_desk: MakeDesk, limits: dict[str, int]
) -> None:
    desk = make_desk(FirewallRules.ask_all(), **limits).listen()
    await desk.ask(BOB, address=HERE, size=100)
    for _ in range(10):
        await desk.ask(ALICE, address=HERE, size=100)
    await desk.ask(STRANGERS[0], address=HERE, size=100)
    assert desk.outcomes == [None] * 7 + [False] * 4 + [None]


async def test_many_large_requests_give_way_to_a_small_one(make_desk: MakeDesk) -> None:
    desk = make_desk(max_firewall_waiting_bytes=1000).listen()
    for stranger in STRANGERS[:4]:
        await desk.ask(stranger, address=HERE, size=250)
    await desk.ask(BOB, address=THERE, size=1)
    assert desk.outcomes == [None, None, None, False, None]


async def test_nobody_gives_way_to_who_is_refused(make_desk: MakeDesk) -> None:
    """Because it asks for more than others have, is quiet, or is over another limit."""
    desk = make_desk(FirewallRules.ask_all(), max_firewall_waiting_bytes=1000, max_firewall_questions=3).listen()
    await desk.ask(STRANGERS[0], address=HERE)
    await desk.clock.advance(10)
    await desk.ask(BOB, address=THERE, size=600)
    await desk.ask(STRANGERS[1], address=HERE, size=601)
    await desk.ask(STRANGERS[0], address=HERE, size=500)
    await desk.ask(STRANGERS[2], address=HERE)
    await desk.ask(STRANGERS[3], address=HERE)
    await desk.ask(STRANGERS[4], address=HERE, size=500)  # the third question from there
    assert desk.outcomes == [False, None, False, False, None, None, False]


async def test_no_more_give_way_than_must(make_desk: MakeDesk) -> None:
    """What makes room within one limit makes room within the others, too."""
    desk = make_desk(FirewallRules.ask_all(), max_firewall_waiting_requests=4, max_firewall_waiting_bytes=800).listen()
    for _ in range(3):
        await desk.ask(ALICE, address=HERE, size=100)
    await desk.ask(STRANGERS[0], address="/ip6/::1/tcp/1", size=500)
    await desk.ask(BOB, address=THERE, size=10)
    assert desk.outcomes == [None, None, False, None, None]


async def test_our_own_requests_do_not_give_way_to_remotes(make_desk: MakeDesk) -> None:
    desk = make_desk(max_firewall_questions=4).listen()
    for peer in STRANGERS[:3]:
        await desk.ask(peer, way=OUT, address=HERE)
    for stranger in STRANGERS[10:13]:
        await desk.ask(stranger, address=HERE)
    assert desk.outcomes == [None, None, None, None, False, False]
    await desk.ask(STRANGERS[3], way=OUT)
    await desk.ask(BOB, address=THERE)
    await desk.ask(STRANGERS[4], way=OUT)
    assert desk.outcomes == [None, None, None, False, False, False, None, False, False]


async def test_who_gives_way_may_leave_others_with_the_question(make_desk: MakeDesk) -> None:
    """One may come by the addresses of several networks."""
    desk = make_desk(max_firewall_waiting_requests=3).listen()
    await desk.ask(ALICE, address=THERE)
    await desk.ask(ALICE, address=HERE)
    await desk.ask(ALICE, address=HERE)
    await desk.ask(BOB, address=THERE)
    assert desk.outcomes == [None, None, False, None]
    assert [question.waiting for question in desk.questions] == [2, 1]


async def test_who_gave_way_may_be_asked_about_again(make_desk: MakeDesk) -> None:
    desk = make_desk(max_firewall_questions=2).listen()
    await desk.ask(STRANGERS[0], address=HERE)
    await desk.ask(STRANGERS[1], address=HERE)
    await desk.ask(BOB, address=THERE)
    assert desk.questions[2].reject()
    await desk.clock.settle()
    await desk.ask(STRANGERS[1], address=HERE)
    assert desk.outcomes == [None, False, False, None]


async def test_who_was_answered_but_does_not_know_yet_does_not_give_way(make_desk: MakeDesk) -> None:
    """Its place is free, and its answer stands."""
    desk = make_desk(FirewallRules.ask_all(), max_firewall_waiting_requests=2).listen()
    await desk.ask(ALICE, address=HERE)
    await desk.ask(ALICE, address=HERE)
    newcomer = asyncio.create_task(desk.decide(Subject(BOB, IN, None, None), 1, Multiaddr.parse(THERE)))
    desk.requests.append(newcomer)
    assert desk.questions[1].approve()  # before the newcomer has its turn, and in vain if it is over first
    await desk.clock.settle()
    assert desk.outcomes == [None, True, None]
