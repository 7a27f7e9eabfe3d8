"""Approvals: requests that no rule decides wait here for an answer, within limits."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from itertools import count
from typing import Any, Final, NamedTuple

from ..config import Config
from ..events import Direction, Event, FirewallRequestEnded, FirewallRequestOpened, Outcome, QuestionKind
from ..identity import PeerId
from ..loops import Owner
from ..multiaddr import Multiaddr
from .answerers import FirewallRequestQueue, Handler, Queue
from .questions import Answer, Answerer, FirewallRequest, Question
from .rules import AppliedRule, Firewall, Rule, Subject, Verdict

__all__ = ["Approvals"]

MAX_QUIET_PEERS: Final = 16_384
"""Peers remembered as unanswered; beyond that the oldest may cause a question early, within the other limits."""


class Decision(NamedTuple):
    """Whether a request may pass, and the rule that was in force when that was decided."""

    allowed: bool
    applied: AppliedRule


class Approvals:
    """Decides requests that need an answer first.

    A question about a peer holds all requests of that peer and direction. All answerers get it, and the first answer
    decides. Without any answerer it is rejected. Open questions, waiting requests and their bytes are limited, in total
    and per peer; excess requests are rejected. After an unanswered question, a peer causes no new ones for
    ``Config.firewall_quiet``, to protect people from floods.

    ``emit`` gets an event when a question starts to wait for an answer, and one when it ends.
    """

    def __init__(self, firewall: Firewall, config: Config, emit: Callable[[Event], None]) -> None:
        self.firewall = firewall
        self.keep_rule: Callable[[PeerId, Direction, Rule], object] = lambda *_: None
        """Called with each rule set by an answer, to store it."""
        self._config = config
        self._emit = emit
        self._answerers: dict[Answerer, None] = {}
        self._ids = count(1)
        self._questions: dict[Hashable, Question] = {}
        self._questions_by_peer: Counter[PeerId] = Counter()
        self._timers: dict[Question, asyncio.TimerHandle] = {}
        self._setting: Question | None = None
        """The question whose answer is setting a rule right now."""
        self._waiting = 0
        self._waiting_by_peer: Counter[PeerId] = Counter()
        self._bytes = 0
        self._bytes_by_peer: Counter[PeerId] = Counter()
        self._quiet: OrderedDict[PeerId, float] = OrderedDict()
        self._closed = False

    # -- who answers -----------------------------------------------------------------------------

    def add_handler(self, function: Callable[[FirewallRequest], Any]) -> None:
        """Adds a handler, plain or async, and offers it the open questions."""
        self._add(Handler(function))

    def remove_handler(self, function: Callable[[FirewallRequest], Any]) -> None:
        """Removes a handler; open questions without another answerer are rejected."""
        for answerer in list(self._answerers):
            if isinstance(answerer, Handler) and answerer.function == function:
                self._remove(answerer)

    def open_queue(self, buffer: int, owner: Owner | None = None) -> FirewallRequestQueue:
        """Adds an iterator, and offers it the open questions.

        Raises:
            ValueError: ``buffer`` is below 1.
        """
        queue = Queue(buffer, owner or Owner())
        self._add(queue)
        return FirewallRequestQueue(queue, self._remove, self._forget)

    def close(self) -> None:
        """Rejects waiting and future questions, and ends handlers and iterators."""
        self._closed = True
        for question in list(self._questions.values()):
            question.end("closed")
        for answerer in list(self._answerers):
            self._remove(answerer)

    def _add(self, answerer: Answerer) -> None:
        if self._closed:
            answerer.close()
            return
        self._answerers[answerer] = None
        for question in list(self._questions.values()):
            question.offer(answerer)

    def _remove(self, answerer: Answerer) -> None:
        self._answerers.pop(answerer, None)
        for question in list(self._questions.values()):
            question.give_up(answerer)
        answerer.close()

    def _forget(self, queue: Queue) -> None:
        """The iterator was garbage-collected. Questions already taken from it can still be answered."""
        self._answerers.pop(queue, None)
        for question in list(queue.questions):
            question.give_up(queue)

    # -- requests --------------------------------------------------------------------------------

    async def decide(self, subject: Subject, address: Multiaddr | None, size: int) -> Decision:
        """Decides a request, with a question if needed. ``size``: its memory in bytes while it waits."""
        counted = False
        try:
            while True:
                applied = self.firewall.find(subject.peer, subject.direction)
                verdict = Verdict.ASK if applied.rule is None else applied.rule.verdict(subject)
                if verdict is not Verdict.ASK:
                    return Decision(verdict is Verdict.ALLOW, applied)
                if not counted:
                    if not self._has_room(subject.peer, size):
                        return Decision(False, applied)
                    self._count(subject.peer, 1, size)
                    counted = True
                answer = await self._ask(subject, address, applied.rule)
                if answer != "reconsider":
                    return Decision(answer == "pass", applied)
        finally:
            if counted:
                self._count(subject.peer, -1, -size)

    async def _ask(self, subject: Subject, address: Multiaddr | None, rule: Rule | None) -> Answer:
        """Waits for the answer to the open question about the peer, or to a new one."""
        question = self._questions.get((subject.peer, subject.direction)) if rule is None else None
        is_new = question is None
        if question is None:
            if not self._may_be_raised(subject.peer):
                return "reject"
            expires = asyncio.get_running_loop().time() + self._config.firewall_timeout
            kind: QuestionKind = "peer" if rule is None else "request"
            question = Question(next(self._ids), kind, subject, address, rule, expires, self)
        answer = question.join()
        try:
            if is_new:
                self._raise(question)
            return await answer
        finally:
            question.leave(answer)

    def _has_room(self, peer: PeerId, size: int) -> bool:
        """Whether one more request may wait."""
        config = self._config
        return (
            self._waiting < config.max_firewall_waiting_requests
            and self._waiting_by_peer[peer] < config.max_firewall_waiting_requests_per_peer
            and self._bytes + size <= config.max_firewall_waiting_bytes
            and self._bytes_by_peer[peer] + size <= config.max_firewall_waiting_bytes_per_peer
        )

    def _count(self, peer: PeerId, requests: int, size: int) -> None:
        self._waiting += requests
        self._bytes += size
        _subtract(self._waiting_by_peer, peer, -requests)
        _subtract(self._bytes_by_peer, peer, -size)

    # -- questions -------------------------------------------------------------------------------

    def rules_changed(self, peer: PeerId | None) -> None:
        """Re-evaluates the questions whose rule has changed."""
        for question in list(self._questions.values()):
            subject = question.subject
            if (peer is None or subject.peer == peer) and (
                self.firewall.find(subject.peer, subject.direction).rule is not question.rule
            ):
                question.end("rule set" if question is self._setting else "reconsidered")

    def set_rule(self, question: Question, rule: Rule) -> None:
        """Sets a rule as the answer. This ends the question, unless a policy's rule takes precedence."""
        peer, direction = question.subject.peer, question.subject.direction
        self._setting = question
        try:
            self.firewall.set_peer_rule(peer, rule, direction)
        finally:
            self._setting = None
        self.keep_rule(peer, direction, rule)

    def question_opened(self, question: Question) -> None:
        subject = question.subject
        self._emit(FirewallRequestOpened(question.id, subject.peer, subject.direction, subject.type, question.kind))

    def question_ended(self, question: Question, outcome: Outcome) -> None:
        subject = question.subject
        del self._questions[_key(question)]
        _subtract(self._questions_by_peer, subject.peer, 1)
        self._timers.pop(question).cancel()
        # A peer could send and withdraw requests for ever. Requests that we withdraw ourselves do not count.
        if outcome == "timed out" or (outcome == "withdrawn" and subject.direction is Direction.INBOUND):
            self._silence(subject.peer)
        if question.opened:
            self._emit(
                FirewallRequestEnded(question.id, subject.peer, subject.direction, subject.type, question.kind, outcome)
            )

    def _may_be_raised(self, peer: PeerId) -> bool:
        return (
            len(self._answerers) > 0
            and len(self._questions) < self._config.max_firewall_questions
            and self._questions_by_peer[peer] < self._config.max_firewall_questions_per_peer
            and self._quiet.get(peer, 0.0) <= asyncio.get_running_loop().time()
        )

    def _raise(self, question: Question) -> None:
        """Offers a new question to all answerers, until one answers."""
        self._questions[_key(question)] = question
        self._questions_by_peer[question.subject.peer] += 1
        loop = asyncio.get_running_loop()
        self._timers[question] = loop.call_at(question.expires, question.end, "timed out")
        for answerer in list(self._answerers):
            if answerer in self._answerers:  # one may remove another
                question.offer(answerer)
        question.open()

    def _silence(self, peer: PeerId) -> None:
        self._quiet[peer] = asyncio.get_running_loop().time() + self._config.firewall_quiet
        self._quiet.move_to_end(peer)
        if len(self._quiet) > MAX_QUIET_PEERS:
            self._quiet.popitem(last=False)


def _key(question: Question) -> Hashable:
    """Requests share a question about their peer; a question about a request is its own."""
    return (question.subject.peer, question.subject.direction) if question.kind == "peer" else question.id


def _subtract(counter: Counter[PeerId], peer: PeerId, number: int) -> None:
    """Counts down, and forgets a peer at zero, since a remote can create any number of peers."""
    counter[peer] -= number
    if not counter[peer]:
        del counter[peer]
