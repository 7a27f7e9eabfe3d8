"""Interactive approval: the firewall's questions as lines, for a person or a program."""

from __future__ import annotations

import abc
import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol, get_args

import msgspec

from ..config import Config
from ..events import Direction
from ..firewall.answerers import Turns
from ..firewall.questions import FirewallRequest
from ..peer import StrongholdP2p
from . import output, paths
from .stdin import MAX_LINE

__all__ = ["Asker", "LineSource", "Person", "Program"]

logger = logging.getLogger("stronghold_p2p")

MAX_TYPE = 100
"""Characters that are shown of a type: in untyped JSON it is the remote's own text."""

MAX_VIEW = 500
"""Characters that are shown of a request: enough to see what is asked for, and no more than a terminal holds."""

Answer = Literal["allow", "always", "reject", "reject_network", "ban"]


class LineSource(Protocol):
    """Where answers come from: stdin, a page, another device. Has one reader at a time."""

    @property
    def ended(self) -> bool:
        """Nothing comes any more."""

    async def read(self) -> bytes | None:
        """The next line, without its end; None when nothing comes any more. May be cancelled, and called again."""

    def discard(self) -> None:
        """Drops what was said before a question was shown: it was not meant for it."""

    def close(self) -> None:
        """Ends it, also for who reads."""


class Asker(abc.ABC):
    """Answers questions from lines of input. At the end of the input it stops: other answerers get the questions, or they
    are rejected if there are none."""

    def __init__(
        self, peer: StrongholdP2p[Any, Any], lines: LineSource, config: Config | None = None, *, on_stdout: bool = True
    ) -> None:
        """``config``: the peer's, for the times that are told. ``on_stdout``: that is where questions are shown."""
        self._peer = peer
        self._on_stdout = on_stdout
        self._lines = lines
        self._config = config or Config()
        self._told = False
        self._stalled = False
        self._stopped = False
        peer.on_firewall_request(self._ask)

    async def run(self) -> None:
        """Until it is cancelled; then it answers no more, so that closing does not wait for it."""
        try:
            await self._read()
        finally:
            self._stopped = True
            self._lines.close()

    async def _ask(self, question: FirewallRequest) -> None:
        """Cancelled if the question ends before it is answered here."""
        if self._lines.ended:
            self._leave()
            return
        if self._on_stdout and output.is_stalled():
            if not self._stalled:
                logger.warning("stdout is not being read: requests that no rule decides are rejected until it is")
            self._stalled = True
            question.reject()
            return
        self._stalled = False
        logger.debug("question %d: a request %s %s", question.id, _toward(question), question.peer)
        await self._put(question)

    @abc.abstractmethod
    async def _put(self, question: FirewallRequest) -> None: ...

    async def _read(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def _answer(self, question: FirewallRequest, answer: Answer) -> int:
        """The number of questions that it ended: 0 if this one has ended before; then the answer changes nothing."""
        match answer:
            case "allow":
                return question.approve()
            case "always":
                return question.approve_all()
            case "reject":
                return question.reject()
            case "reject_network":
                return question.reject_network()
            case "ban":
                if not question.reject():  # first: closing its connections would end the question
                    return False
                await self._peer.ban_peer(question.peer)
                return True

    def _leave(self) -> None:
        """Answers no more."""
        if not self._told and not self._stopped:
            self._told = True
            logger.warning("the input has ended: requests that no rule decides are rejected from now on")
        self._peer.remove_firewall_handler(self._ask)


class Person(Asker):
    """Shows one question at a time as text, by turns among networks and then among peers."""

    def __init__(
        self,
        peer: StrongholdP2p[Any, Any],
        lines: LineSource,
        config: Config | None = None,
        *,
        write: Callable[[str], object] | None = None,
    ) -> None:
        """``write`` shows a text of one line or more; None: on stdout."""
        super().__init__(peer, lines, config, on_stdout=write is None)
        self._write = write or output.note
        self._turns = Turns()
        self._missed = 0

    async def _put(self, question: FirewallRequest) -> None:
        try:
            await self._turns.take(question)
        except asyncio.CancelledError:
            self._missed += question.outcome != "rejected"  # as the person has said, about all of a network
            raise
        try:
            await self._show(question)
        finally:
            self._turns.pass_on()

    async def _show(self, question: FirewallRequest) -> None:
        if not question.waiting:
            self._missed += 1
            return
        if self._lines.ended:
            self._leave()
            return
        self._write(self._text(question))
        try:
            if self._on_stdout:
                await output.shown()
            self._missed = 0
            self._lines.discard()
            answer = await self._read_answer(question)
            if answer is None:
                self._leave()
                return
            answered = await self._answer(question, answer)
        except asyncio.CancelledError:
            self._write(self._ending(question))
            raise
        self._write(self._done(question, answer, answered) if answered else self._ending(question))

    def _text(self, question: FirewallRequest) -> str:
        if question.kind == "request":
            about = "may this request pass?"
        elif question.waiting == 1:
            about = "no rule is known for this peer. May its request pass?"
        else:
            about = (
                f"no rule is known for this peer. May its {question.waiting} requests pass, of which this is the first?"
            )
        relay = paths.relay_of(question.address)
        lines = [
            f"question {question.id}: {about}",
            f"  peer       {question.peer}",
            f"  address    {question.address or 'not connected'}",
            *([] if relay is None else [f"  path       {paths.in_words(relay)}"]),
            f"  direction  {_direction(question)}",
            f"  type       {_type(question) or '-'}",
            f"  request    {_view(question)}",
        ]
        if self._missed:
            lines.insert(0, f"{_count(self._missed, 'question')} ended before being shown")
        if self._turns.waiting:
            lines.append(f"  ({_count(self._turns.waiting, 'more question')} waiting)")
        return "\n".join(("", *lines, _choices(question)))

    def _done(self, question: FirewallRequest, answer: Answer, ended: int) -> str:
        """Says what an answer has done, ``ended`` being the number of questions that it ended."""
        if answer != "reject_network":
            return DONE[answer]
        others = f" with {_count(ended - 1, 'more question')}" if ended > 1 else ""
        return f"rejected{others}.{self._quiet(f'requests from {question.network}')}"

    def _quiet(self, about: str) -> str:
        """What is not asked for a while."""
        seconds = self._config.firewall_quiet
        return "" if seconds is None else f" You are not asked about {about} for {seconds:g} s."

    def _ending(self, question: FirewallRequest) -> str:
        """Says why a question that was shown needs no answer any more."""
        of_type = f"{_type(question)} requests" if question.type is not None else "requests without a type"
        quiet = self._quiet("this peer" if question.kind == "peer" else f"{of_type} {_toward(question)} this peer")
        match question.outcome:
            case "timed out":
                ending = f"was not answered within {self._config.firewall_timeout:g} s: rejected.{quiet}"
            case "withdrawn" if question.direction is Direction.INBOUND:
                ending = f"has ended: the requester left.{quiet}"
            case "withdrawn":
                ending = "has ended: the request was withdrawn."
            case "reconsidered":
                ending = "has ended: a rule decides it now."
            case "crowded out":
                ending = "has ended: too many others wait for an answer."
            case "unanswered":
                ending = "has ended: nobody answers any more."
            case "closed":
                ending = "has ended: the peer is closing."
            case _:
                ending = f"was answered elsewhere: {question.outcome}."
        return f"question {question.id} {ending}"

    async def _read_answer(self, question: FirewallRequest) -> Answer | None:
        """What the person decides; None if there is nobody."""
        choices = _choices(question)
        while (line := await self._lines.read()) is not None:
            word = line.strip().lower()
            answer = WORDS.get(word)
            if answer is not None and (answer != "reject_network" or question.network is not None):
                return answer
            self._write(f"please answer {choices}" if word else choices)
        return None


def _choices(question: FirewallRequest) -> str:
    reject = "r(eject)" if question.network is None else "r(eject), reject its n(etwork)"
    return f"o(nce), a(lways), {reject} or b(an)?"


WORDS: dict[bytes, Answer] = {
    b"once": "allow",
    b"o": "allow",
    b"always": "always",
    b"a": "always",
    b"reject": "reject",
    b"r": "reject",
    b"network": "reject_network",
    b"n": "reject_network",
    b"ban": "ban",
    b"b": "ban",
}
DONE = {
    "allow": "allowed, this once",
    "always": "allowed, and always from now on",
    "reject": "rejected",
    "ban": "rejected, and the peer is banned",
}


class Program(Asker):
    """Writes every question at once as a record, and takes answers in any order. Each question ends with one record,
    which says why."""

    def __init__(
        self,
        peer: StrongholdP2p[Any, Any],
        lines: LineSource,
        config: Config | None = None,
        *,
        write: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        """``write`` shows a record, which is JSON; None: on stdout."""
        super().__init__(peer, lines, config, on_stdout=write is None)
        self._write = write or output.result
        self._answers: dict[int, tuple[FirewallRequest, asyncio.Future[Answer | None]]] = {}
        self._last = 0

    async def _put(self, question: FirewallRequest) -> None:
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._answers[question.id] = question, future
        self._last = question.id
        self._write(
            {
                "event": "firewall",
                "id": question.id,
                "kind": question.kind,
                "peer": str(question.peer),
                "address": None if question.address is None else str(question.address),
                "relay": paths.relay_of(question.address),
                "direction": _direction(question),
                "type": _type(question),
                "view": _view(question),
            }
        )
        try:
            answer = await future
            if answer is None:
                self._leave()
            else:
                await self._answer(question, answer)
        finally:
            del self._answers[question.id]
            self._write({"event": "ended", "id": question.id, "reason": self._reason(question)})

    def _reason(self, question: FirewallRequest) -> str | None:
        """Why this asker does not wait for an answer any more."""
        if question.outcome in {None, "unanswered"} and self._lines.ended:
            return "closed" if self._stopped else "input ended"
        return question.outcome

    async def _read(self) -> None:
        try:
            while (line := await self._lines.read()) is not None:
                try:
                    self._take(line)
                except AnswerError as error:
                    self._write({"error": type(error).__name__, "message": str(error)})
        finally:
            for _, future in self._answers.values():
                if not future.done():
                    future.set_result(None)
        await super()._read()

    def _take(self, line: bytes) -> None:
        if len(line) > MAX_LINE:
            raise AnswerError(f"the answer is over {MAX_LINE:,} bytes")
        try:
            answer = msgspec.json.decode(line, type=_AnswerLine)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise AnswerError(f"malformed answer: {error}; {EXPECTED}") from error
        question, future = self._answers.get(answer.id, (None, None))
        if question is None or future is None or future.done():
            has_ended = 0 < answer.id <= self._last
            raise AnswerError(f"question {answer.id} has ended" if has_ended else f"there is no question {answer.id}")
        if answer.answer == "reject_network" and question.network is None:
            raise AnswerError(
                f"question {answer.id} is about a peer without a connection, whose network is unknown: answer"
                ' "reject" or "ban"'
            )
        future.set_result(answer.answer)


class _AnswerLine(msgspec.Struct, forbid_unknown_fields=True):
    id: int
    answer: Answer


EXPECTED: Final = 'expected {"id":1,"answer":A}, where A is one of ' + ", ".join(
    f'"{answer}"' for answer in get_args(Answer)
)


class AnswerError(Exception):
    """A line that answers no open question. It changes nothing."""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _direction(question: FirewallRequest) -> str:
    return str(question.direction.name).lower()


def _toward(question: FirewallRequest) -> str:
    return "from" if question.direction is Direction.INBOUND else "to"


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
