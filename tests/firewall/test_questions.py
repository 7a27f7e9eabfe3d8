"""Questions: what each answer does, how they end, what is told of that."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stronghold_p2p import (
    Direction,
    FirewallRequest,
    FirewallRequestEnded,
    FirewallRequestOpened,
    FirewallRules,
    Rule,
)
from stronghold_p2p.events import Outcome, QuestionKind

from .conftest import ALICE, BOB, HERE, NO_RULES, STRANGERS, THERE, Desk, MakeDesk

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK
PINGS = Rule.restricted(allow={"Ping"})

# -- answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [NO_RULES, FirewallRules.ask_all()], ids=["peer", "request"])
async def test_a_rule_is_kept_and_applied(make_desk: MakeDesk, rules: FirewallRules) -> None:
    desk = make_desk(rules).listen()
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
    desk = make_desk().listen()
    desk.firewall.set_policy(FirewallRules(outbound=None, peers={ALICE: (ASK, None)}))
    await desk.ask()
    assert desk.questions[0].set_rule(rule)
    await desk.clock.settle()
    assert desk.outcomes == [outcome]
    await desk.ask()
    assert len(desk.questions) == 2


@pytest.mark.parametrize("rule", ["allow", None])
async def test_what_is_no_rule_changes_nothing(desk: Desk, rule: Any) -> None:
    await desk.ask()
    with pytest.raises(TypeError):
        desk.questions[0].set_rule(rule)
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


@pytest.mark.parametrize(
    ("rule", "after"),
    [
        (None, Rule.restricted(allow={"Sign"}, otherwise="ask")),
        (Rule.ASK, Rule.restricted(allow={"Sign"}, otherwise="ask")),
        (
            Rule.restricted(allow={"Ping"}, ask={"Sign"}, reject={"Wipe"}),
            Rule.restricted(allow={"Ping", "Sign"}, reject={"Wipe"}),
        ),
        (
            Rule.restricted(reject={"Wipe"}, otherwise="ask"),
            Rule.restricted(allow={"Sign"}, reject={"Wipe"}, otherwise="ask"),
        ),
    ],
)
async def test_an_approved_type_opens_no_more_than_that(make_desk: MakeDesk, rule: Rule | None, after: Rule) -> None:
    desk = make_desk(FirewallRules(peers={ALICE: (rule, None)})).listen()
    await desk.ask(kind="Sign")
    assert desk.questions[0].approve_type()
    await desk.clock.settle()
    assert desk.outcomes == [True]
    assert desk.firewall.find(ALICE, IN).rule == after


async def test_a_type_that_is_approved_leaves_the_others_waiting(desk: Desk) -> None:
    await desk.ask(kind="Sign")
    await desk.ask(kind="Wipe")
    assert desk.questions[0].approve_type()
    await desk.clock.settle()
    assert desk.outcomes == [True, None]
    assert [question.kind for question in desk.questions] == ["peer", "request"]
    assert desk.questions[1].reject()


@pytest.mark.parametrize("rules", [NO_RULES, FirewallRules.ask_all()], ids=["peer", "request"])
async def test_all_may_be_approved(make_desk: MakeDesk, rules: FirewallRules) -> None:
    desk = make_desk(rules).listen()
    await desk.ask(kind="Sign")
    assert desk.questions[0].approve_all()
    await desk.ask(kind="Wipe")
    assert desk.outcomes == [True, True]
    assert desk.firewall.rules.peers == {ALICE: (ALLOW, None)}


async def test_what_has_no_type_cannot_be_approved_by_it(desk: Desk) -> None:
    await desk.ask(kind=None)
    with pytest.raises(ValueError, match=r"without a type: use approve\(\) or approve_all\(\)"):
        desk.questions[0].approve_type()
    assert desk.questions[0].outcome is None


# -- the answer to a whole network ---------------------------------------------------------------------

SITE = "/ip6/2001:db8:0:ff00::1/tcp/1"


async def test_all_from_a_network_are_rejected_at_once_and_for_a_while(make_desk: MakeDesk) -> None:
    desk = make_desk(firewall_quiet=5).listen()
    for stranger in STRANGERS[:3]:
        await desk.ask(stranger, address=HERE)
    await desk.ask(BOB, address=THERE)
    assert desk.questions[1].reject_network() == 3
    await desk.clock.settle()
    assert desk.outcomes == [False, False, False, None]
    assert [question.outcome for question in desk.questions] == ["rejected"] * 3 + [None]
    await desk.ask(STRANGERS[3], address="/ip4/192.0.2.1/tcp/2")
    assert desk.outcomes == [False, False, False, None, False]
    assert len(desk.questions) == 4
    await desk.clock.advance(5)
    await desk.ask(STRANGERS[4], address=HERE)
    assert desk.outcomes == [False, False, False, None, False, None]
    assert desk.firewall.rules == NO_RULES


@pytest.mark.parametrize(
    ("address", "network", "same", "other"),
    [
        (HERE, "192.0.2.1/32", "/ip4/192.0.2.1/tcp/9/ws", "/ip4/192.0.2.2/tcp/1"),
        ("/ip6/::ffff:192.0.2.1/tcp/1", "192.0.2.1/32", HERE, THERE),
        (SITE, "2001:db8:0:ff00::/56", "/ip6/2001:db8:0:ffff::9/tcp/1", "/ip6/2001:db8::1/tcp/1"),
        (f"{HERE}/p2p/{STRANGERS[9]}/p2p-circuit", "192.0.2.1/32", HERE, THERE),
    ],
    ids=["IPv4", "mapped", "IPv6", "relayed"],
)
async def test_what_the_network_of_a_question_is(desk: Desk, address: str, network: str, same: str, other: str) -> None:
    for stranger, where in zip(STRANGERS, (address, same, other), strict=False):
        await desk.ask(stranger, address=where)
    assert [question.network == network for question in desk.questions] == [True, True, False]
    assert desk.questions[0].reject_network() == 2
    await desk.clock.settle()
    assert desk.outcomes == [False, False, None]


async def test_a_silenced_network_still_has_its_rules(desk: Desk) -> None:
    await desk.ask(BOB, address=HERE)
    desk.questions[0].reject_network()
    desk.firewall.set_peer_rule(ALICE, ALLOW, IN)
    await desk.ask(ALICE, address=HERE)
    assert desk.outcomes == [False, True]


async def test_our_own_requests_to_a_network_that_is_rejected(desk: Desk) -> None:
    """They are not of that network; but the one whose question is answered so is rejected with it."""
    await desk.ask(ALICE, way=OUT, address=HERE)
    await desk.ask(BOB, way=OUT, address=HERE)
    await desk.ask(BOB, address=HERE)
    assert desk.questions[0].reject_network() == 2
    await desk.clock.settle()
    assert desk.outcomes == [False, None, False]
    await desk.ask(STRANGERS[0], way=OUT, address=HERE)
    assert desk.outcomes[-1] is None


async def test_a_peer_that_is_not_connected_is_of_no_network(desk: Desk) -> None:
    await desk.ask(way=OUT)
    assert desk.questions[0].network is None
    with pytest.raises(ValueError, match=r"question 1 is about a peer without a connection, .* use reject\(\)"):
        desk.questions[0].reject_network()
    assert desk.questions[0].outcome is None


async def test_a_late_answer_silences_nobody(desk: Desk) -> None:
    await desk.ask(address=HERE)
    desk.questions[0].reject()
    await desk.ask(BOB, address=HERE)
    assert desk.questions[0].reject_network() == 0
    await desk.ask(STRANGERS[0], address=HERE)
    assert desk.outcomes == [False, None, None]


# -- ids and time --------------------------------------------------------------------------------------


async def test_ids_count_up(desk: Desk) -> None:
    for number in (1, 2, 3):
        await desk.ask()
        assert desk.questions[-1].id == number
        desk.questions[-1].reject()


async def test_when_a_question_expires(desk: Desk) -> None:
    raised = desk.clock.now
    await desk.ask()
    await desk.clock.advance(3)
    await desk.ask()  # its time does not begin anew
    [question] = desk.questions
    assert question.expires == raised + desk.config.firewall_timeout
    await desk.clock.advance(question.expires - desk.clock.now - 0.25)
    assert question.outcome is None
    await desk.clock.advance(0.25)
    assert question.outcome == "timed out"


# -- what is told --------------------------------------------------------------------------------------


async def withdraw(desk: Desk) -> None:
    desk.requests.pop().cancel()


async def wait_in_vain(desk: Desk) -> None:
    await desk.clock.advance(desk.config.firewall_timeout)


async def crowd_out(desk: Desk) -> None:
    for stranger in STRANGERS[:2]:
        await desk.ask(stranger, way=OUT)


ENDS: list[tuple[Callable[[Desk], Any], str, str]] = [
    (lambda desk: desk.questions[0].approve(), "approved", "handler"),
    (lambda desk: desk.questions[0].reject(), "rejected", "handler"),
    (lambda desk: desk.questions[0].set_rule(REJECT), "rule set", "handler"),
    (lambda desk: desk.questions[0].set_rule(PINGS), "rule set", "handler"),
    (lambda desk: desk.firewall.set_peer_rule(ALICE, ALLOW, IN), "reconsidered", "rule"),
    (wait_in_vain, "timed out", "firewall"),
    (withdraw, "withdrawn", "firewall"),
    (crowd_out, "crowded out", "firewall"),
    (lambda desk: desk.approvals.remove_handler(desk.questions.append), "unanswered", "firewall"),
    (lambda desk: desk.approvals.close(), "closed", "firewall"),
]


@pytest.mark.parametrize(("end", "outcome", "by"), ENDS, ids=[outcome for _, outcome, _ in ENDS])
@pytest.mark.parametrize("rules", [NO_RULES, FirewallRules.ask_all()], ids=["peer", "request"])
async def test_a_question_that_waits_is_told_and_so_is_its_end(
    make_desk: MakeDesk, rules: FirewallRules, end: Callable[[Desk], Any], outcome: Outcome, by: str
) -> None:
    desk = make_desk(rules, max_firewall_questions=2).listen()
    kind: QuestionKind = "peer" if rules is NO_RULES else "request"
    await desk.ask(kind="Ping")
    opened = FirewallRequestOpened(1, ALICE, None, IN, "Ping", kind)
    assert desk.events == [opened]
    if isinstance(ending := end(desk), Coroutine):
        await ending
    await desk.clock.settle()
    assert [event for event in desk.events if getattr(event, "id", 0) == 1] == [
        opened,
        FirewallRequestEnded(1, ALICE, None, IN, "Ping", kind, outcome, by, None),
    ]
    assert desk.questions[0].outcome == outcome
    assert "view" not in repr(desk.events)


async def test_a_rule_that_is_an_answer_has_others_reconsidered(make_desk: MakeDesk) -> None:
    desk = make_desk(FirewallRules.ask_all()).listen()
    await desk.ask()
    await desk.ask()
    desk.questions[1].set_rule(ALLOW)
    desk.firewall.set_peer_rule(BOB, REJECT, IN)
    assert [question.outcome for question in desk.questions] == ["reconsidered", "rule set"]


async def test_the_answer_under_a_policy_that_asks_on_is_a_rule_too(make_desk: MakeDesk) -> None:
    desk = make_desk().listen()
    desk.firewall.set_policy(FirewallRules(outbound=None, peers={ALICE: (ASK, None)}))
    await desk.ask()
    desk.questions[0].set_rule(ASK)
    assert desk.questions[0].outcome is None
    desk.questions[0].set_rule(ALLOW)
    assert desk.questions[0].outcome == "rule set"


@pytest.mark.parametrize("waiting", [1, 2])
async def test_one_that_leaves_others_waiting_is_not_told(desk: Desk, waiting: int) -> None:
    for _ in range(waiting):
        await desk.ask()
    await withdraw(desk)
    await desk.clock.settle()
    assert len(desk.events) == (2 if waiting == 1 else 1)


@pytest.mark.parametrize(
    "handler",
    [None, FirewallRequest.approve, lambda question: question.set_rule(ALLOW), lambda _: 1 / 0],
    ids=["nobody", "answers", "sets a rule", "fails"],
)
async def test_what_never_waits_is_not_told(make_desk: MakeDesk, handler: Callable[[FirewallRequest], Any]) -> None:
    """It would push everything else out of a reader's buffer."""
    desk = make_desk()
    if handler is not None:
        desk.approvals.add_handler(handler)
    await desk.ask()
    assert None not in desk.outcomes
    assert not desk.events
