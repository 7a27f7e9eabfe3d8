"""The side that asks, and approvers of every kind, over streams in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from support.clock import Clock
from support.waiting import begun, settled

from stronghold_p2p import Config, Direction, FirewallRules, Keypair, Multiaddr, PeerId
from stronghold_p2p.encoding import messages, varint
from stronghold_p2p.events import Event
from stronghold_p2p.firewall.approvals import Approvals, Decision
from stronghold_p2p.firewall.rules import Firewall, Subject
from stronghold_p2p.protocols.approval import Asking, asking
from stronghold_p2p.protocols.approval.question import ApprovalQuestion
from stronghold_p2p.protocols.framing import read, read_bytes, write_bytes
from stronghold_p2p.resources.refusals import Refusals
from stronghold_p2p.wire.envelope import seal

from .. import conftest as fakes

OWN, KEY, OTHER_KEY = Keypair.generate(), Keypair.generate(), Keypair.generate()
ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id
HERE, THERE = Multiaddr.parse("/ip4/192.0.2.1/tcp/1"), Multiaddr.parse("/ip4/198.51.100.1/tcp/1")

Streams = Callable[[], tuple[Any, Any]]


class Line:
    """A connection with an approver, which serves the protocol."""

    closing = False

    def __init__(self, keypair: Keypair, streams: Streams) -> None:
        self.keypair = keypair
        self.peer = keypair.peer_id
        self.opened: list[Any] = []
        """The approver's ends of the streams, in order."""
        self.tasks: list[asyncio.Task[None]] = []
        self.has_room = asyncio.Event()
        self.has_room.set()
        self._streams = streams

    def serves(self, protocol: str) -> bool:
        return True

    async def open_stream(self, protocol: str) -> Any:
        await self.has_room.wait()
        ours, theirs = self._streams()
        self.opened.append(theirs)
        return ours

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(coroutine))
        return self.tasks[-1]

    async def question(self, number: int = 0) -> tuple[ApprovalQuestion, bytes]:
        """What came on a stream, and how it was sent."""
        sent = await read_bytes(self.opened[number], max_size=100_000)
        return ApprovalQuestion.decode(sent), sent

    async def answer(self, number: int = 0, **changes: Any) -> bytes:
        """The envelope with an approval of the question on a stream; ``changes`` are to what is right."""
        question, sent = await self.question(number)
        right = question.answer(sent, asker=OWN.peer_id, scope="once", seconds=None, reason=None, time=1.5)
        return replace(right, **changes).seal(self.keypair)


class Desk:
    """A firewall that asks approvers, and nobody else. It is the swarm's host, too."""

    def __init__(self, streams: Streams, config: Config) -> None:
        self.events: list[Event] = []
        firewall = Firewall(FirewallRules.ask_all())
        self.approvals = Approvals(firewall, config, self.events.append, Refusals(self.events.append))
        firewall.changed = self.approvals.rules_changed
        self.kept: set[PeerId] = set()
        self.asking = Asking(
            OWN.peer_id,
            keep=self.kept.add,
            unkeep=self.kept.discard,
            take_part=lambda takes: (self.approvals.add if takes else self.approvals.remove)(self.asking),
        )
        self.approvals.quorum = self.asking
        self.lines: dict[PeerId, Line] = {}
        self._streams = streams
        host: Any = self
        self.asking.attach(host)

    def connection(self, peer: PeerId) -> Line | None:
        line = self.lines.get(peer)
        return None if line is None or line.closing else line

    def connect(self, keypair: Keypair) -> Line:
        """An approver is connected, or anew, and has told what it is."""
        self.lines[keypair.peer_id] = line = Line(keypair, self._streams)
        self.identify(line)
        return line

    def identify(self, line: Any) -> None:
        self.asking.identified(line, line)

    async def ask(self, peer: PeerId = ALICE, kind: str = "Sign", address: Multiaddr = HERE) -> asyncio.Task[Decision]:
        subject = Subject(peer, Direction.INBOUND, kind, {"type": kind})
        deciding = await begun(self.approvals.decide(subject, address, 1))
        await settled()
        return deciding


@pytest.fixture
async def make_desk(open_streams: Streams) -> AsyncIterator[Callable[..., Desk]]:
    """Makes desks with approvers, which are connected."""
    desks: list[Desk] = []

    def make(*approvers: Keypair, need: int = 1, **limits: Any) -> Desk:
        desk = Desk(open_streams, Config(**{"firewall_timeout": 60.0, **limits}))
        desk.asking.set_approvers([approver.peer_id for approver in approvers], need)
        for approver in approvers:
            desk.connect(approver)
        desks.append(desk)
        return desk

    yield make
    for desk in desks:
        desk.approvals.close()
        await settled()


MakeDesk = Callable[..., Desk]


# -- answers that are none -------------------------------------------------------------------------------


async def test_an_answer_counts(make_desk: MakeDesk) -> None:
    desk = make_desk(KEY)
    deciding = await desk.ask()
    (line,) = desk.lines.values()
    await write_bytes(line.opened[0], await line.answer())
    decision = await deciding
    assert decision.allowed
    assert [signed.approver for signed in decision.answer.signatures] == [KEY.peer_id]
    assert (await read(line.opened[0], messages.ApprovalEnd)).outcome == "approved"


@pytest.mark.parametrize(
    "changes",
    [
        {"asker": BOB},
        {"nonce": bytes(16)},
        {"question": bytes(32)},
        {"peer": BOB},
        {"direction": Direction.OUTBOUND},
        {"kind": "peer"},
        {"type": "Wipe"},
        {"type": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_an_answer_to_something_else(make_desk: MakeDesk, changes: dict[str, Any]) -> None:
    desk = make_desk(KEY)
    deciding = await desk.ask()
    (line,) = desk.lines.values()
    await write_bytes(line.opened[0], await line.answer(**changes))
    await settled()
    assert not deciding.done()
    assert await line.opened[0].read() == b""  # it is asked no more


async def test_an_answer_to_another_question(make_desk: MakeDesk) -> None:
    """Of the same requester, for the same."""
    desk = make_desk(KEY)
    first, second = await desk.ask(), await desk.ask()
    (line,) = desk.lines.values()
    replayed = await line.answer(0)
    await write_bytes(line.opened[0], replayed)
    await write_bytes(line.opened[1], replayed)
    assert (await first).allowed
    await settled()
    assert not second.done()


async def test_an_answer_to_what_was_asked_before_the_connection_was_lost(make_desk: MakeDesk) -> None:
    desk = make_desk(KEY)
    deciding = await desk.ask()
    (line,) = desk.lines.values()
    old = await line.answer()
    line.closing = True
    line.opened[0].reset()
    await settled()
    line = desk.connect(KEY)
    await settled()
    await write_bytes(line.opened[0], old)
    await settled()
    assert not deciding.done()


async def test_an_answer_of_another_approver(make_desk: MakeDesk) -> None:
    """It cannot be passed on."""
    desk = make_desk(KEY, OTHER_KEY, need=2)
    deciding = await desk.ask()
    line, other = desk.lines[KEY.peer_id], desk.lines[OTHER_KEY.peer_id]
    other.keypair = KEY
    await write_bytes(other.opened[0], await other.answer())
    await write_bytes(line.opened[0], await line.answer())
    await settled()
    assert not deciding.done()


@pytest.mark.parametrize("at", [0, 1, 60, -1])
async def test_an_altered_answer(make_desk: MakeDesk, at: int) -> None:
    desk = make_desk(KEY)
    deciding = await desk.ask()
    (line,) = desk.lines.values()
    envelope = bytearray(await line.answer())
    envelope[at] ^= 1
    await write_bytes(line.opened[0], bytes(envelope))
    await settled()
    assert not deciding.done()


@pytest.mark.parametrize("domain", ["libp2p-peer-record", ""])
async def test_what_was_signed_for_something_else(make_desk: MakeDesk, domain: str) -> None:
    desk = make_desk(KEY)
    deciding = await desk.ask()
    (line,) = desk.lines.values()
    envelope = messages.Envelope.FromString(await line.answer())
    await write_bytes(line.opened[0], seal(KEY, domain, envelope.payload_type, envelope.payload))
    await settled()
    assert not deciding.done()


async def test_an_answer_of_who_was_an_approver_until_now(make_desk: MakeDesk) -> None:
    """It has come, but was not looked at yet."""
    desk = make_desk(KEY, OTHER_KEY)
    deciding = await desk.ask()
    line = desk.lines[KEY.peer_id]
    answer = await line.answer()
    await write_bytes(line.opened[0], answer)
    desk.asking.set_approvers([OTHER_KEY.peer_id], 1)
    await settled()
    assert not deciding.done()
    assert desk.kept == {OTHER_KEY.peer_id}
    desk.asking.set_approvers([OTHER_KEY.peer_id, KEY.peer_id], 1)
    await settled()
    assert not deciding.done()  # it is asked anew
    await write_bytes(line.opened[1], answer)
    await settled()
    assert not deciding.done()


async def test_agreement_of_who_is_no_approver_any_more(make_desk: MakeDesk) -> None:
    desk = make_desk(KEY, OTHER_KEY, need=2)
    deciding = await desk.ask()
    line, other = desk.lines[KEY.peer_id], desk.lines[OTHER_KEY.peer_id]
    await write_bytes(line.opened[0], await line.answer())
    await settled()
    third = Keypair.generate()
    desk.asking.set_approvers([OTHER_KEY.peer_id, third.peer_id], 2)
    await write_bytes(other.opened[0], await other.answer())
    await settled()
    assert not deciding.done()
    line = desk.connect(third)
    await settled()
    await write_bytes(line.opened[0], await line.answer())
    decision = await deciding
    assert {signed.approver for signed in decision.answer.signatures} == {OTHER_KEY.peer_id, third.peer_id}


async def test_enough_have_agreed_when_fewer_are_needed(make_desk: MakeDesk) -> None:
    desk = make_desk(KEY, OTHER_KEY, need=2)
    deciding = await desk.ask()
    line = desk.lines[KEY.peer_id]
    await write_bytes(line.opened[0], await line.answer())
    await settled()
    desk.asking.set_approvers([KEY.peer_id, OTHER_KEY.peer_id], 1)
    desk.approvals.quorum_changed()
    assert (await deciding).allowed


async def test_more_must_agree_than_there_are_to_ask(make_desk: MakeDesk) -> None:
    """It is left to who else is asked."""
    desk = make_desk(KEY)
    questions = desk.approvals.open_queue(10)
    deciding = await desk.ask()
    (line,) = desk.lines.values()
    await line.question()
    desk.asking.set_approvers([KEY.peer_id], 2)
    await settled()
    assert await line.opened[0].read() == b""  # without a word of how it has ended, since it has not
    assert all(task.done() for task in line.tasks)
    assert not deciding.done()
    assert (await anext(questions)).reject()
    assert not (await deciding).allowed


# -- approvers that do not do as they should -----------------------------------------------------------------


async def test_one_answer_each(make_desk: MakeDesk) -> None:
    desk = make_desk(KEY, OTHER_KEY, need=2)
    deciding = await desk.ask()
    line = desk.lines[KEY.peer_id]
    answer = await line.answer()
    for _ in range(3):
        await write_bytes(line.opened[0], answer)
    desk.identify(line)
    await settled()
    assert not deciding.done()
    assert len(line.opened) == 1


@pytest.mark.parametrize("size", [asking.MAX_ANSWER + 1, 1_000_000, 2**62])
async def test_more_than_an_answer_is_not_read(make_desk: MakeDesk, size: int) -> None:
    desk = make_desk(KEY)
    deciding = await desk.ask()
    (line,) = desk.lines.values()
    await line.question()
    await line.opened[0].write(varint.encode(size) + bytes(10_000))
    await settled()
    assert line.opened[0].other.read_size < 20
    assert not deciding.done()


@pytest.mark.parametrize("way", ["reset", "end", "nonsense"])
async def test_an_approver_that_gives_up_is_asked_again_when_it_is_there_anew(make_desk: MakeDesk, way: str) -> None:
    desk = make_desk(KEY, OTHER_KEY)
    deciding = await desk.ask()
    line, other = desk.lines[KEY.peer_id], desk.lines[OTHER_KEY.peer_id]
    match way:
        case "reset":
            line.opened[0].reset()
        case "end":
            await line.opened[0].close_write()
        case "nonsense":
            await write_bytes(line.opened[0], b"yes")
    await settled()
    assert (len(line.opened), len(other.opened)) == (1, 1)
    desk.identify(line)
    await settled()
    assert (len(line.opened), len(other.opened)) == (2, 1)
    await write_bytes(line.opened[1], await line.answer(1))
    assert (await deciding).allowed


async def test_an_approver_that_reads_nothing_holds_nothing_up(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "WINDOW", 1)
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time())
    monkeypatch.setattr(loop, "time", clock)
    desk = make_desk(KEY, OTHER_KEY)
    deciding = await desk.ask()
    line, other = desk.lines[KEY.peer_id], desk.lines[OTHER_KEY.peer_id]
    await write_bytes(other.opened[0], await other.answer())
    assert (await deciding).allowed
    assert not all(task.done() for task in line.tasks)
    await clock.advance(70.0, step=10.0)
    assert all(task.done() for task in line.tasks)


# -- many questions ----------------------------------------------------------------------------------------


async def test_a_flood_of_one_remote_keeps_nobody_out(make_desk: MakeDesk) -> None:
    desk = make_desk(KEY, max_firewall_questions_per_peer=100)
    (line,) = desk.lines.values()
    flood = [await desk.ask() for _ in range(asking.MAX_ASKED + 20)]
    assert len(line.opened) == asking.MAX_ASKED
    honest = await desk.ask(BOB, address=THERE)
    for number in range(2):
        await write_bytes(line.opened[number], await line.answer(number))
    await settled()
    assert len(line.opened) == asking.MAX_ASKED + 2
    asked = {(await line.question(number))[0].peer for number in (-1, -2)}
    assert asked == {ALICE, BOB}
    for task in (*flood, honest):
        task.cancel()
    await settled()
    assert all(task.done() for task in line.tasks)
    assert len(line.opened) == asking.MAX_ASKED + 2  # what was withdrawn is not asked


@pytest.mark.parametrize(("size", "asked"), [(200, 1), (201, 0)])
async def test_a_type_that_is_too_long_is_put_to_nobody(make_desk: MakeDesk, size: int, asked: int) -> None:
    desk = make_desk(KEY)
    await desk.ask(kind="x" * size)
    (line,) = desk.lines.values()
    assert len(line.opened) == asked


async def test_what_ended_before_its_stream_was_open_is_not_asked(make_desk: MakeDesk) -> None:
    desk = make_desk(KEY)
    (line,) = desk.lines.values()
    line.has_room.clear()
    deciding = await desk.ask()
    deciding.cancel()
    await settled()
    assert all(task.done() for task in line.tasks)
    line.has_room.set()
    assert line.opened == []


async def test_we_are_no_approver_of_our_own(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.asking.set_approvers([OWN.peer_id], 1)
    assert desk.kept == set()
    assert (await (await desk.ask())).how == "no answerer"
