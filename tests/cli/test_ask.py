"""Questions of the firewall, put to a person and to a program at stdin."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from conftest import MakePeer
from support.clock import Clock
from support.waiting import begun, introduced, settled, until

from stronghold_p2p import (
    Config,
    Direction,
    FirewallRequest,
    FirewallRules,
    NoResponse,
    NotPermitted,
    PeerId,
    Rule,
)
from stronghold_p2p.cli import output
from stronghold_p2p.cli.ask.asked import Asked
from stronghold_p2p.cli.ask.asker import Asker, LineSource
from stronghold_p2p.cli.ask.person import Person
from stronghold_p2p.cli.ask.program import Program
from stronghold_p2p.cli.ask.shown import MAX_TYPE, MAX_VIEW
from stronghold_p2p.cli.stdin import MAX_LINE, Lines
from stronghold_p2p.identity import Keypair

from .conftest import WAIT, Cli, Peer, Terminal, asked, failed, process, send, terminal

P = TypeVar("P", bound=Person)
Q = TypeVar("Q", bound=Program)
ALICE, *STRANGERS = [PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32)) for number in range(101)]
HERE, THERE = "/ip4/192.0.2.1/tcp/1", "/ip4/198.51.100.1/tcp/1"
"""Addresses of two networks."""


class Console:
    """Stands for stdin and stdout."""

    def __init__(self, write_end: int) -> None:
        self._write_end = write_end
        self._shown: asyncio.Queue[Any] = asyncio.Queue()

    def type(self, text: str) -> None:
        os.write(self._write_end, text.encode())

    def answer(self, number: int, answer: str) -> None:
        self.type(json.dumps({"id": number, "answer": answer}) + "\n")

    def end(self) -> None:
        os.close(self._write_end)
        self._write_end = -1

    def show(self, what: Any, text: str | None = None) -> None:
        self._shown.put_nowait(what)

    async def shown(self) -> Any:
        """What was printed next."""
        return await asyncio.wait_for(self._shown.get(), WAIT)

    def nothing_more(self) -> bool:
        return self._shown.empty()


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    read_end, write_end = os.pipe()
    with open(read_end) as stdin:
        console = Console(write_end)
        monkeypatch.setattr("sys.stdin", stdin)
        for name in ("result", "note", "error"):
            monkeypatch.setattr(output, name, console.show)
        # A person's question must not take the test's own signals.
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        yield console
        with contextlib.suppress(OSError):
            console.end()


@contextlib.asynccontextmanager
async def answering(asker: Asker) -> AsyncIterator[None]:
    running = asyncio.create_task(asker.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


def person(peer: Peer, lines: LineSource, *, kind: type[P] = Person, **others: Any) -> P:  # type: ignore[assignment]
    return kind(peer, lines, quiet=30.0, ban=peer.ban_peer, **others)


def program(peer: Peer, lines: LineSource, *, kind: type[Q] = Program, **others: Any) -> Q:  # type: ignore[assignment]
    return kind(peer, lines, ban=peer.ban_peer, **others)


class Overheard(Program):
    """Has somebody else get at its questions."""

    question: Asked

    async def _put(self, question: Asked) -> None:
        self.question = question
        await super()._put(question)


class OverheardPerson(Person):
    question: Asked

    async def _put(self, question: Asked) -> None:
        self.question = question
        await super()._put(question)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch, bob: Peer) -> Clock:
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time())
    monkeypatch.setattr(loop, "time", clock)
    return clock


def ended(number: int, reason: str, by: str | None = "person", why: str | None = None) -> dict[str, Any]:
    return {"event": "ended", "id": number, "reason": reason, "by": by, "why": why}


def seen_by(bob: Peer) -> list[FirewallRequest]:
    """The questions that are open, and those to come, as whoever looks on sees them."""
    questions: list[FirewallRequest] = []
    bob.on_firewall_request(questions.append)
    return questions


# -- a program -----------------------------------------------------------------------------------------


async def test_a_program_gets_a_line_and_allows(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(program(bob, Lines())):
        for number in (1, 2):  # what is allowed once is asked about again
            request = send(alice, bob, {"type": "Read", "name": "x"})
            question = await console.shown()
            assert question == {
                "event": "firewall",
                "id": number,
                "kind": "request",
                "peer": str(alice.peer_id),
                "name": None,
                "address": str(bob.connections[0].address),
                "relay": None,
                "direction": "inbound",
                "type": "Read",
                "view": '{"type":"Read","name":"x"}',
                "seconds": question["seconds"],
                "waiting": 1,
                "need": 1,
                "agreed": 0,
            }
            assert 0 < question["seconds"] <= Config().firewall_timeout
            console.answer(number, "allow")
            assert await request == {"type": "Read", "name": "x"}
            assert await console.shown() == ended(number, "approved")
    assert console.nothing_more()


async def test_always_keeps_a_rule_for_the_direction(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(program(bob, Lines())):
        request = send(alice, bob, 1)
        await console.shown()
        console.answer(1, "always")
        assert await request == 1
        assert await console.shown() == ended(1, "rule set")
        assert await send(alice, bob, 2) == 2
    assert bob.get_firewall_config().peers == {alice.peer_id: (Rule.ALLOW_ALL, None)}


async def test_a_program_is_asked_about_a_peer(console: Console, alice: Peer, bob: Peer) -> None:
    bob.remove_firewall_default(direction=Direction.INBOUND)
    async with answering(program(bob, Lines())):
        request = send(alice, bob, [])
        question = await console.shown()
        assert (question["kind"], question["type"], question["view"]) == ("peer", None, "[]")
        console.answer(1, "reject")
        assert isinstance(await failed(request), NoResponse)


async def test_a_ban(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(program(bob, Lines())):
        request = send(alice, bob, 1)
        await console.shown()
        console.answer(1, "ban")
        await failed(request)
        assert await console.shown() == ended(1, "rejected")
        await failed(send(alice, bob, 2))
    assert console.nothing_more()
    assert bob.connections == ()


async def test_a_program_rejects_a_network(console: Console, bob: Peer) -> None:
    async with answering(program(bob, Lines())):
        requests = [asked(bob, peer, HERE) for peer in STRANGERS[:3]]
        for _ in requests:
            await console.shown()
        console.answer(2, "reject_network")
        shown = [await console.shown() for _ in requests]
        assert sorted(shown, key=lambda record: record["id"]) == [ended(number, "rejected") for number in (1, 2, 3)]
        assert await asked(bob, STRANGERS[3], HERE) is False
        assert [await request for request in requests] == [False] * 3
    assert console.nothing_more()


async def test_a_program_cannot_reject_the_network_of_who_is_not_connected(
    console: Console, make_peer: MakePeer, bob: Peer
) -> None:
    carol = await make_peer(firewall=FirewallRules(outbound=Rule.ASK))
    async with answering(program(carol, Lines())):
        request = send(carol, bob, 1)
        assert (await console.shown())["address"] is None
        console.answer(1, "reject_network")
        assert (await console.shown())["message"] == (
            'question 1 is about a peer without a connection, whose network is unknown: answer "reject" or "ban"'
        )
        console.answer(1, "reject")
        assert isinstance(await failed(request), NotPermitted)


async def test_answers_come_in_any_order(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(program(bob, Lines())):
        requests = {}
        for body in ("first", "second"):
            request = send(alice, bob, body)
            requests[(await console.shown())["id"]] = request
        console.type('{"id":2,"answer":"allow"}\n{"id":1,"answer":"reject"}\n')
        assert await requests[2] == "second"
        assert isinstance(await failed(requests[1]), NoResponse)


ANSWERS = '; expected {"id":1,"answer":A}, where A is one of "allow", "always", "reject", "reject_network", "ban"'


@pytest.mark.parametrize(
    "line",
    [
        "",
        "allow",
        "1",
        "{}",
        '{"id":1}',
        '{"id":1,"answer":"once"}',
        '{"id":"1","answer":"allow"}',
        '{"id":true,"answer":"allow"}',
        '{"id":1,"answer":"allow","peer":"x"}',
        '{"id":2,"answer":"allow"}',
        '{"id":0,"answer":"allow"}',
        '{"id":1,"answer":"allow"}' + " " * MAX_LINE,
        '{"id":1,"answer":"allow"}' + " " * 20 * MAX_LINE,
        "[" * MAX_LINE,
    ],
)
async def test_a_bad_answer_is_told_and_changes_nothing(console: Console, alice: Peer, bob: Peer, line: str) -> None:
    async with answering(program(bob, Lines())):
        request = send(alice, bob, 1)
        await console.shown()
        typed = asyncio.create_task(asyncio.to_thread(console.type, line + "\n"))  # more than a pipe holds
        error = await console.shown()
        assert error["error"] == "AnswerError"
        assert "malformed" not in error["message"] or error["message"].endswith(ANSWERS)
        await typed
        assert not request.done()
        console.answer(1, "allow")
        assert await request == 1
        assert await console.shown() == ended(1, "approved")
        console.answer(1, "reject")
        assert (await console.shown())["message"] == "question 1 has ended"


async def test_a_program_hears_that_the_requester_has_left(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(program(bob, Lines())):
        await introduced(alice, bob.listeners[0].address)  # else it does not reset what it cancels
        request = send(alice, bob, 1)
        await console.shown()
        request.cancel()
        assert await console.shown() == ended(1, "withdrawn", "firewall")
        console.answer(1, "always")
        assert (await console.shown())["message"] == "question 1 has ended"
    assert not bob.get_firewall_config().peers


async def test_a_program_hears_that_a_rule_decides(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(program(bob, Lines())):
        request = send(alice, bob, 1)
        await console.shown()
        bob.set_peer_rule(alice.peer_id, Rule.ALLOW_ALL)
        assert await request == 1
        assert await console.shown() == ended(1, "reconsidered", "rule")


async def test_a_program_hears_that_the_time_is_up(console: Console, clock: Clock, alice: Peer, bob: Peer) -> None:
    async with answering(program(bob, Lines())):
        request = send(alice, bob, 1)
        await console.shown()
        await clock.advance(Config().firewall_timeout)
        assert await console.shown() == ended(1, "timed out", "firewall")
        assert isinstance(await failed(request), NoResponse)


async def test_a_program_hears_of_an_answer_from_elsewhere(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(overheard := program(bob, Lines(), kind=Overheard)):
        request = send(alice, bob, 1)
        await console.shown()
        overheard.question.approve()
        assert await request == 1
        assert await console.shown() == ended(1, "approved")
    assert console.nothing_more()


async def test_at_the_end_of_stdin_nobody_answers(
    console: Console, alice: Peer, bob: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(program(bob, Lines())):
        request = send(alice, bob, 1)
        await console.shown()
        console.type('{"id":1,"answer":"allow"}')  # the last line may lack its end
        console.end()
        assert await request == 1
        assert await console.shown() == ended(1, "approved")
        for body in (2, 3):
            assert isinstance(await failed(send(alice, bob, body)), NoResponse)
    assert console.nothing_more()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_an_open_question_is_rejected_at_the_end_of_stdin(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(program(bob, Lines())):
        request = send(alice, bob, 1)
        await console.shown()
        console.end()
        assert isinstance(await failed(request), NoResponse)
        assert await console.shown() == ended(1, "input ended", "firewall")
    assert console.nothing_more()


# -- a person ------------------------------------------------------------------------------------------


async def test_a_person_sees_one_question_at_a_time(
    console: Console, alice: Peer, bob: Peer, make_peer: MakePeer
) -> None:
    carol = await make_peer()
    async with answering(person(bob, Lines())):
        first = send(alice, bob, {"type": "Read"})
        shown = (await console.shown()).splitlines()
        assert shown[1:] == [
            "question 1: may this request pass?",
            f"  peer       {alice.peer_id}",
            f"  address    {bob.connections[0].address}",
            "  path       directly",
            "  direction  inbound",
            "  type       Read",
            '  request    {"type":"Read"}',
            "  time left  10 s; then it is rejected",
            (
                "y(es) this once, this type for an h(our), this t(ype) always, e(verything) from this peer always, n(o),"
                " no to its whole net(w)ork, b(an) the peer?"
            ),
        ]
        questions = seen_by(bob)
        second, third = send(alice, bob, 2), send(carol, bob, 3)
        await until(lambda: len(questions) == 3)
        console.type("what?\n")
        assert await console.shown() == f"please answer {shown[-1]}"
        console.type("Once\n")
        assert await first == {"type": "Read"}
        assert await console.shown() == "allowed, this once"
        assert "(1 more question waiting)" in await console.shown()
        console.type("r\n")
        assert await console.shown() == "rejected"
        await console.shown()
        console.type("b\n")
        assert await console.shown() == "rejected, and the peer is banned"
        await asyncio.gather(second, third, return_exceptions=True)
    assert console.nothing_more()


async def test_a_crowd_keeps_nobody_waiting(console: Console, bob: Peer) -> None:
    """A hundred identities of one address ask before somebody else: whose turn it is next but one at the latest."""
    async with answering(person(bob, Lines())):
        crowd = [asked(bob, peer, HERE) for peer in STRANGERS]
        await console.shown()
        honest = asked(bob, ALICE, THERE)
        await settled()
        shown = []
        for _ in range(2):
            console.type("r\n")
            assert await console.shown() == "rejected"
            shown.append(await console.shown())
        assert [str(ALICE) in text for text in shown] == [False, True]
        console.type("once\n")
        assert await honest
        assert await console.shown() == "allowed, this once"
        assert "no to its whole net(w)ork" in await console.shown()
        console.type("W\n")
        assert await console.shown() == (
            "rejected with 97 more questions. Requests from 192.0.2.1/32 that no rule decides are rejected for 30 s"
            " without a question; then you are asked again."
        )
        assert [await request for request in crowd] == [False] * 100
        honest = asked(bob, ALICE, THERE)
        assert "ended before" not in await console.shown()
        console.type("network\n")
        assert (await console.shown()).startswith("rejected. Requests from 198.51.100.1/32 that no rule decides are")
    assert console.nothing_more()


async def test_a_person_hears_that_others_need_the_place(console: Console, make_peer: MakePeer) -> None:
    bob = await make_peer(config=Config(max_firewall_questions=4), firewall=FirewallRules(inbound=Rule.ASK))
    async with answering(person(bob, Lines())):
        requests = [asked(bob, peer, HERE) for peer in (ALICE, ALICE, ALICE, STRANGERS[0])]
        for number in (1, 2):
            assert f"question {number}:" in await console.shown()
            console.type("o\n")
            assert await requests[number - 1]
            await console.shown()
        assert "question 4:" in await console.shown()
        requests += [asked(bob, STRANGERS[1], address) for address in (THERE, "/ip6/::1/tcp/1", "/dns/x.example/tcp/1")]
        assert await requests[3] is False
        assert await console.shown() == "question 4 has ended, and is rejected: too many others wait for an answer."
        await console.shown()
    assert await asyncio.gather(*requests) == [True, True, *[False] * 5]


async def test_a_person_cannot_reject_the_network_of_who_is_not_connected(
    console: Console, make_peer: MakePeer, bob: Peer
) -> None:
    carol = await make_peer(firewall=FirewallRules(outbound=Rule.ASK))
    async with answering(person(carol, Lines())):
        request = send(carol, bob, 1)
        choices = (await console.shown()).splitlines()[-1]
        assert choices == "y(es) this once, e(verything) to this peer always, n(o), b(an) the peer?"
        console.type("w\n")
        assert await console.shown() == f"please answer {choices}"
        console.type("r\n")
        assert isinstance(await failed(request), NotPermitted)


async def test_a_person_is_asked_about_a_peer_and_all_that_it_waits_for(
    console: Console, alice: Peer, bob: Peer, make_peer: MakePeer
) -> None:
    bob.remove_firewall_default(direction=Direction.INBOUND)
    carol = await make_peer()
    async with answering(person(bob, Lines())):
        first = send(alice, bob, 1)
        assert "May its request pass?" in await console.shown()
        questions = seen_by(bob)
        others = [send(carol, bob, 2), send(carol, bob, 3)]
        await until(lambda: sum(question.waiting for question in questions) == 3)
        console.type("o\n")
        assert await first == 1
        await console.shown()
        assert "May its 2 requests pass, of which this is the first?" in await console.shown()
        console.type("o\n")
        assert [await request for request in others] == [2, 3]


async def test_everything_answers_the_peers_other_questions(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(person(bob, Lines())):
        first = send(alice, bob, 1)
        await console.shown()
        questions = seen_by(bob)
        second = send(alice, bob, 2)
        await until(lambda: len(questions) == 2)
        console.type("everything\n")
        assert [await first, await second] == [1, 2]
        assert await console.shown() == "allowed, and so is everything from this peer always"
        bob.set_peer_rule(alice.peer_id, Rule.ASK)
        third = send(alice, bob, 3)
        assert "\n1 question ended before being shown\n" in await console.shown()
        console.type("o\n")
        assert await third == 3


QUIET = " Requests without a type from this peer are rejected for 30 s without a question; then you are asked again."


async def test_a_person_hears_that_the_requester_has_left(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(person(bob, Lines())):
        await introduced(alice, bob.listeners[0].address)  # else it does not reset what it cancels
        request = send(alice, bob, 1)
        await console.shown()
        request.cancel()
        assert await console.shown() == "question 1 has ended: the requester left." + QUIET
        assert isinstance(await failed(send(alice, bob, 2)), NoResponse)
    assert console.nothing_more()


async def test_a_person_hears_that_the_time_is_up(console: Console, clock: Clock, alice: Peer, bob: Peer) -> None:
    async with answering(person(bob, Lines())):
        request = send(alice, bob, 1)
        await console.shown()
        await clock.advance(Config().firewall_timeout)
        assert await console.shown() == "question 1 was not answered in time: rejected." + QUIET
        assert isinstance(await failed(request), NoResponse)
        assert isinstance(await failed(send(alice, bob, 2)), NoResponse)
    assert console.nothing_more()


async def test_a_person_hears_that_a_request_of_ours_is_withdrawn(
    console: Console, make_peer: MakePeer, bob: Peer
) -> None:
    carol = await make_peer(firewall=FirewallRules(outbound=Rule.ASK))
    async with answering(person(carol, Lines())):
        for number in (1, 2):  # one's own requests are asked about again at once
            request = send(carol, bob, 1)
            await console.shown()
            request.cancel()
            assert await console.shown() == f"question {number} has ended: the request was withdrawn."


async def test_a_question_that_a_rule_has_answered_is_over(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(person(bob, Lines())):
        request = send(alice, bob, 1)
        await console.shown()
        bob.set_peer_rule(alice.peer_id, Rule.REJECT_ALL)
        assert isinstance(await failed(request), NoResponse)
        console.type("always\n")
        assert await console.shown() == "question 1 has ended: a rule decides it now."
    assert bob.get_firewall_config().peers == {alice.peer_id: (Rule.REJECT_ALL, Rule.REJECT_ALL)}


async def test_a_person_hears_of_an_answer_from_elsewhere(console: Console, alice: Peer, bob: Peer) -> None:
    async with answering(overheard := person(bob, Lines(), kind=OverheardPerson)):
        request = send(alice, bob, 1)
        await console.shown()
        overheard.question.approve()
        assert await request == 1
        assert await console.shown() == "question 1 was answered elsewhere: approved, by person."


async def test_a_person_who_leaves(console: Console, alice: Peer, bob: Peer, caplog: pytest.LogCaptureFixture) -> None:
    async with answering(person(bob, Lines())):
        requests = [send(alice, bob, body) for body in range(3)]
        await console.shown()
        console.end()
        for request in (*requests, send(alice, bob, 3)):
            assert isinstance(await failed(request), NoResponse)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("make", [person, program])
async def test_stopping_does_not_wait_for_an_answer(
    console: Console, alice: Peer, bob: Peer, caplog: pytest.LogCaptureFixture, make: Callable[..., Asker]
) -> None:
    async with answering(make(bob, Lines())):
        requests = [send(alice, bob, body) for body in range(3)]
        await console.shown()
    for request in requests:
        assert isinstance(await failed(request), NoResponse)
    assert not caplog.records


# -- what is shown -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", ["\x1b[2J", "\u202e", "\r", "\n", "\x9b", "\u200b", "\u2028", "\x00"])
async def test_a_remotes_text_is_shown_safely(console: Console, alice: Peer, bob: Peer, hidden: str) -> None:
    async with answering(program(bob, Lines())):
        request = send(alice, bob, {"type": f"Read{hidden}{'x' * 1000}", "name": hidden * 1000})
        question = await console.shown()
        assert len(question["type"]) == MAX_TYPE
        assert len(question["view"]) == MAX_VIEW
        assert (question["type"] + question["view"]).isprintable()
        console.answer(1, "allow")
        await request


async def test_raw_requests_are_shown_as_text(console: Console, make_peer: MakePeer) -> None:
    bob, alice = await make_peer(codec="raw"), await make_peer(codec="raw")
    bob.on_request(lambda request: request.body)
    await bob.listen()
    async with answering(program(bob, Lines())):
        for number, body in enumerate((b"hello\x00\xff", b"\x80" * 10_000), start=1):
            request = send(alice, bob, body)
            view = (await console.shown())["view"]
            assert view.startswith("hello\\x00\\xff" if number == 1 else "\\x80\\x80")
            assert len(view) <= MAX_VIEW
            console.answer(number, "allow")
            assert await request == body
            assert await console.shown() == ended(number, "approved")


# -- lines of stdin ------------------------------------------------------------------------------------


async def test_lines_in_any_pieces(console: Console) -> None:
    lines = Lines()
    console.type("one\ntwo\n\nthr")
    assert [await lines.read() for _ in range(3)] == [b"one", b"two", b""]
    rest = asyncio.create_task(lines.read())
    console.type("e")
    console.type("e\nend")
    assert await rest == b"three"
    console.end()
    assert [await lines.read() for _ in range(3)] == [b"end", None, None]


async def test_a_line_that_is_too_long_is_cut(console: Console) -> None:
    lines = Lines()
    reading = asyncio.create_task(lines.read())
    await asyncio.to_thread(console.type, "x" * 200_000 + "\nnext\n")
    assert await reading == b"x" * (MAX_LINE + 1)
    assert await lines.read() == b"next"


async def test_closing_ends_a_read(console: Console) -> None:
    lines = Lines()
    console.type("half a line")
    reading = await begun(lines.read())
    lines.close()
    assert await reading is None


async def test_what_was_typed_ahead_is_dropped_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with os.fdopen(slave) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        lines = Lines()
        os.write(master, b"always\n")
        lines.discard()
        os.write(master, b"reject\n")
        assert await lines.read() == b"reject"
        os.close(master)  # the window is closed
        assert await lines.read() is None


async def test_stdin_may_be_a_file_or_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("one\ntwo")
    for path, expected in ((tmp_path / "answers", [b"one", b"two", None]), (Path(os.devnull), [None, None, None])):
        with path.open() as file:
            monkeypatch.setattr("sys.stdin", file)
            lines = Lines()
            assert [await lines.read() for _ in range(3)] == expected
    monkeypatch.setattr("sys.stdin", None)  # closed
    assert await Lines().read() is None


# -- the command ---------------------------------------------------------------------------------------


def read_until(listener: subprocess.Popen[str], what: str) -> str:
    """The line that has ``what`` in it."""
    assert listener.stdout is not None
    for line in listener.stdout:
        if what in line:
            return line
    pytest.fail(f"the process ended without {what!r}")


def say(listener: subprocess.Popen[str], text: str) -> None:
    assert listener.stdin is not None
    listener.stdin.write(text)
    listener.stdin.flush()


def test_a_person_at_the_command() -> None:
    with process("listen", "--ask", stdin=subprocess.PIPE) as listener:
        address = read_until(listener, "listening on").split()[-1]
        with process("request", address, '{"type":"Read"}') as request:
            assert read_until(listener, "  request ").split() == ["request", '{"type":"Read"}']
            say(listener, "once\n")
            assert request.communicate(timeout=WAIT) == ('{"type":"Read"}\n', "")
        with process("request", address, '"again"') as request:
            read_until(listener, '"again"')
            listener.send_signal(signal.SIGINT)  # at once: nobody waits for an answer
            assert request.wait(WAIT) == 5
        assert listener.wait(WAIT) == 130


POLICY = '[default]\noutbound = "allow"\n'
"""Says nothing about inbound requests."""


def test_a_program_at_a_policy_with_a_state(cli: Cli, tmp_path: Path) -> None:
    """What a policy asks about is asked at stdin, an answer outlives the process, and the policy is read again."""
    policy, key, alice = tmp_path / "policy.toml", tmp_path / "bob.pem", tmp_path / "alice.pem"
    policy.write_text(POLICY)
    for path in (key, alice):
        Keypair.generate().save(path)
    options = ("--policy", str(policy), "--state", str(tmp_path / "state"), "--key", str(key), "--json")
    with process("listen", *options, stdin=subprocess.PIPE) as listener:
        address = json.loads(read_until(listener, "listening"))["address"]
        with process("request", address, "1", "--key", str(alice)) as request:
            question = json.loads(read_until(listener, "firewall"))
            assert (question["kind"], question["peer"]) == ("peer", str(Keypair.load(alice).peer_id))
            say(listener, '{"id":1,"answer":"always"}\n')
            assert request.wait(WAIT) == 0
        listener.send_signal(signal.SIGHUP)
        assert json.loads(read_until(listener, "policy")) == {"event": "policy", "path": str(policy)}
        policy.write_text("nonsense")
        listener.send_signal(signal.SIGHUP)
        assert json.loads(read_until(listener, "error"))["error"] == "PolicyError"
    policy.write_text(POLICY)
    with process("listen", *options) as listener:
        address = json.loads(read_until(listener, "listening"))["address"]
        assert cli("request", address, "2", "--key", str(alice)).line == 2
        assert cli("request", address, "3").status == 5  # a stranger, and nobody at stdin


@pytest.mark.parametrize("option", ["--policy", "--state"])
def test_a_file_that_cannot_be_used(cli: Cli, tmp_path: Path, option: str) -> None:
    path = tmp_path / "file"
    path.write_text("[nonsense")
    told = cli.json("listen", option, str(path), *(["--ask"] if option == "--state" else []))
    assert (told.status, told.lines[-1]["error"]) == (1, {"--policy": "PolicyError", "--state": "StateError"}[option])


@pytest.mark.parametrize("options", [("--ask", "--allow-all"), ("--policy", "x", "--reject-all"), ("--state", "x")])
def test_exactly_one_way_to_decide(cli: Cli, options: tuple[str, ...]) -> None:
    assert cli.json("listen", *options).line["error"] == "UsageError"


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_question_in_what_the_terminal_has_no_characters_for(flags: tuple[str, ...]) -> None:
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    with process("listen", "--ask", *flags, stdin=subprocess.PIPE, anew=True, env=latin) as listener:
        line = read_until(listener, "listening")
        address = json.loads(line)["address"] if flags else line.split()[-1]
        with process("request", address, json.dumps("€" + "x" * MAX_VIEW)) as request:
            question = read_until(listener, "\\u20acxxx")
            assert not flags or json.loads(question)["view"].startswith('"€xxx')
            say(listener, '{"id":1,"answer":"allow"}\n' if flags else "once\n")
            assert request.wait(WAIT) == 0


def test_a_question_on_a_terminal_shows_what_is_hidden_in_it() -> None:
    hidden = "\u0301\u009b2J\u202e\u007f\u034f\u115f\u2800\u3164\n"
    with terminal("listen", "--ask") as listener:
        listener.read_until("listening on")
        address = listener.read_until("\r\n", after="listening on").split()[-1]
        with process("request", address, json.dumps({"type": hidden, "text": hidden})):
            shown = listener.read_until("b(an) the peer?")
            assert all(line.isprintable() for line in shown.split("\r\n"))
            assert not set(hidden.replace("2J", "").replace("\n", "")) & set(shown)
        listener.process.send_signal(signal.SIGTERM)
        assert listener.wait() == 0


PEER_ALLOWED = """
[default]
inbound = "ask"
[peers.alice]
id = "{alice}"
inbound = "allow"
"""


async def test_whoever_does_not_read_the_questions_stalls_nobody(make_peer: MakePeer, tmp_path: Path) -> None:
    """More questions than a pipe holds, and nobody at its other end."""
    alice, *others = [await make_peer() for _ in range(5)]
    policy = tmp_path / "policy.toml"
    policy.write_text(PEER_ALLOWED.format(alice=alice.peer_id))
    with process("listen", "--policy", str(policy), "--json", stdin=subprocess.PIPE) as listener:
        address = json.loads(await asyncio.to_thread(read_until, listener, "listening"))["address"]
        asked = [
            asyncio.create_task(other.send_request(address, "x" * MAX_VIEW, timeout=WAIT))
            for other in others
            for _ in range(Config().max_firewall_questions_per_peer)
        ]
        assert listener.stdout is not None
        stdout = listener.stdout.fileno()
        await until(lambda: int.from_bytes(fcntl.ioctl(stdout, termios.FIONREAD, bytes(4)), sys.byteorder) > 40_000)
        assert await alice.send_request(address, "hello") == "hello"
        listener.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(listener.wait, WAIT) == 0
        await asyncio.gather(*asked, return_exceptions=True)


CTRL_S, CTRL_Q = b"\x13", b"\x11"


def stop(listener: Terminal) -> None:
    """Stops the terminal's output; returns once it is."""
    fcntl.ioctl(listener._master, termios.TIOCPKT, (1).to_bytes(4, sys.byteorder))
    listener.type(CTRL_S)
    while not os.read(listener._master, 65_536)[0] & termios.TIOCPKT_STOP:
        pass
    fcntl.ioctl(listener._master, termios.TIOCPKT, bytes(4))


async def test_a_terminal_that_is_stopped_stalls_nobody(make_peer: MakePeer, tmp_path: Path) -> None:
    """Ctrl-S, and then a question."""
    alice, other = [await make_peer() for _ in range(2)]
    policy = tmp_path / "policy.toml"
    policy.write_text(PEER_ALLOWED.format(alice=alice.peer_id))
    with terminal("listen", "--policy", str(policy), "--ask") as listener:
        await asyncio.to_thread(listener.read_until, "listening on")
        shown = await asyncio.to_thread(listener.read_until, "\r\n", after="listening on")
        address = shown.split()[-1]
        await other.connect(address)
        await asyncio.to_thread(stop, listener)
        request = asyncio.create_task(other.send_request(address, "x", timeout=WAIT))
        await settled()
        await other.ping(address)  # the request went before it
        for _ in range(2):  # the question is put between them, if not before
            assert await alice.send_request(address, "hello") == "hello"
        listener.type(CTRL_Q)
        await asyncio.to_thread(listener.read_until, "b(an) the peer?")
        listener.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(listener.wait) == 0
        assert isinstance(await failed(request), NoResponse)


async def test_a_question_that_nobody_would_see_is_rejected(
    console: Console, alice: Peer, bob: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(program(bob, Lines())):
        monkeypatch.setattr(output, "is_stalled", lambda: True)
        for _ in range(2):
            assert isinstance(await failed(send(alice, bob, 1)), NoResponse)
        assert len(caplog.records) == 1
        monkeypatch.setattr(output, "is_stalled", lambda: False)
        request = send(alice, bob, 2)
        question = await console.shown()
        console.answer(question["id"], "allow")
        assert await request == 2


async def test_what_was_typed_before_a_question_is_shown_does_not_answer_it(
    console: Console, alice: Peer, bob: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terminal is stopped: what was printed is not there yet."""
    master, slave = os.openpty()
    reading = asyncio.Event()
    monkeypatch.setattr(output, "shown", reading.wait)
    with os.fdopen(slave) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        async with answering(person(bob, Lines())):
            request = send(alice, bob, 1)
            await console.shown()
            os.write(master, b"always\n")
            reading.set()
            await settled()
            os.write(master, b"reject\n")
            assert isinstance(await failed(request), NoResponse)
    os.close(master)
