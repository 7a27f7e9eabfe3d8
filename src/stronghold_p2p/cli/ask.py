"""The firewall's questions, put to whoever is at stdin: a person, or with ``--json`` a program."""

from __future__ import annotations

import abc
import asyncio
import logging
import signal
from typing import Any, Literal

import msgspec

from ..firewall.approvals import FirewallRequest
from ..firewall.rules import Rule
from ..peer import StrongholdP2p
from . import output
from .stdin import MAX_LINE, Lines

__all__ = ["ANSWER_TIMEOUT", "Asker", "Person", "Program"]

logger = logging.getLogger("stronghold_p2p")

ANSWER_TIMEOUT = 60.0
"""Seconds for an answer: a person reads first."""

MAX_TYPE = 100
"""Characters that are shown of a type: in untyped JSON it is the remote's own text."""

MAX_VIEW = 500
"""Characters that are shown of a request: enough to see what is asked for, and no more than a terminal holds."""

Answer = Literal["allow", "always", "reject", "ban"]


class Asker(abc.ABC):
    """Has questions answered at stdin. When that has ended, nobody answers any more: they are rejected."""

    def __init__(self, peer: StrongholdP2p[Any, Any]) -> None:
        self._peer = peer
        self._lines = Lines()
        self._count = 0
        self._told = False
        self._stalled = False
        peer.on_firewall_request(self._ask)

    async def run(self) -> None:
        """Until it is cancelled; then what is open is rejected, so that closing does not wait for an answer."""
        try:
            await self._read()
        finally:
            self._told = True  # nobody is missed
            self._lines.close()

    async def _ask(self, question: FirewallRequest) -> None:
        """Cancelled if the question ends before it is answered."""
        if self._lines.ended:
            self._reject(question)
            return
        if output.is_stalled():
            if not self._stalled:
                logger.warning("what is printed is not read: the firewall's questions are rejected until it is")
            self._stalled = True
            question.reject()
            return
        self._stalled = False
        self._count += 1
        await self._put(question, self._count)

    @abc.abstractmethod
    async def _put(self, question: FirewallRequest, number: int) -> None: ...

    async def _read(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def _answer(self, question: FirewallRequest, answer: Answer) -> bool:
        """False if the question has ended; then the answer changes nothing."""
        match answer:
            case "allow":
                return question.approve()
            case "always":
                return question.set_rule(Rule.ALLOW_ALL)
            case "reject":
                return question.reject()
            case "ban":
                if not question.reject():  # first: closing its connections would end the question
                    return False
                await self._peer.ban_peer(question.peer)
                return True

    def _reject(self, question: FirewallRequest) -> None:
        """Nobody answers any more."""
        question.reject()
        if not self._told:
            self._told = True
            logger.warning("stdin has ended: nobody answers the firewall's questions any more, they are rejected")


class Person(Asker):
    """Shows one question at a time, in their order, in the terminal."""

    def __init__(self, peer: StrongholdP2p[Any, Any]) -> None:
        super().__init__(peer)
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._missed = 0
        # In the background a remote's request must not stop us: reading fails then, and nobody answers.
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    async def _put(self, question: FirewallRequest, number: int) -> None:
        self._waiting += 1
        try:
            await self._turn.acquire()
        except asyncio.CancelledError:
            self._missed += 1
            raise
        finally:
            self._waiting -= 1
        try:
            await self._show(question, number)
        finally:
            self._turn.release()

    async def _show(self, question: FirewallRequest, number: int) -> None:
        if not question.waiting:
            self._missed += 1
            return
        if self._lines.ended:
            self._reject(question)
            return
        output.note(self._text(question, number))
        try:
            await output.shown()
            self._missed = 0
            self._lines.discard()
            answer = await self._read_answer()
        except asyncio.CancelledError:
            output.note(f"question {number} has ended: nobody waits for the answer any more")
            raise
        if answer is None:
            self._reject(question)
        elif await self._answer(question, answer):
            output.note(DONE[answer])
        else:
            output.note(f"too late: question {number} has ended")

    def _text(self, question: FirewallRequest, number: int) -> str:
        if question.kind == "request":
            about = "may this request pass?"
        elif question.waiting == 1:
            about = "no rule is known for this peer. May its request pass?"
        else:
            about = (
                f"no rule is known for this peer. May its {question.waiting} requests pass, of which this is the first?"
            )
        lines = [
            f"question {number}: {about}",
            f"  peer       {question.peer}",
            f"  address    {question.address or 'not connected'}",
            f"  direction  {_direction(question)}",
            f"  type       {_type(question) or '-'}",
            f"  request    {_view(question)}",
        ]
        if self._missed:
            lines.insert(0, f"{_count(self._missed, 'question')} ended before it was shown")
        if self._waiting:
            lines.append(f"  ({_count(self._waiting, 'more question')} waiting)")
        return "\n".join(("", *lines, CHOICES))

    async def _read_answer(self) -> Answer | None:
        """What the person decides; None if there is nobody."""
        while (line := await self._lines.read()) is not None:
            word = line.strip().lower()
            if word in WORDS:
                return WORDS[word]
            output.note(f"that is no answer: {CHOICES}" if word else CHOICES)
        return None


CHOICES = "o(nce), a(lways), r(eject) or b(an)?"
WORDS: dict[bytes, Answer] = {
    b"once": "allow",
    b"o": "allow",
    b"always": "always",
    b"a": "always",
    b"reject": "reject",
    b"r": "reject",
    b"ban": "ban",
    b"b": "ban",
}
DONE: dict[Answer, str] = {
    "allow": "allowed, this once",
    "always": "allowed, and always from now on",
    "reject": "rejected",
    "ban": "rejected, and the peer is banned",
}


class Program(Asker):
    """Prints every question at once as a line of JSON, and takes answers in any order."""

    def __init__(self, peer: StrongholdP2p[Any, Any]) -> None:
        super().__init__(peer)
        self._answers: dict[int, asyncio.Future[Answer | None]] = {}

    async def _put(self, question: FirewallRequest, number: int) -> None:
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        output.result(
            {
                "event": "firewall",
                "id": number,
                "kind": question.kind,
                "peer": str(question.peer),
                "address": None if question.address is None else str(question.address),
                "direction": _direction(question),
                "type": _type(question),
                "view": _view(question),
            }
        )
        try:
            answer = await future
        except asyncio.CancelledError:
            output.result({"event": "ended", "id": number})
            raise
        finally:
            del self._answers[number]
        if answer is None:
            self._reject(question)
        elif not await self._answer(question, answer):
            output.error(AnswerError(f"question {number} has ended"))

    async def _read(self) -> None:
        try:
            while (line := await self._lines.read()) is not None:
                try:
                    self._take(line)
                except AnswerError as error:
                    output.error(error)
        finally:
            for future in self._answers.values():
                if not future.done():
                    future.set_result(None)
        await super()._read()

    def _take(self, line: bytes) -> None:
        if len(line) > MAX_LINE:
            raise AnswerError(f"a line of over {MAX_LINE:,} bytes is no answer")
        try:
            answer = msgspec.json.decode(line, type=_AnswerLine)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise AnswerError(f"malformed answer: {error}") from error
        future = self._answers.get(answer.id)
        if future is None or future.done():
            has_ended = 0 < answer.id <= self._count
            raise AnswerError(f"question {answer.id} has ended" if has_ended else f"there is no question {answer.id}")
        future.set_result(answer.answer)


class _AnswerLine(msgspec.Struct, forbid_unknown_fields=True):
    id: int
    answer: Answer


class AnswerError(Exception):
    """A line on stdin that answers no open question. It changes nothing."""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _direction(question: FirewallRequest) -> str:
    return str(question.direction.name).lower()


def _type(question: FirewallRequest) -> str | None:
    return None if question.type is None else output.printable(question.type, MAX_TYPE)


def _view(question: FirewallRequest) -> str:
    """The request as JSON, or bytes as text, cut to what may be shown."""
    view = question.view
    if isinstance(view, bytes):
        text = view[:MAX_VIEW].decode("ascii", "backslashreplace") + "…" * (len(view) > MAX_VIEW)
    else:
        text = msgspec.json.encode(view, enc_hook=lambda value: type(value).__name__).decode()
    return output.printable(text, MAX_VIEW)
