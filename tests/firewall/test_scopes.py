"""Answers that hold for more than one request: for a type or for everything, for some time or for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stronghold_p2p import Direction, FirewallRequest, FirewallRules, Rule

from .conftest import ALICE, NO_RULES, Desk, MakeDesk

IN = Direction.INBOUND
ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK
SIGN_OR_PING = Rule.restricted(allow={"Ping"}, ask={"Sign"}, reject={"Wipe"})


async def says(desk: Desk, *kinds: str | None) -> list[bool | None]:
    """What becomes of requests of these types; None: a question."""
    requests = [await desk.ask(kind=kind) for kind in kinds]
    outcomes = [request.result() if request.done() else None for request in requests]
    for question in desk.questions:
        question.reject()
    await desk.clock.settle()
    return outcomes


@pytest.mark.parametrize("default", [None, ASK, SIGN_OR_PING], ids=repr)
async def test_a_type_for_an_hour(make_desk: MakeDesk, default: Rule | None) -> None:
    desk = make_desk(FirewallRules(inbound=default)).listen()
    before = await says(desk, "Read", "Wipe", None)
    request = await desk.ask(kind="Sign")
    assert desk.questions[-1].approve_type(3600)
    await desk.clock.settle()
    assert request.result()
    assert await says(desk, "Sign", "Read", "Wipe", None) == [True, *before]
    desk.clock.now += 3599
    assert await says(desk, "Sign") == [True]
    desk.clock.now += 1
    assert await says(desk, "Sign", "Read", "Wipe", None) == [None, *before]
    assert desk.firewall.rules.peers == {}


async def test_a_type_for_an_hour_goes_back_to_the_peers_own_rule(make_desk: MakeDesk) -> None:
    desk = make_desk(FirewallRules(inbound=REJECT, peers={ALICE: (SIGN_OR_PING, None)})).listen()
    await desk.ask(kind="Sign")
    assert desk.questions[0].approve_type(60)
    assert await says(desk, "Sign", "Ping", "Wipe") == [True, True, False]
    desk.clock.now += 60
    assert await says(desk, "Sign", "Ping", "Wipe") == [None, True, False]
    assert desk.firewall.rules.peers == {ALICE: (SIGN_OR_PING, None)}


async def test_two_types_for_different_times(make_desk: MakeDesk) -> None:
    desk = make_desk(FirewallRules.ask_all()).listen()
    for kind, seconds in (("Sign", 60), ("Read", 30)):
        await desk.ask(kind=kind)
        assert desk.questions[-1].approve_type(seconds)
    assert await says(desk, "Sign", "Read") == [True, True]
    desk.clock.now += 30
    assert await says(desk, "Sign", "Read") == [True, None]
    desk.clock.now += 30
    assert await says(desk, "Sign", "Read") == [None, None]


@pytest.mark.parametrize("own", [None, SIGN_OR_PING], ids=repr)
async def test_several_types_at_once(make_desk: MakeDesk, own: Rule | None) -> None:
    desk = make_desk(FirewallRules(inbound=ASK, peers={ALICE: (own, None)})).listen()
    await desk.ask(kind="Sign")
    assert desk.questions[0].approve_type(60, also=["Read"])
    assert await says(desk, "Sign", "Read") == [True, True]
    desk.clock.now += 60
    assert await says(desk, "Sign") == [None]


async def test_everything_for_an_hour(make_desk: MakeDesk) -> None:
    desk = make_desk(FirewallRules(peers={ALICE: (SIGN_OR_PING, None)})).listen()
    await desk.ask(kind="Sign")
    assert desk.questions[0].approve_all(3600)
    assert await says(desk, "Sign", "Wipe", None) == [True, True, True]
    desk.clock.now += 3600
    assert await says(desk, "Sign", "Wipe", None) == [None, False, False]


async def test_a_rule_for_an_hour(desk: Desk) -> None:
    await desk.ask(kind="Sign")
    assert desk.questions[0].set_rule(REJECT, for_=3600)
    await desk.clock.settle()
    assert desk.outcomes == [False]
    assert await says(desk, "Ping") == [False]
    desk.clock.now += 3600
    assert await says(desk, "Ping") == [None]


async def test_no_answer_prolongs_a_rule(make_desk: MakeDesk) -> None:
    desk = make_desk(NO_RULES).listen()
    until = desk.firewall.in_seconds(60)
    desk.firewall.set_policy(FirewallRules(inbound=ASK.replace(until=until), outbound=None))
    desk.firewall.set_default(REJECT, IN)
    await desk.ask(kind="Sign")
    assert desk.questions[0].approve_type(3600)
    assert await says(desk, "Sign", "Ping") == [True, None]
    desk.clock.now += 60
    assert await says(desk, "Sign", "Ping") == [False, False]


async def test_a_rule_that_has_ended_is_no_answer(make_desk: MakeDesk) -> None:
    """A policy that asks about the peer leaves the answer to what was set, as far as that still holds."""
    desk = make_desk(NO_RULES).listen()
    desk.firewall.set_policy(FirewallRules(outbound=None, peers={ALICE: (ASK, None)}))
    await desk.ask(kind="Sign")
    past = desk.firewall.in_seconds(1)
    desk.clock.now += 1
    assert desk.questions[0].set_rule(ALLOW.replace(until=past))
    await desk.clock.settle()
    assert desk.outcomes == [None]
    assert desk.questions[0].reject()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize(
    "answer",
    [
        FirewallRequest.approve_type,
        FirewallRequest.approve_all,
        lambda question, seconds: question.set_rule(ALLOW, for_=seconds),
    ],
    ids=["type", "all", "rule"],
)
async def test_an_impossible_time_changes_nothing(
    desk: Desk, answer: Callable[[FirewallRequest, float], Any], seconds: float
) -> None:
    await desk.ask(kind="Sign")
    with pytest.raises(ValueError, match=r"must hold for more than 0 s|ends too late"):
        answer(desk.questions[0], seconds)
    assert desk.questions[0].outcome is None
    assert desk.firewall.rules == NO_RULES


async def test_a_type_that_no_request_has_changes_nothing(make_desk: MakeDesk) -> None:
    desk = make_desk(FirewallRules.ask_all()).listen()
    desk.firewall.limit_types(frozenset({"Sign", "Read"}))
    await desk.ask(kind="Sign")
    with pytest.raises(TypeError, match="did you mean 'Read'"):
        desk.questions[0].approve_type(60, also=["Reed"])
    assert desk.questions[0].outcome is None
    assert desk.firewall.rules.peers == {}
    assert desk.questions[0].approve_type(60, also=["Read"])


async def test_a_type_of_a_remotes_own_making_is_not_kept(desk: Desk) -> None:
    """In untyped JSON it can be as long as a request."""
    await desk.ask(kind="x" * 201)
    with pytest.raises(ValueError, match="over 200 characters"):
        desk.questions[0].approve_type()
    assert len(repr(desk.questions[0])) < 400
    assert desk.questions[0].approve()
    await desk.ask(kind="x" * 200)
    assert desk.questions[1].approve_type()


async def test_more_ends_than_a_rule_may_have(make_desk: MakeDesk) -> None:
    desk = make_desk(FirewallRules.ask_all()).listen()
    for number in range(64):
        await desk.ask(kind=str(number))
        assert desk.questions[-1].approve_type(1000 - number)
    await desk.ask(kind="64")
    with pytest.raises(ValueError, match="more than 64 dates"):
        desk.questions[-1].approve_type(10)
    assert desk.questions[-1].approve()
