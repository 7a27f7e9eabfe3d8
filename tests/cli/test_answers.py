"""What people and programs may answer: in which words, for what, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from conftest import MakePeer
from support.approvers import Approvers
from support.waiting import until

from stronghold_p2p import Config, Direction, FirewallDecision, FirewallRules, NoResponse, PeerId, Rule, StrongholdP2p
from stronghold_p2p.cli import output
from stronghold_p2p.cli.ask.asker import Asker
from stronghold_p2p.cli.ask.person import Person
from stronghold_p2p.cli.ask.program import Program
from stronghold_p2p.cli.ask.shown import MAX_TYPE
from stronghold_p2p.firewall.rules import Subject

Peer = StrongholdP2p[Any, Any]
IN = Direction.INBOUND
ALLOW, ASK = Rule.ALLOW_ALL, Rule.ASK
ALICE = PeerId.from_bytes(b"\x12\x20" + bytes(32))


class Desk:
    """Somebody's lines and what is shown to them, and requests that end up there."""

    def __init__(self, bob: Peer) -> None:
        self.bob = bob
        self.ended = False
        self._said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._written: asyncio.Queue[Any] = asyncio.Queue()

    async def read(self) -> bytes | None:
        return await self._said.get()

    def discard(self) -> None: ...

    def close(self) -> None:
        self.ended = True
        self._said.put_nowait(None)

    def say(self, line: str) -> None:
        self._said.put_nowait(line.encode())

    def answer(self, **answer: Any) -> None:
        self._said.put_nowait(msgspec.json.encode({"id": 1, **answer}))

    def show(self, what: Any) -> None:
        self._written.put_nowait(what)

    async def shown(self) -> Any:
        async with asyncio.timeout(5):
            return await self._written.get()

    def ask(self, kind: str | None = "Sign", peer: PeerId = ALICE) -> asyncio.Task[bool]:
        async def decide() -> bool:
            return (await self.bob._parts.approvals.decide(Subject(peer, IN, kind, "view"), None, 1)).allowed

        return asyncio.create_task(decide())

    def rule(self) -> Rule | None:
        """What holds for Alice by now."""
        return self.bob._parts.firewall.peer_rule(ALICE, IN)


@pytest.fixture
async def desk(make_peer: MakePeer) -> Desk:
    return Desk(await make_peer(firewall=FirewallRules(inbound=ASK), config=Config(firewall_timeout=60)))


async def _run(asker: Asker) -> AsyncIterator[None]:
    running = asyncio.create_task(asker.run())
    yield
    running.cancel()
    await asyncio.wait([running])


@pytest.fixture
async def person(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(output, "note", desk.show)
    async for _ in _run(Person(desk.bob, desk, quiet=30, ban=desk.bob.ban_peer)):
        yield


@pytest.fixture
async def program(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(output, "result", desk.show)
    async for _ in _run(Program(desk.bob, desk, ban=desk.bob.ban_peer)):
        yield


# -- a person ------------------------------------------------------------------------------------------

SIGN = Rule.restricted(allow={"Sign"}, otherwise="ask")


@pytest.mark.parametrize(
    ("words", "told", "rule"),
    [
        (("y", "yes", "Yes ", "o", "once", "ok", "allow"), "allowed, this once", None),
        (("t", "TYPE"), "allowed, and so is Sign from this peer always", SIGN),
        (("e", "everything"), "allowed, and so is everything from this peer always", ALLOW),
        (("n", "no", "r", "reject", "deny"), "rejected", None),
        (("b", "ban"), "rejected, and the peer is banned", None),
    ],
)
@pytest.mark.usefixtures("person")
async def test_the_words_that_people_type(desk: Desk, words: tuple[str, ...], told: str, rule: Rule | None) -> None:
    for word in words:
        request = desk.ask()
        await desk.shown()
        desk.say(word)
        assert await desk.shown() == told
        assert await request is told.startswith("allowed")
        assert desk.rule() == rule
        desk.bob.remove_peer_rule(ALICE)


@pytest.mark.parametrize("word", ["h", "hour"])
@pytest.mark.usefixtures("person")
async def test_this_type_for_an_hour(desk: Desk, word: str) -> None:
    request = desk.ask()
    await desk.shown()
    desk.say(word)
    assert await desk.shown() == "allowed, and so is Sign from this peer for an hour"
    assert await request
    rule = desk.rule()
    assert rule is not None
    assert rule.until is not None
    assert (rule.types, rule.then) == (SIGN.types, None)
    assert timedelta(seconds=3540) < rule.until - datetime.now(UTC) <= timedelta(seconds=3600)
    assert await desk.ask()


@pytest.mark.parametrize("word", ["always", "a", "yes always", "y e s", "h 2", "", "x" * 1000])
@pytest.mark.usefixtures("person")
async def test_what_leaves_open_what_is_meant_is_no_answer(desk: Desk, word: str) -> None:
    request = desk.ask()
    choices = (await desk.shown()).splitlines()[-1]
    desk.say(word)
    assert await desk.shown() == (f"please answer {choices}" if word else choices)
    assert not request.done()
    desk.say("no")
    assert await request is False


@pytest.mark.usefixtures("person")
async def test_why_something_is_rejected(desk: Desk) -> None:
    events = desk.bob.events()
    desk.ask()
    await desk.shown()
    desk.say("no, not at \x1b night")
    assert await desk.shown() == "rejected"
    async for event in events:
        if (reason := getattr(event, "reason", None)) is not None:
            assert reason == "not at \x1b night"
            break


@pytest.mark.usefixtures("person")
async def test_a_type_that_is_not_seen_whole_is_not_allowed_by_name(desk: Desk) -> None:
    for kind in (None, "x" * (MAX_TYPE + 1), "\u202e" * MAX_TYPE, "x" * 1_000_000):
        request = desk.ask(kind)
        shown = await desk.shown()
        assert "t(ype)" not in shown.splitlines()[-1]
        assert len(shown) < 1000
        assert shown.replace("\n", "").isprintable()
        desk.say("t")
        assert (await desk.shown()).startswith("please answer")
        desk.say("y")
        assert await request
        await desk.shown()


@pytest.mark.usefixtures("person")
async def test_a_type_that_just_fits(desk: Desk) -> None:
    for kind in ("x" * MAX_TYPE, "x" * (MAX_TYPE - 1) + "…"):
        request = desk.ask(kind)
        assert "t(ype)" in await desk.shown()
        desk.say("t")
        assert await request
        await desk.shown()


@pytest.mark.usefixtures("person")
async def test_several_must_agree(desk: Desk) -> None:
    desk.bob._parts.approvals.quorum = Approvers(need=2)
    request = desk.ask()
    shown = (await desk.shown()).splitlines()
    assert "  approval   2 approvers must agree, none has: a yes from here does not count" in shown
    assert shown[-1] == "n(o), b(an) the peer?"
    for word in ("y", "t", "h", "e"):
        desk.say(word)
        assert await desk.shown() == f"please answer {shown[-1]}"
    assert not request.done()
    desk.say("n")
    assert await request is False


@pytest.mark.usefixtures("person")
async def test_several_must_agree_by_now(desk: Desk) -> None:
    """The policy was loaded while the question was open."""
    request = desk.ask()
    assert "y(es)" in await desk.shown()
    desk.bob._parts.approvals.quorum = Approvers(need=2)
    desk.say("y")
    assert await desk.shown() == "please answer n(o), b(an) the peer?"
    assert not request.done()
    desk.say("n")
    assert await request is False


@pytest.mark.usefixtures("person")
async def test_a_rule_that_would_change_too_often(desk: Desk) -> None:
    rule = ASK
    for number in range(64):
        rule = rule.lend(str(number), desk.bob._parts.firewall.in_seconds(1000 - number))
    desk.bob.set_peer_rule(ALICE, rule, direction=IN)
    request = desk.ask("last")
    await desk.shown()
    desk.say("h")
    assert (await desk.shown()).startswith("the rule would change at more than 64 dates")
    assert not request.done()
    desk.say("y")
    assert await request


# -- a program -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("program")
async def test_types_for_some_time(desk: Desk) -> None:
    request = desk.ask()
    assert (await desk.shown())["type"] == "Sign"
    desk.answer(answer="allow", types=["Sign", "Read"], **{"for": 3600})
    assert await request
    assert (await desk.shown())["reason"] == "rule set"
    rule = desk.rule()
    assert rule is not None
    assert rule.until is not None
    assert rule.types == Rule.restricted(allow={"Sign", "Read"}, otherwise="ask").types
    assert await desk.ask("Read")


@pytest.mark.usefixtures("program")
async def test_always_is_everything(desk: Desk) -> None:
    request = desk.ask()
    await desk.shown()
    desk.answer(answer="always")
    assert await request
    assert desk.rule() == ALLOW


@pytest.mark.usefixtures("program")
async def test_everything_for_some_time(desk: Desk) -> None:
    request = desk.ask()
    await desk.shown()
    desk.answer(answer="always", **{"for": 60})
    assert await request
    rule = desk.rule()
    assert rule is not None
    assert rule.until is not None
    assert rule.replace(until=None) == ALLOW


@pytest.mark.usefixtures("program")
async def test_the_reason_of_a_rejection(desk: Desk) -> None:
    request = desk.ask()
    await desk.shown()
    desk.answer(answer="reject", reason="not \u202e today")
    assert await request is False
    assert await desk.shown() == {
        "event": "ended",
        "id": 1,
        "reason": "rejected",
        "by": "person",
        "why": "not \\u202e today",
    }


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"answer": "allow", "types": ["Read"]}, '"types" must have the type of question 1, Sign'),
        ({"answer": "allow", "types": []}, '"types" must have the type of question 1, Sign'),
        ({"answer": "allow", "types": "Sign"}, "malformed answer"),
        ({"answer": "always", "types": ["Sign"]}, '"types" goes with "allow", not with "always"'),
        ({"answer": "allow", "for": 60}, '"for" goes with "allow" and its "types", or with "always"'),
        ({"answer": "reject", "for": 60}, '"for" goes with "allow" and its "types", or with "always"'),
        ({"answer": "allow", "types": ["Sign"], "for": 0}, "must hold for more than 0 s"),
        ({"answer": "always", "for": 1e300}, "ends too late"),
        ({"answer": "allow", "reason": "why not"}, '"reason" goes with "reject" or "ban", not with "allow"'),
    ],
)
@pytest.mark.usefixtures("program")
async def test_what_is_no_answer_changes_nothing(desk: Desk, answer: dict[str, Any], message: str) -> None:
    request = desk.ask()
    await desk.shown()
    desk.answer(**answer)
    error = await desk.shown()
    assert error["error"] == "AnswerError"
    assert message in error["message"]
    assert not request.done()
    assert desk.rule() is None
    desk.answer(answer="allow")
    assert await request
    assert (await desk.shown())["reason"] == "approved"


@pytest.mark.usefixtures("program")
async def test_a_type_that_no_request_has(desk: Desk) -> None:
    desk.bob._parts.firewall.limit_types(frozenset({"Sign"}))
    request = desk.ask()
    await desk.shown()
    desk.answer(answer="allow", types=["Sign", "Sing"])
    assert "did you mean 'Sign'" in (await desk.shown())["message"]
    desk.answer(answer="allow", types=["Sign"])
    assert await request


@pytest.mark.usefixtures("program")
async def test_no_program_is_several(desk: Desk) -> None:
    desk.bob._parts.approvals.quorum = Approvers(need=2)
    request = desk.ask()
    assert (await desk.shown())["need"] == 2
    desk.answer(answer="always")
    assert await desk.shown() == {
        "error": "AnswerError",
        "message": "question 1 needs 2 approvers, of which this is none",
    }
    assert not request.done()
    desk.answer(answer="reject")
    assert await request is False


@pytest.mark.usefixtures("program")
async def test_who_answers_is_told_in_the_audit(desk: Desk, make_peer: MakePeer) -> None:
    desk.bob.on_request(lambda request: request.body)
    address = await desk.bob.listen()
    events = desk.bob.events(decisions=True)
    alice = await make_peer()
    asking = asyncio.create_task(alice.send_request(address, {"type": "Sign"}))
    question = await desk.shown()
    assert question["peer"] == str(alice.peer_id)
    desk.answer(answer="reject", reason="never")
    with pytest.raises(NoResponse):
        await asking
    async for event in events:
        if isinstance(event, FirewallDecision):
            assert (event.by, event.how, event.reason) == ("person", "rejected", "never")
            break


@pytest.mark.usefixtures("program")
async def test_two_answers_at_once(desk: Desk) -> None:
    request = desk.ask()
    await desk.shown()
    desk.answer(answer="allow", types=["Read"])
    desk.answer(answer="allow")
    desk.answer(answer="reject")
    await until(request.done)
    assert await request


# -- names ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("person")
async def test_a_person_sees_the_name_and_both_ends_of_the_id(desk: Desk) -> None:
    desk.bob.set_name(ALICE, "alice")
    request = desk.ask()
    start, end = str(ALICE)[:7], str(ALICE)[-6:]
    assert f"  peer       alice ({start}…{end})\n" in await desk.shown()
    desk.say("y")
    assert await request


@pytest.mark.usefixtures("program")
async def test_a_program_gets_the_name_and_the_id(desk: Desk) -> None:
    desk.bob.set_name(ALICE, "alice")
    request = desk.ask()
    shown = await desk.shown()
    assert (shown["name"], shown["peer"]) == ("alice", str(ALICE))
    desk.answer(answer="allow")
    assert await request
