"""Asking: requests that no rule decides wait here for an answer, within limits."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import Any, Final, Literal, NamedTuple, Self

from ..config import Config
from ..events import Direction
from ..identity import PeerId
from ..logs import SparingLog
from ..multiaddr import Multiaddr
from .rules import Firewall, Found, Rule, Subject, Verdict

__all__ = ["Approvals", "FirewallRequest", "FirewallRequestQueue"]

MAX_QUIET_PEERS: Final = 16_384
"""Peers remembered as unanswered; beyond that the oldest may ask again early, which the other limits still bound."""

Answer = Literal["approve", "reject", "reconsider"]


class Decision(NamedTuple):
    """Whether a request may pass, and the rule that was in force when that was decided."""

    allowed: bool
    found: Found


class FirewallRequest:
    """A question of the firewall. Answer it once, with :meth:`approve`, :meth:`reject` or :meth:`set_rule`, from any
    callback or task of the event loop; unanswered within ``Config.firewall_timeout`` it is as rejected.

    It ends earlier if the last request that waits on it goes away or is decided by a rule that was set meanwhile. An
    answer after that changes nothing, and returns False; an async handler at work on a question that nobody asks any
    more, or has waited for too long, is cancelled.
    """

    __slots__ = (
        "_answered",
        "_approvals",
        "_handler",
        "_key",
        "_rule",
        "_timer",
        "_waiting",
        "address",
        "direction",
        "kind",
        "peer",
        "type",
        "view",
    )

    def __init__(
        self,
        approvals: Approvals,
        kind: Literal["peer", "request"],
        subject: Subject,
        address: Multiaddr | None,
        rule: Rule | None,
    ) -> None:
        self.kind: Final = kind
        """``"peer"``: no rule is known for this peer; ``"request"``: this one request."""
        self.peer: Final = subject.peer
        self.direction: Final = subject.direction
        self.address: Final = address
        """Where the peer is, if it is connected."""
        self.type: Final = subject.type
        """The type of the request; of the first one, if the question is about the peer."""
        self.view: Final = subject.view
        """What the firewall sees of it."""
        self._approvals = approvals
        self._rule = rule
        # Requests share a question about their peer; a question about a request is its own.
        self._key: Hashable = (subject.peer, subject.direction) if kind == "peer" else self
        self._timer: asyncio.TimerHandle | None = None
        self._answered: Awaitable[Any] | None = None
        self._handler: asyncio.Task[None] | None = None
        self._waiting: dict[asyncio.Future[Answer], None] = {}

    def __repr__(self) -> str:
        return f"<FirewallRequest {self.kind} {self.direction.name} {self.peer} {self.type or ''}>"  # never the view

    @property
    def waiting(self) -> int:
        """Requests that wait on the answer; 0 when the question has ended."""
        return len(self._waiting)

    def approve(self) -> bool:
        """The requests waiting pass; no rule is kept. False if the question has ended."""
        return self._end("approve")

    def reject(self) -> bool:
        """The requests waiting are rejected; no rule is kept. False if the question has ended."""
        return self._end("reject")

    def set_rule(self, rule: Rule) -> bool:
        """Keeps ``rule`` for the peer and this direction, and applies it to the requests waiting. False if the question
        has ended: nothing is kept then."""
        if not self._waiting:
            return False
        self._approvals.firewall.set_peer_rule(self.peer, rule, self.direction)
        self._approvals.keep_rule(self.peer, self.direction, rule)
        if self._waiting:
            # A policy's rule goes before this one and still says to ask: then the rule is the answer.
            verdict = rule.verdict(Subject(self.peer, self.direction, self.type, self.view))
            if verdict is not Verdict.ASK:
                self._end("approve" if verdict is Verdict.ALLOW else "reject")
        return True

    def _end(self, answer: Answer) -> bool:
        if not self._waiting:
            return False
        for future in self._waiting:
            if not future.done():
                future.set_result(answer)
        self._waiting.clear()
        self._approvals._forget(self)
        return True


class FirewallRequestQueue:
    """Questions for ``async for``; those that end meanwhile leave it."""

    def __init__(self, buffer: int) -> None:
        if buffer < 1:
            raise ValueError(f"buffer must be at least 1, not {buffer}")
        self._questions: dict[FirewallRequest, None] = {}
        self._buffer = buffer
        self._closed = False
        self._changed = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FirewallRequest:
        while not self._questions:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        question = next(iter(self._questions))
        del self._questions[question]
        return question

    def put(self, question: FirewallRequest) -> bool:
        """False if the queue is full."""
        if len(self._questions) >= self._buffer:
            return False
        self._questions[question] = None
        self._changed.set()
        return True

    def discard(self, question: FirewallRequest) -> None:
        """Nobody asks it any more: it must not take the place of another."""
        self._questions.pop(question, None)

    def close(self) -> None:
        """Ends the iteration."""
        self._closed = True
        self._changed.set()


class Approvals:
    """Decides requests that need an answer first.

    A question about a peer holds all requests of that peer and direction. How many questions are open, and how many
    requests and bytes wait, is limited in all and by peer: what is over is rejected. A peer that went unanswered raises
    no new question for ``Config.firewall_quiet``, so that it cannot wear out a person.
    """

    def __init__(self, firewall: Firewall, config: Config) -> None:
        self.firewall = firewall
        self.keep_rule: Callable[[PeerId, Direction, Rule], object] = lambda *_: None
        """Is told of each rule that an answer sets, for whoever remembers them."""
        self._config = config
        self._handler: Callable[[FirewallRequest], Any] | None = None
        self._queue: FirewallRequestQueue | None = None
        self._questions: dict[Hashable, FirewallRequest] = {}
        self._questions_by_peer: Counter[PeerId] = Counter()
        self._waiting = 0
        self._waiting_by_peer: Counter[PeerId] = Counter()
        self._bytes = 0
        self._bytes_by_peer: Counter[PeerId] = Counter()
        self._quiet: OrderedDict[PeerId, float] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._log_failure = SparingLog(
            logging.ERROR, "the handler of firewall requests failed: the request is rejected"
        )

    def set_handler(self, handler: Callable[[FirewallRequest], Any]) -> None:
        """Has ``handler``, plain or async, answer questions. Raises RuntimeError if someone answers already."""
        self._check_free()
        self._handler = handler

    def open_queue(self, buffer: int) -> FirewallRequestQueue:
        """Has whoever iterates over the queue answer. Raises RuntimeError as above."""
        self._check_free()
        self._queue = FirewallRequestQueue(buffer)
        return self._queue

    def close(self) -> None:
        """Rejects what waits and what would have to wait, and ends the iteration."""
        self._closed = True
        for question in list(self._questions.values()):
            question.reject()
        for task in self._tasks:
            task.cancel()
        if self._queue is not None:
            self._queue.close()

    def rules_changed(self, peer: PeerId | None) -> None:
        """Has those questions reconsidered whose rule is another one now."""
        for question in list(self._questions.values()):
            if peer is None or question.peer == peer:
                rule = self.firewall.find(question.peer, question.direction).rule
                if rule is not question._rule:
                    question._end("reconsider")
                    self._abandon(question)

    async def decide(self, subject: Subject, address: Multiaddr | None, size: int) -> Decision:
        """Whether the request may pass, after asking if need be. ``size``: its bytes, which count as waiting."""
        counted = False
        try:
            while True:
                found = self.firewall.find(subject.peer, subject.direction)
                verdict = Verdict.ASK if found.rule is None else found.rule.verdict(subject)
                if verdict is not Verdict.ASK:
                    return Decision(verdict is Verdict.ALLOW, found)
                if not counted:
                    if not self._has_room(subject.peer, size):
                        return Decision(False, found)
                    self._count(subject.peer, 1, size)
                    counted = True
                answer = await self._ask(subject, address, found.rule)
                if answer != "reconsider":
                    return Decision(answer == "approve", found)
        finally:
            if counted:
                self._count(subject.peer, -1, -size)

    async def _ask(self, subject: Subject, address: Multiaddr | None, rule: Rule | None) -> Answer:
        """Waits for the answer to the open question about the peer, or to a new one."""
        question = self._questions.get((subject.peer, subject.direction)) if rule is None else None
        if question is None:
            question = FirewallRequest(self, "peer" if rule is None else "request", subject, address, rule)
            if not self._may_be_raised(question):
                return "reject"
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        question._waiting[answer] = None
        try:
            if question._timer is None:
                self._raise(question)
            return await answer
        finally:
            if answer in question._waiting:  # it goes away unanswered
                del question._waiting[answer]
                if not question._waiting:
                    if question.direction is Direction.INBOUND:
                        self._silence(question.peer)  # else a peer that withdraws what it asks could ask for ever
                    self._abandon(question)

    def _has_room(self, peer: PeerId, size: int) -> bool:
        """Whether one more request may wait."""
        config = self._config
        return (
            self._waiting < config.max_firewall_waiting_requests
            and self._waiting_by_peer[peer] < config.max_firewall_waiting_requests_per_peer
            and self._bytes + size <= config.max_firewall_waiting_bytes
            and self._bytes_by_peer[peer] + size <= config.max_firewall_waiting_bytes_per_peer
        )

    def _may_be_raised(self, question: FirewallRequest) -> bool:
        return (
            not self._closed
            and len(self._questions) < self._config.max_firewall_questions
            and self._questions_by_peer[question.peer] < self._config.max_firewall_questions_per_peer
            and self._quiet.get(question.peer, 0.0) <= asyncio.get_running_loop().time()
        )

    def _raise(self, question: FirewallRequest) -> None:
        """Puts a new question to whoever answers; it is rejected if there is nobody, or no room in the queue."""
        self._questions[question._key] = question
        self._questions_by_peer[question.peer] += 1
        question._timer = asyncio.get_running_loop().call_later(self._config.firewall_timeout, self._expire, question)
        if not self._put(question):
            question.reject()

    def _put(self, question: FirewallRequest) -> bool:
        if self._queue is not None:
            return self._queue.put(question)
        if self._handler is None:
            return False
        try:
            answered = self._handler(question)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a plain function is not cancelled: its own
            self._log_failure.write(exc_info=error)
            return False
        if hasattr(answered, "__await__"):
            question._answered = answered
            question._handler = task = asyncio.get_running_loop().create_task(self._run(question, answered))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _run(self, question: FirewallRequest, answered: Awaitable[Any]) -> None:
        try:
            await answered
        except Exception as error:  # noqa: BLE001 - whatever a handler raises
            self._log_failure.write(exc_info=error)
            question.reject()

    def _expire(self, question: FirewallRequest) -> None:
        """Nobody has answered."""
        self._silence(question.peer)
        question.reject()
        self._abandon(question)

    def _silence(self, peer: PeerId) -> None:
        self._quiet[peer] = asyncio.get_running_loop().time() + self._config.firewall_quiet
        self._quiet.move_to_end(peer)
        if len(self._quiet) > MAX_QUIET_PEERS:
            self._quiet.popitem(last=False)

    def _abandon(self, question: FirewallRequest) -> None:
        """The question has ended without an answer: nobody need think about it any more. Otherwise a remote would make as
        many handlers wait as it likes."""
        self._forget(question)
        if question._handler is not None and question._handler is not asyncio.current_task():
            question._handler.cancel()
            if iscoroutine(question._answered) and getcoroutinestate(question._answered) == CORO_CREATED:
                question._answered.close()  # it has not begun, and never will

    def _forget(self, question: FirewallRequest) -> None:
        # By now another question may be open about the same peer.
        if self._questions.get(question._key) is question:
            del self._questions[question._key]
            _subtract(self._questions_by_peer, question.peer, 1)
            if self._queue is not None:
                self._queue.discard(question)
        if question._timer is not None:
            question._timer.cancel()

    def _count(self, peer: PeerId, requests: int, size: int) -> None:
        self._waiting += requests
        self._bytes += size
        _subtract(self._waiting_by_peer, peer, -requests)
        _subtract(self._bytes_by_peer, peer, -size)

    def _check_free(self) -> None:
        if self._handler is not None or self._queue is not None:
            raise RuntimeError("firewall requests are answered already: by one handler, or one iterator")


def _subtract(counter: Counter[PeerId], peer: PeerId, number: int) -> None:
    """Counts down, and forgets a peer at zero: a remote makes as many peers as it likes."""
    counter[peer] -= number
    if not counter[peer]:
        del counter[peer]
