"""Questions as records, for a program."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Literal, get_args

import msgspec

from ...events.direction import direction_word
from .. import output, paths
from ..stdin import MAX_LINE
from .asked import MAX_REASON, Act, Answer, Asked, Ban, Questions
from .asker import Asker, LineSource
from .shown import type_of, view_of

__all__ = ["AnswerError", "Program"]

Word = Literal["allow", "always", "reject", "reject_network", "ban"]

ACTS: Final[dict[Word, Act]] = {
    "allow": "once",
    "always": "all",
    "reject": "reject",
    "reject_network": "network",
    "ban": "ban",
}


class Program(Asker):
    """Writes every question at once as a record, and takes answers in any order. Each question ends with one record,
    which says why."""

    def __init__(self, questions: Questions, lines: LineSource, *, ban: Ban) -> None:
        super().__init__(questions, lines, ban=ban)
        self._open: dict[int, tuple[Asked, asyncio.Future[Answer | None]]] = {}
        self._last = 0

    async def _put(self, question: Asked) -> None:
        loop = asyncio.get_running_loop()
        self._last = question.id
        output.result(self._record(question))
        try:
            while question.outcome is None:
                answer: asyncio.Future[Answer | None] = loop.create_future()
                self._open[question.id] = question, answer
                if (given := await answer) is None:
                    self._leave()
                    break
                await self._try(question, given)
        finally:
            del self._open[question.id]
            output.result(
                {
                    "event": "ended",
                    "id": question.id,
                    "reason": self._reason(question),
                    "by": question.by,
                    "why": None if question.reason is None else output.printable(question.reason, MAX_REASON),
                }
            )

    def _record(self, question: Asked) -> dict[str, Any]:
        """The question, when it is put."""
        return {
            "event": "firewall",
            "id": question.id,
            "kind": question.kind,
            "peer": str(question.peer),
            "name": question.name,
            "address": None if question.address is None else str(question.address),
            "relay": paths.relay_of(question.address),
            "direction": direction_word(question.direction),
            "type": type_of(question),
            "view": view_of(question),
            "seconds": round(max(question.expires - asyncio.get_running_loop().time(), 0.0), 3),
            "waiting": question.waiting,
            "need": question.need,
            "agreed": question.agreed,
        }

    async def _try(self, question: Asked, answer: Answer) -> None:
        try:
            answered = await self._answer(question, answer)
        except (TypeError, ValueError) as error:
            self._tell(AnswerError(str(error)))
            return
        if not answered and question.outcome is None:
            self._tell(AnswerError(f"question {question.id} needs {question.need} approvers, of which this is none"))

    def _reason(self, question: Asked) -> str | None:
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
                    self._tell(error)
        finally:
            for _, answer in self._open.values():
                if not answer.done():
                    answer.set_result(None)
        await super()._read()

    def _take(self, line: bytes) -> None:
        if len(line) > MAX_LINE:
            raise AnswerError(f"the answer is over {MAX_LINE:,} bytes")
        try:
            given = msgspec.json.decode(line, type=_AnswerLine)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise AnswerError(f"malformed answer: {error}; {EXPECTED}") from error
        question, answer = self._open.get(given.id, (None, None))
        if question is None or answer is None:
            has_ended = 0 < given.id <= self._last
            raise AnswerError(f"question {given.id} has ended" if has_ended else f"there is no question {given.id}")
        if answer.done():
            raise AnswerError(f"question {given.id} is being answered")
        answer.set_result(self._answer_of(question, given))

    def _answer_of(self, question: Asked, given: _AnswerLine) -> Answer:
        """What a line says. Raises AnswerError: nothing that could be an answer to this question."""
        word, types = given.answer, given.types
        if types is not None and word != "allow":
            raise AnswerError(f'"types" goes with "allow", not with "{word}"')
        if given.seconds is not None and types is None and word != "always":
            raise AnswerError('"for" goes with "allow" and its "types", or with "always" for everything')
        if given.reason is not None and word not in ("reject", "ban"):
            raise AnswerError(f'"reason" goes with "reject" or "ban", not with "{word}"')
        if word == "reject_network" and question.network is None:
            raise AnswerError(
                f"question {question.id} is about a peer without a connection, whose network is unknown: answer"
                ' "reject" or "ban"'
            )
        if word == "ban" and self._ban is None:
            raise AnswerError(
                f'question {question.id} is about a peer that cannot be banned from here: answer "reject"'
            )
        if types is None:
            return Answer(ACTS[word], given.seconds, reason=given.reason)
        if question.type not in types:
            raise AnswerError(
                f'"types" must have the type of question {question.id}, {type_of(question) or "which has none"}'
            )
        return Answer("type", given.seconds, frozenset(types) - {question.type})

    def _tell(self, error: AnswerError) -> None:
        output.result({"error": type(error).__name__, "message": str(error)})


class _AnswerLine(msgspec.Struct, forbid_unknown_fields=True):
    id: int
    answer: Word
    types: list[str] | None = None
    seconds: float | None = msgspec.field(name="for", default=None)
    reason: str | None = None


EXPECTED: Final = 'expected {"id":1,"answer":A}, where A is one of ' + ", ".join(f'"{word}"' for word in get_args(Word))


class AnswerError(Exception):
    """A line that answers no open question. It changes nothing."""
