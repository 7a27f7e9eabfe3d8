"""The side that asks: offers the firewall's questions to approvers, and takes their signed answers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from ...encoding import messages
from ...errors import RemoteProtocolError, StrongholdError
from ...events import Outcome, SignedAnswer
from ...firewall.questions import Answer, Question
from ...identity import PeerId
from ...logs import SparingLog
from ...resources.shares import Shares
from ...transport.connection import Connection
from ...transport.stream import Stream
from ..framing import read_bytes, write, write_bytes
from ..identify import Identity
from ..service import Service
from .answers import MAX_REASON, NONCE_SIZE, open_answer
from .question import MAX_BY, MAX_TYPE, PROTOCOL, ApprovalQuestion, cut, sendable, view_text

__all__ = ["Asking"]

logger = logging.getLogger("stronghold_p2p")

MAX_ASKED: Final = 32
"""Questions that an approver has at once: more than a person sees. Further ones wait here, by turns among networks and then
among peers, so that a remote that causes many keeps those of nobody else from the approver."""

MAX_ANSWER: Final = 4096
"""Bytes of a signed answer. The longest key and its signature take 2,100, the longest reason 800."""

PATIENCE: Final = 5.0
"""Seconds for an approver to take the end of a question."""


class Asking(Service):
    """Offers each question to all approvers but the one that it is about, as an answerer of the firewall. Those that are
    connected and serve the protocol get it at once, others as soon as they do, while it is open.

    ``keep`` and ``unkeep`` begin and end to stay connected with an approver; ``take_part`` says whether there are any.
    """

    def __init__(
        self,
        own: PeerId,
        *,
        keep: Callable[[PeerId], None],
        unkeep: Callable[[PeerId], None],
        take_part: Callable[[bool], None],
    ) -> None:
        self.need = 1
        """How many approvers must agree."""
        self._own = own
        self._keep = keep
        self._unkeep = unkeep
        self._take_part = take_part
        self._approvers: dict[PeerId, _Approver] = {}
        self._log_absence = SparingLog(
            logging.WARNING, "question %d waits: no approver is connected, or none answers the questions of this peer"
        )
        self._open: dict[Question, asyncio.Future[None]] = {}
        """The questions that are asked, each with what is done when it has ended."""

    # -- who may answer --------------------------------------------------------------------------

    def set_approvers(self, peers: Collection[PeerId], need: int) -> None:
        """Replaces the approvers. Those that are none any more lose the open questions at once, new ones get them."""
        self.need = need
        peers, before = set(peers) - {self._own}, set(self._approvers)
        for peer in before - peers:
            self._approvers.pop(peer).leave()
            self._unkeep(peer)
        for peer in peers - before:
            self._approvers[peer] = approver = _Approver(peer, self._own, self._connection)
            self._keep(peer)
            for question, ended in self._open.items():
                approver.offer(question, ended)
        for question in list(self._open):
            if not self._may_be_answered(question):
                question.give_up(self)
        if bool(peers) is not bool(before):
            self._take_part(bool(peers))

    @property
    def approvers(self) -> Collection[PeerId]:
        return self._approvers.keys()

    def includes(self, approver: PeerId, peer: PeerId) -> bool:
        """Whether ``approver`` may answer a question about ``peer``: nobody does about itself."""
        return approver in self._approvers and approver != peer

    def _may_be_answered(self, question: Question) -> bool:
        """Whether there are enough to ask."""
        return sum(self.includes(approver, question.subject.peer) for approver in self._approvers) >= self.need

    # -- as an answerer --------------------------------------------------------------------------

    def take(self, question: Question) -> bool:
        if not self._may_be_answered(question) or len(sendable(question.subject.type or "")) > MAX_TYPE:
            return False
        self._open[question] = ended = question.loop.create_future()
        for approver in self._approvers.values():
            approver.offer(question, ended)
        if not any(map(self._connection, self._approvers)):
            self._log_absence.write(question.id)
        return True

    def drop(self, question: Question) -> None:
        ended = self._open.pop(question, None)
        if ended is not None:
            ended.set_result(None)
            for approver in self._approvers.values():
                approver.drop(question)

    def close(self) -> None:
        return

    # -- as a service ----------------------------------------------------------------------------

    def identified(self, connection: Connection, identity: Identity) -> None:
        approver = self._approvers.get(connection.peer)
        if approver is not None:
            approver.ask_again()

    def _connection(self, peer: PeerId) -> Connection | None:
        """One by which ``peer`` can be asked now."""
        connection = self.host.connection(peer)
        return connection if connection is not None and connection.serves(PROTOCOL) else None


class _Approver:
    """One approver, and what it is asked."""

    def __init__(self, peer: PeerId, own: PeerId, connection: Callable[[PeerId], Connection | None]) -> None:
        self._peer = peer
        self._own = own
        self._connection = connection
        self._waiting: Shares[_Asked] = Shares()
        self._asked: dict[Question, _Asked] = {}
        """All questions that it is to answer, also those that wait."""
        self._busy = 0
        """Streams that are open for them, or about to be."""

    def offer(self, question: Question, ended: asyncio.Future[None]) -> None:
        if question.subject.peer != self._peer:
            self._asked[question] = asked = _Asked(question, ended)
            self._waiting.add(question.holder.path, asked)
            self._go_on()

    def drop(self, question: Question) -> None:
        """The question has ended."""
        asked = self._asked.pop(question, None)
        if asked is not None:
            self._waiting.discard(asked)
            if asked.task is not None and not asked.is_open:
                asked.task.cancel()

    def leave(self) -> None:
        """It is no approver any more."""
        for asked in self._asked.values():
            if asked.task is not None:
                asked.task.cancel()
        self._asked.clear()
        self._waiting = Shares()

    def ask_again(self) -> None:
        """It is connected anew, or has begun to serve the protocol: questions that it has not answered before come again."""
        for question, asked in self._asked.items():
            if asked.task is None and not asked.is_answered and asked not in self._waiting:
                self._waiting.add(question.holder.path, asked)
        self._go_on()

    def _go_on(self) -> None:
        """Asks what waits, as far as it can be asked now."""
        while self._waiting and self._busy < MAX_ASKED and (connection := self._connection(self._peer)) is not None:
            asked = self._waiting.next()
            self._busy += 1
            asked.is_open = False
            asked.task = task = connection.spawn(self._ask(asked, connection))
            task.add_done_callback(partial(self._done, asked, connection))

    def _done(self, asked: _Asked, connection: Connection, _: asyncio.Task[None]) -> None:
        """It is asked no more by this connection."""
        self._busy -= 1
        asked.task = None
        if connection.closing and not asked.is_answered and asked.question in self._asked:
            self._waiting.add(asked.question.holder.path, asked)
        self._go_on()

    async def _ask(self, asked: _Asked, connection: Connection) -> None:
        question = asked.question
        try:
            async with (
                asyncio.timeout_at(question.expires + PATIENCE),
                await connection.open_stream(PROTOCOL) as stream,
            ):
                asked.is_open = True
                told = _told(question)
                sent = told.encode()
                await write_bytes(stream, sent)
                question.shown += 1
                answering = connection.spawn(self._take_answer(asked, told, sent, stream))
                try:
                    await asyncio.wait((asked.ended, answering), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    answering.cancel()
                if asked.is_answered:
                    await asyncio.wait((asked.ended,))
                if question.answer is not None and question.outcome is not None:
                    await write(stream, _end_of(question.answer, question.outcome))
        except (StrongholdError, TimeoutError) as error:
            logger.debug("question %d to the approver %s: %s", question.id, self._peer, error)

    async def _take_answer(self, asked: _Asked, told: ApprovalQuestion, sent: bytes, stream: Stream) -> None:
        try:
            signed = self._open(await read_bytes(stream, max_size=MAX_ANSWER), told, sent)
        except StrongholdError as error:
            logger.debug("question %d: no answer by the approver %s: %s", asked.question.id, self._peer, error)
        else:
            asked.is_answered = True
            asked.question.vote(signed)

    def _open(self, envelope: bytes, told: ApprovalQuestion, sent: bytes) -> SignedAnswer:
        """Raises DecodeError, RemoteProtocolError: it is no answer by this approver to this very question."""
        signed, answer = open_answer(envelope)
        expected = told.answer(
            sent, asker=self._own, scope=answer.scope, seconds=answer.seconds, reason=answer.reason, time=answer.time
        )
        if signed.approver != self._peer or answer != expected:
            raise RemoteProtocolError(PROTOCOL, "a signed answer to something else, or by somebody else")
        return signed


class _Asked:
    """A question that an approver is to answer."""

    __slots__ = ("ended", "is_answered", "is_open", "question", "task")

    def __init__(self, question: Question, ended: asyncio.Future[None]) -> None:
        self.question = question
        self.ended = ended
        """Done when the question has ended."""
        self.is_answered = False
        self.is_open = False
        """Its stream is open."""
        self.task: asyncio.Task[None] | None = None
        """What asks it now."""


def _end_of(answer: Answer, outcome: Outcome) -> messages.ApprovalEnd:
    return messages.ApprovalEnd(outcome=outcome, by=cut(answer.by, MAX_BY), reason=cut(answer.reason or "", MAX_REASON))


def _told(question: Question) -> ApprovalQuestion:
    """What an approver is told of a question now."""
    subject = question.subject
    return ApprovalQuestion(
        nonce=os.urandom(NONCE_SIZE),
        kind=question.kind,
        peer=subject.peer,
        name=question.name,
        address=question.address,
        direction=subject.direction,
        type=None if subject.type is None else sendable(subject.type),
        view=view_text(subject.view),
        seconds=question.expires - question.loop.time(),
        waiting=question.waiting,
        need=question.need,
        agreed=len(question.votes),
    )
