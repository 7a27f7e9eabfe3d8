"""Who answers questions, from lines of input; and what an answer does."""

from __future__ import annotations

import abc
import asyncio
import logging
from collections.abc import Awaitable
from typing import ClassVar, Protocol

from .. import output
from .asked import Answer, Asked, Ban, Questions, give
from .shown import toward

__all__ = ["Asker", "LineSource", "put"]

logger = logging.getLogger("stronghold_p2p")


class LineSource(Protocol):
    """Where answers come from, such as stdin. Has one reader at a time."""

    @property
    def ended(self) -> bool:
        """Nothing comes any more."""

    async def read(self) -> bytes | None:
        """The next line, without its end; None when nothing comes any more. May be cancelled, and called again."""

    def discard(self) -> None:
        """Drops what was said before a question was shown: it was not meant for it."""

    def close(self) -> None:
        """Ends it, also for who reads."""


class Elsewhere(Protocol):
    """A question of another process, such as an :class:`ApprovalRequest`."""

    @property
    def is_answered(self) -> bool:
        """Whether an answer was given here, which may count there."""

    def ended(self) -> Awaitable[object]:
        """Waits until the question has ended."""


class Asker(abc.ABC):
    """Answers questions from lines of input. At the end of the input it stops: other answerers get the questions, or they
    are rejected if there are none."""

    OTHERWISE: ClassVar = "requests that no rule decides are rejected"
    """What becomes of questions that this asker does not answer."""

    def __init__(self, questions: Questions, lines: LineSource, *, ban: Ban) -> None:
        self._questions = questions
        self._ban = ban
        self._lines = lines
        self._told = False
        self._stalled = False
        self._stopped = False
        questions.on_firewall_request(self._ask, by="person")

    async def run(self) -> None:
        """Until it is cancelled; then it answers no more, so that closing does not wait for it."""
        try:
            await self._read()
        finally:
            self._stopped = True
            self._lines.close()

    async def _ask(self, question: Asked) -> None:
        """Cancelled if the question ends before it is answered here."""
        if self._lines.ended:
            self._leave()
            return
        if output.is_stalled():
            if not self._stalled:
                logger.warning("stdout is not being read: %s until it is", self.OTHERWISE)
            self._stalled = True
            self._turn_away(question)
            return
        self._stalled = False
        logger.debug("question %d: a request %s %s", question.id, toward(question), question.peer)
        await self._put(question)

    @abc.abstractmethod
    async def _put(self, question: Asked) -> None: ...

    async def _read(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def _answer(self, question: Asked, answer: Answer) -> int:
        """As :func:`give`."""
        return await give(answer, question, self._ban)

    def _turn_away(self, question: Asked) -> None:
        """Does not show a question, of which there may be any number."""
        question.reject("nobody reads the questions")

    def _leave(self) -> None:
        """Answers no more."""
        if not self._told and not self._stopped:
            self._told = True
            logger.warning("the input has ended: %s from now on", self.OTHERWISE)
        self._questions.remove_firewall_handler(self._ask)


async def put(showing: Awaitable[None], question: Elsewhere) -> None:
    """Has an asker show a question until that has ended, or until what it has answered has come to an end."""
    shown, ended = asyncio.ensure_future(showing), asyncio.ensure_future(question.ended())
    try:
        await asyncio.wait((shown, ended), return_when=asyncio.FIRST_COMPLETED)
        if question.is_answered:
            await asyncio.wait((shown,))
    finally:
        shown.cancel()
        ended.cancel()
    await asyncio.wait((shown,))
    if not shown.cancelled():
        shown.result()
