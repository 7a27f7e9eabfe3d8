"""The gate: what the firewall sees of a request, what it costs, and what is told of every decision."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import FrameType, SimpleNamespace
from typing import Any

import msgspec
import pytest
from support.clock import Clock
from support.compiled import COMPILED, replaces_parts
from support.decisions import decision

from stronghold_p2p import (
    Config,
    Direction,
    FirewallDecision,
    FirewallRequest,
    FirewallRules,
    Keypair,
    Multiaddr,
    PeerId,
    Rule,
)
from stronghold_p2p.event_hub import EventHub, EventReader
from stronghold_p2p.firewall import gate as gate_module
from stronghold_p2p.firewall.approvals import Approvals
from stronghold_p2p.firewall.gate import Gate
from stronghold_p2p.firewall.rules import Firewall
from stronghold_p2p.requests.codec import CodecName, make_codec
from stronghold_p2p.resources.refusals import Refusals

ALICE = Keypair.generate().peer_id
IN, OUT = Direction.INBOUND, Direction.OUTBOUND
ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK
PINGS = Rule.restricted(allow={"Ping"})
PREDICATE = Rule.restricted(lambda peer, direction, view: True)
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")


class Ping(msgspec.Struct): ...


class Read(msgspec.Struct):
    path: str


class Tagged(msgspec.Struct, tag="ping"): ...


class Other(msgspec.Struct, tag="other"): ...


class Hub(EventHub):
    """Keeps the decisions that it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[FirewallDecision] = []

    def emit_decision(self, decision: FirewallDecision, view: Any = None) -> None:
        self.told.append(decision)
        super().emit_decision(decision, view)


class Guard:
    """A gate with all that belongs to it."""

    def __init__(
        self,
        rule: Rule | None,
        *,
        view: Callable[[Any], Any] | None = None,
        type_: Any = None,
        codec: CodecName = "json",
        listen: bool = True,
    ) -> None:
        self.firewall = Firewall(FirewallRules(inbound=rule, outbound=rule))
        self.hub = Hub()
        self.approvals = Approvals(self.firewall, Config(), self.hub.emit, Refusals(self.hub.emit))
        self.firewall.changed = self.approvals.rules_changed
        self.questions: list[FirewallRequest] = []
        self.approvals.add_handler(self.questions.append)
        self.told = self.hub.told
        self.reader = self.hub.subscribe(EventReader(64, "drop_newest", decisions=True)) if listen else None
        self.codec: Any = make_codec(codec, type_, max_size=1_000_000)
        self.gate = Gate(self.firewall, self.approvals, view, self.hub)

    def decide(self, body: Any, way: Direction = IN) -> Any:
        return self.gate.decide(ALICE, way, self.codec, body, b"1", ADDRESS)


def told(kind: str | None, rule: Rule | None = None, *, allowed: bool, **others: Any) -> list[FirewallDecision]:
    """The one decision about Alice."""
    return [decision(ALICE, kind, rule, allowed=allowed, **({"address": ADDRESS} | others))]


# -- what is told --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [IN, OUT])
@pytest.mark.parametrize(
    ("rule", "allowed"), [(ALLOW, True), (REJECT, False), (PINGS, True), (Rule.restricted(allow={"Read"}), False)]
)
def test_a_decision_by_rule(rule: Rule, allowed: bool, way: Direction) -> None:
    guard = Guard(rule)
    assert guard.decide({"type": "Ping", "content": "secret"}, way) is allowed
    assert guard.told == told("Ping", rule, allowed=allowed, direction=way)
    assert "secret" not in repr(guard.told)


def test_the_layer_is_told() -> None:
    guard = Guard(ALLOW)
    guard.firewall.set_policy(FirewallRules(inbound=PINGS, outbound=None))
    guard.decide({})
    guard.firewall.set_peer_rule(ALICE, REJECT, IN)
    guard.decide({})
    guard.firewall.set_policy(FirewallRules(peers={ALICE: (ALLOW, None)}))
    guard.decide({})
    assert [(decision.layer, decision.allowed) for decision in guard.told] == [
        ("policy default", False),
        ("peer", False),
        ("policy peer", True),
    ]


def test_a_request_that_is_refused_unread() -> None:
    guard = Guard(REJECT)
    assert guard.gate.rejects_all(ALICE, IN)
    guard.gate.refuse(ALICE, IN, ADDRESS)
    assert guard.told == told(None, REJECT, allowed=False)


@pytest.mark.parametrize("rule", [None, ASK, ALLOW, PINGS])
def test_only_reject_all_closes(rule: Rule | None) -> None:
    assert not Guard(rule).gate.rejects_all(ALICE, IN)


def test_a_rule_that_has_ended_closes_no_more_and_opens_no_more() -> None:
    guard = Guard(REJECT)
    for rule in ALLOW, PINGS:
        guard.firewall.set_peer_rule(ALICE, rule.replace(until=datetime.now(UTC) - timedelta(seconds=1)), OUT)
        assert guard.gate.rejects_all(ALICE, OUT)
    guard.firewall.set_default(ALLOW, IN)
    guard.firewall.set_peer_rule(ALICE, REJECT.replace(until=datetime.now(UTC) - timedelta(seconds=1)), IN)
    assert not guard.gate.rejects_all(ALICE, IN)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time())
    monkeypatch.setattr(loop, "time", clock)
    return clock


async def start(guard: Guard, clock: Clock, body: Any) -> asyncio.Task[bool]:
    async def decide() -> bool:
        return bool(await guard.decide(body))

    deciding = asyncio.create_task(decide())
    await clock.settle()
    return deciding


ANSWERS: list[tuple[Any, bool, Rule | None, str]] = [
    (FirewallRequest.approve, True, None, "none"),
    (FirewallRequest.reject, False, None, "none"),
    (lambda question: question.set_rule(PINGS), True, PINGS, "peer"),
    (lambda question: question.set_rule(REJECT), False, REJECT, "peer"),
]


@pytest.mark.parametrize(("answer", "allowed", "rule", "layer"), ANSWERS)
async def test_a_decision_by_an_answer(clock: Clock, answer: Any, allowed: bool, rule: Rule | None, layer: str) -> None:
    guard = Guard(None)
    deciding = await start(guard, clock, {"type": "Ping"})
    await clock.advance(1.5)
    [question] = guard.questions
    assert (question.address, question.type, question.view) == (ADDRESS, "Ping", {"type": "Ping"})
    assert guard.told == []
    answer(question)
    assert await deciding is allowed
    assert guard.told == told("Ping", rule, allowed=allowed, layer=layer, by="handler", waited=1.5)


async def test_the_rule_that_is_told_is_the_one_that_decided(clock: Clock) -> None:
    guard = Guard(ASK)
    deciding = await start(guard, clock, {})
    guard.questions[0].approve()
    guard.firewall.set_peer_rule(ALICE, REJECT, IN)
    assert await deciding
    assert guard.told == told(None, ASK, allowed=True, by="handler")


async def test_no_answer_is_told_too(clock: Clock) -> None:
    guard = Guard(None)
    deciding = await start(guard, clock, {})
    await clock.advance(10)
    assert not await deciding
    assert guard.told == told(None, allowed=False, by="firewall", how="timeout", waited=10.0)


async def test_a_request_that_goes_away_while_it_waits_is_told(clock: Clock) -> None:
    guard = Guard(None)
    deciding = await start(guard, clock, {})
    await clock.advance(1)
    deciding.cancel()
    await clock.settle()
    assert guard.told == told(None, allowed=False, by="firewall", how="withdrawn", waited=1.0)


# -- what the firewall sees ----------------------------------------------------------------------------


async def test_rules_and_questions_see_the_view(clock: Clock) -> None:
    seen: list[Any] = []

    def predicate(peer: Any, direction: Any, view: Any) -> bool:
        seen.append(view)
        return True

    guard = Guard(Rule.restricted(predicate), view=lambda body: sorted(body))
    body = {"type": "Ping", "content": "secret"}
    assert guard.decide(body) is True
    assert seen == [["content", "type"]]
    guard.firewall.set_default(ASK, IN)
    deciding = await start(guard, clock, body)
    [question] = guard.questions
    assert (question.type, question.view) == ("Ping", ["content", "type"])
    assert "secret" not in repr(question)
    question.approve()
    assert await deciding


@pytest.mark.parametrize("rule", [None, ASK, PREDICATE], ids=["none", "ask", "predicate"])
def test_a_view_that_raises_rejects(rule: Rule | None, caplog: pytest.LogCaptureFixture) -> None:
    def view(body: Any) -> Any:
        raise LookupError("broken")

    guard = Guard(rule, view=view)
    with caplog.at_level(logging.ERROR):
        assert guard.decide({"type": "Ping", "content": "secret"}) is False
    assert "broken" in caplog.text
    assert "secret" not in caplog.text
    assert guard.told == told("Ping", rule, allowed=False, by="firewall")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"type": "Ping"}, "Ping"),
        ({"type": "Ping", "Read": {"path": "x"}}, "Ping"),
        ({"type": ""}, ""),
        ({"type": ["Ping"]}, None),
        ({"type": {"type": "Ping"}}, None),
        ({"type": None}, None),
        ({"type": 1}, None),
        ({"Type": "Ping"}, None),
        ({"Ping": {}}, None),
        ([{"type": "Ping"}], None),
        ("Ping", None),
        (None, None),
    ],
)
def test_the_type_of_what_is_untyped(body: Any, name: str | None) -> None:
    guard = Guard(PINGS)
    decoded = guard.codec.decode(guard.codec.encode(body))
    assert guard.decide(decoded) is (name == "Ping")
    assert [decision.type for decision in guard.told] == [name]


@pytest.mark.parametrize("message", [b'{"type":"Ping","type":"Read"}', b'{"type":"Read","\\u0074ype":"Read"}'])
def test_a_key_that_comes_twice_is_the_same_to_all(message: bytes) -> None:
    """Firewall and handler see one and the same value: there is no second parser to deceive."""
    guard = Guard(PINGS)
    body = guard.codec.decode(message)
    assert body == {"type": "Read"}
    assert guard.decide(body) is False


@pytest.mark.parametrize(
    ("type_", "message", "name"),
    [
        (Ping | Read, b'"Ping"', "Ping"),
        (Ping | Read, b'{"Read":{"path":"Ping"}}', "Read"),
        (Read, b'{"path":"x","type":"Ping"}', "Read"),
        (Tagged | Other, b'{"type":"ping"}', "Tagged"),
        (str, b'"Ping"', None),
    ],
)
def test_the_type_of_what_is_typed(type_: Any, message: bytes, name: str | None) -> None:
    guard = Guard(Rule.restricted(allow={"Ping"}), type_=type_)
    assert guard.decide(guard.codec.decode(message)) is (name == "Ping")
    assert [decision.type for decision in guard.told] == [name]


def test_raw_requests_have_no_type() -> None:
    guard = Guard(PINGS, codec="raw")
    assert guard.decide(b'{"type":"Ping"}') is False
    assert guard.told[0].type is None


def test_a_view_may_be_anything() -> None:
    guard = Guard(Rule.restricted(lambda peer, direction, view: view == {"un": ["hashable"]}), view=lambda body: body)
    assert guard.decide({"un": ["hashable"]}) is True


# -- what it costs -------------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many of each were made."""
    made = {"Subject": 0, "FirewallDecision": 0, "types": 0, "views": 0}

    def count(name: str) -> None:
        original = getattr(gate_module, name)

        def make(*arguments: Any, **keywords: Any) -> Any:
            made[name] += 1
            return original(*arguments, **keywords)

        monkeypatch.setattr(gate_module, name, make)

    count("Subject")
    count("FirewallDecision")
    return made


def count_in(guard: Guard, made: dict[str, int]) -> None:
    def type_name(body: Any) -> str | None:
        made["types"] += 1
        return "Ping"

    def view(body: Any) -> Any:
        made["views"] += 1
        return body

    guard.codec = SimpleNamespace(type_name=type_name, weight=len)
    guard.gate = Gate(guard.firewall, guard.approvals, view, guard.hub)


@replaces_parts
@pytest.mark.parametrize(
    ("rule", "listen", "expected"),
    [
        (ALLOW, False, (0, 0, 0, 0)),
        (ALLOW, True, (0, 1, 1, 0)),
        (PINGS, False, (0, 0, 1, 0)),
        (PINGS, True, (0, 1, 1, 0)),
        (PREDICATE, False, (1, 0, 1, 1)),
        (PREDICATE, True, (1, 1, 1, 1)),
    ],
)
def test_what_is_made_for_one_decision(
    made: dict[str, int], rule: Rule, listen: bool, expected: tuple[int, ...]
) -> None:
    guard = Guard(rule, listen=listen)
    count_in(guard, made)
    assert guard.decide({"type": "Ping"}) is True
    assert tuple(made.values()) == expected


@pytest.mark.skipif(COMPILED, reason="compiled code tells of no lines")
@pytest.mark.parametrize("direction", [IN, OUT])
def test_ten_thousand_peer_rules_are_not_searched(direction: Direction) -> None:
    """A decision takes as many steps as with none."""
    guard = Guard(ALLOW)
    guard.decide({}, direction)  # fills what is kept ready
    few = lines_run(lambda: guard.decide({}, direction))
    peers = [PeerId(b"\x12\x20" + number.to_bytes(32)) for number in range(10_000)]
    guard.firewall.set_policy(FirewallRules(inbound=None, outbound=None, peers=dict.fromkeys(peers[:5000], (ASK, ASK))))
    for peer in peers[5000:]:
        guard.firewall.set_peer_rule(peer, REJECT, Direction.BOTH)
    assert lines_run(lambda: guard.decide({}, direction)) == few
    assert [decision.allowed for decision in guard.told] == [True] * 3


def lines_run(act: Callable[[], object]) -> int:
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    assert lines
    return lines
