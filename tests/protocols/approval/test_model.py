"""Whatever approvers, reloads and lost connections do: a request passes only if as many of those who may have agreed."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

from support.waiting import settled

from stronghold_p2p import Keypair, PeerId, StreamReset
from stronghold_p2p.firewall.approvals import Decision
from stronghold_p2p.protocols.approval.question import ApprovalQuestion
from stronghold_p2p.protocols.framing import read_bytes, write_bytes

from .test_asking import ALICE, OWN, Desk, Line, MakeDesk, make_desk

__all__ = ["make_desk"]

KEYS = [Keypair.generate() for _ in range(4)]
WALKS, STEPS = 30, 100


class Request:
    """What is to become of a request, by all that was said of it."""

    def __init__(self, peer: PeerId, deciding: asyncio.Task[Decision]) -> None:
        self.peer = peer
        self.deciding = deciding
        self.votes: set[PeerId] = set()
        self.passes: bool | None = None
        """None: it is open."""


class Model:
    def __init__(self, desk: Desk, draw: random.Random) -> None:
        self.desk = desk
        self.draw = draw
        self.approvers: set[PeerId] = set()
        self.need = 1
        self.requests: dict[str, Request] = {}
        self.received: dict[Any, tuple[ApprovalQuestion, bytes]] = {}
        """By the approver's end of a stream."""
        self.answers: list[bytes] = []
        """All that were ever given, to be replayed."""

    # -- what happens ----------------------------------------------------------------------------

    async def step(self) -> None:
        acts = {self.ask: 3, self.answer: 6, self.lie: 2, self.connect: 2, self.lose: 1, self.reload: 1}
        (act,) = self.draw.choices(list(acts), list(acts.values()))
        with suppress(StreamReset):  # of who is no approver any more
            await act()
        await settled()

    async def ask(self) -> None:
        kind = str(len(self.requests))
        peer = self.draw.choice([ALICE, KEYS[0].peer_id])
        self.requests[kind] = request = Request(peer, await self.desk.ask(peer, kind))
        if not self.may_be_answered(request):
            request.passes = False

    async def answer(self) -> None:
        """An honest one."""
        if (found := await self.open_stream()) is None:
            return
        line, stream, question, sent = found
        approved = self.draw.random() < 0.8
        answer = question.answer(
            sent, asker=OWN.peer_id, scope="once" if approved else None, seconds=None, reason=None, time=0.0
        ).seal(line.keypair)
        self.answers.append(answer)
        await write_bytes(stream, answer)
        self.voted(line.peer, self.requests[question.type or ""], approved)

    async def lie(self) -> None:
        """What is no answer of this approver to this question."""
        if (found := await self.open_stream()) is None:
            return
        line, stream, question, sent = found
        right = question.answer(sent, asker=OWN.peer_id, scope="all", seconds=None, reason=None, time=0.0)
        other = self.draw.choice([key for key in KEYS if key is not line.keypair])
        await write_bytes(
            stream,
            self.draw.choice(
                [
                    right.seal(other),
                    replace(right, nonce=bytes(16)).seal(line.keypair),
                    replace(right, asker=ALICE).seal(line.keypair),
                    *self.answers[-3:],
                ]
            ),
        )

    async def connect(self) -> None:
        key = self.draw.choice(KEYS)
        if self.desk.connection(key.peer_id) is None:
            self.desk.connect(key)

    async def lose(self) -> None:
        line = self.desk.lines.get(self.draw.choice(KEYS).peer_id)
        if line is not None:
            line.closing = True
            for stream in line.opened:
                stream.reset()

    async def reload(self) -> None:
        self.approvers = {key.peer_id for key in self.draw.sample(KEYS, self.draw.choice([0, 2, 3, 4, 4]))}
        self.need = self.draw.choice([1, 2, 2, 3]) if self.approvers else 1
        self.desk.asking.set_approvers(self.approvers, self.need)
        self.desk.approvals.quorum_changed()
        for request in self.requests.values():
            if request.passes is None:
                if not self.may_be_answered(request):
                    request.passes = False
                self.count(request)

    # -- what follows ----------------------------------------------------------------------------

    def may_be_answered(self, request: Request) -> bool:
        return bool(self.approvers) and len(self.approvers - {request.peer}) >= self.need

    def voted(self, approver: PeerId, request: Request, approved: bool) -> None:
        if request.passes is not None or approver not in self.approvers - {request.peer} - request.votes:
            return
        if approved:
            request.votes.add(approver)
            self.count(request)
        else:
            request.passes = False

    def count(self, request: Request) -> None:
        agreed = request.votes & self.approvers
        if request.passes is None and agreed and len(agreed) >= self.need:
            request.passes = True

    def check(self) -> None:
        for kind, request in self.requests.items():
            decided = request.deciding.result().allowed if request.deciding.done() else None
            assert decided is request.passes, kind

    # -- streams ---------------------------------------------------------------------------------

    async def open_stream(self) -> tuple[Line, Any, ApprovalQuestion, bytes] | None:
        """One on which an approver was asked something and has said nothing yet; seldom of what is decided already."""
        streams = [
            (line, stream)
            for line in self.desk.lines.values()
            if not line.closing
            for stream in line.opened
            if not stream.calls
        ]
        self.draw.shuffle(streams)
        for line, stream in streams:
            if stream not in self.received:
                try:
                    sent = await read_bytes(stream, max_size=100_000)
                except StreamReset:
                    continue
                self.received[stream] = ApprovalQuestion.decode(sent), sent
            question, sent = self.received[stream]
            if self.requests[question.type or ""].passes is None or self.draw.random() < 0.05:
                return line, stream, question, sent
        return None


async def test_only_what_enough_have_agreed_on_passes(make_desk: MakeDesk) -> None:
    passed = 0
    for seed in range(WALKS):
        model = Model(make_desk(*KEYS), random.Random(seed))
        model.approvers = {key.peer_id for key in KEYS}
        for _ in range(STEPS):
            await model.step()
            model.check()
        passed += sum(request.passes is True for request in model.requests.values())
    assert passed > WALKS
