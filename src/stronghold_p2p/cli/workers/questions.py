"""The questions of all workers, for one asker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, cast

import msgspec

from ...events import Direction, QuestionKind
from ...identity import PeerId
from ...multiaddr import Multiaddr
from ..ask.asked import Answer
from ..ask.asked import Asked as AnyQuestion
from ..ask.asker import Asker, put
from ..ask.person import Person
from ..ask.program import Program
from .channel import Asked, Ended, Give, Given, Shown, ToWorker

__all__ = ["Question", "Questions", "WorkersPerson", "WorkersProgram", "WorkersQuestions", "ban_there"]

Handler = Callable[["Question"], Awaitable[None]]


class Question:
    """A question of a worker, as an asker takes it."""

    def __init__(
        self, id: int, asked: Asked, send: Callable[[ToWorker], None], reject_network: Callable[[str], None]
    ) -> None:
        """``reject_network`` is told the network that an answer has rejected."""
        self.id: Final = id
        self.kind: Final = cast("QuestionKind", asked.kind)
        self.peer: Final = PeerId.parse(asked.peer)
        self.name: Final = asked.name
        self.address: Final = None if asked.address is None else Multiaddr.parse(asked.address)
        self.direction: Final = Direction.INBOUND if asked.inbound else Direction.OUTBOUND
        self.type: Final = asked.type
        self.view: Final = msgspec.Raw(asked.view.encode())  # JSON already, or at least text
        self.network: Final = asked.network
        self.path: Final[tuple[Hashable, ...]] = tuple(asked.path)
        self.expires: Final = asyncio.get_running_loop().time() + asked.seconds
        self.need: Final = asked.need
        self.agreed: Final = asked.agreed
        self.outcome: str | None = None
        self.by: str | None = None
        self.reason: str | None = None
        self._asked = asked
        self._send = send
        self._reject_network = reject_network
        self._ended = asyncio.Event()
        self._given: asyncio.Future[Given] | None = None

    @property
    def waiting(self) -> int:
        return self._asked.waiting if self.outcome is None else 0

    @property
    def is_answered(self) -> bool:
        return self._given is not None

    @property
    def is_settled(self) -> bool:
        """Its worker has nothing more to say of it."""
        return self.outcome is not None and (self._given is None or self._given.done())

    async def give(self, answer: Answer) -> int:
        """As :func:`give`."""
        self._given = asyncio.get_running_loop().create_future()
        self._send(Give(self._asked.id, answer))
        try:
            given = await self._given
            if given.error is not None:
                # There it has another number.
                raise ValueError(given.error.replace(f"question {self._asked.id} ", f"question {self.id} "))
            if given.ended:
                if answer.act == "network" and self.network is not None:
                    self._reject_network(self.network)
                await self._ended.wait()
            return given.ended
        finally:
            self._given = None

    def reject(self, reason: str | None = None) -> bool:
        self._send(Give(self._asked.id, Answer("reject", reason=reason)))
        return True

    def count_shown(self, times: int) -> None:
        self._send(Shown(self._asked.id, times))

    async def ended(self) -> None:
        """Returns when it has ended."""
        await self._ended.wait()

    def take(self, message: Given | Ended) -> None:
        """What its worker says of it."""
        match message:
            case Given() if self._given is not None and not self._given.done():
                self._given.set_result(message)
            case Ended(_, outcome, by, reason):
                self.outcome, self.by, self.reason = outcome or "withdrawn", by, reason
                self._ended.set()

    def lose(self, outcome: str, by: str | None) -> None:
        """Its worker has ended."""
        self.take(Given(self._asked.id, 0))
        self.take(Ended(self._asked.id, outcome, by, None))


class Questions:
    """Has an asker answer the questions of all workers. Each is put by a task that ``start`` makes. When a network is rejected,
    all its questions are, and it causes none for ``quiet`` seconds, in whichever worker."""

    def __init__(self, quiet: float | None) -> None:
        self.leave: Callable[[], None] = lambda: None
        """Called when the asker answers no more."""
        self.start: Callable[[Any], object]
        self._open: set[Question] = set()
        self._quiet = quiet or 0.0
        self._rejected: dict[str, float] = {}
        """Until when each network is."""
        self._last_id = 0
        self._handler: Handler | None = None

    @property
    def has_answerer(self) -> bool:
        return self._handler is not None

    def on_firewall_request(self, handler: Handler, *, by: str) -> None:
        self._handler = handler

    def remove_firewall_handler(self, handler: Handler) -> None:
        self._handler = None
        self.leave()

    def add(self, asked: Asked, send: Callable[[ToWorker], None]) -> Question:
        """Puts a question, unless its network was rejected."""
        self._last_id += 1
        question = Question(self._last_id, asked, send, self._reject)
        self._open.add(question)
        if self._rejected.get(asked.network or "", 0.0) > asyncio.get_running_loop().time():
            question.reject()
        elif self._handler is not None:
            self.start(put(self._handler(question), question))
        return question

    def discard(self, question: Question) -> None:
        """It is settled."""
        self._open.discard(question)

    def _reject(self, network: str) -> None:
        now = asyncio.get_running_loop().time()
        self._rejected = {each: until for each, until in self._rejected.items() if until > now}
        self._rejected[network] = now + self._quiet
        for question in self._open:
            if question.network == network and question.outcome is None:
                question.reject()


class WorkersQuestions:
    """Those of one worker that are open."""

    def __init__(self, all: Questions, send: Callable[[ToWorker], None]) -> None:
        self._all = all
        self._send = send
        self._open: dict[int, Question] = {}

    def take(self, message: Asked | Given | Ended) -> None:
        match message:
            case Asked(id):
                self._open[id] = self._all.add(message, self._send)
            case Given(id) | Ended(id) if id in self._open:
                self._open[id].take(message)
                if self._open[id].is_settled:
                    self._all.discard(self._open.pop(id))

    def lose(self, outcome: str = "lost", by: str | None = None) -> None:
        """The worker has ended."""
        for question in self._open.values():
            question.lose(outcome, by)
            self._all.discard(question)
        self._open.clear()


async def ban_there(peer: PeerId) -> None:
    """For askers, which ban: the worker whose question it is does that."""


class _OfWorkers(Asker):
    async def _answer(self, question: AnyQuestion, answer: Answer) -> int:
        assert isinstance(question, Question)
        return await question.give(answer)


class WorkersPerson(_OfWorkers, Person):
    def _ending(self, question: AnyQuestion) -> str:
        if question.outcome == "lost":
            return f"question {question.id} has ended, and is rejected: the worker has ended that asked."
        return super()._ending(question)


class WorkersProgram(_OfWorkers, Program): ...
