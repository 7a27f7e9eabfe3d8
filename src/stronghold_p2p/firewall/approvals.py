"""Approvals: requests that no rule decides wait here for an answer, within limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Hashable
from typing import Any, Final, NamedTuple

from ..config import Config
from ..events import (
    Direction,
    Event,
    FirewallRequestEnded,
    FirewallRequestOpened,
    How,
    Outcome,
    QuestionKind,
)
from ..identity import PeerId
from ..loops import Owner, deadline_in, loop_time
from ..multiaddr import Multiaddr
from ..resources.refusals import Refusals
from .answerers import FirewallRequestQueue, Handler, Queue
from .questions import Answer, Answerer, FirewallRequest, Question, Quorum
from .room import Holder, Room
from .rules import AppliedRule, Firewall, Rule, Subject, Verdict
from .silence import Silence

__all__ = ["Approvals"]

logger = logging.getLogger("stronghold_p2p")


BY_RULE: Final = Answer("reconsider", "rule")


class Decision(NamedTuple):
    """Whether a request may pass, and the rule that was in force when that was decided."""

    allowed: bool
    applied: AppliedRule
    answer: Answer

    @property
    def how(self) -> How:
        return "approved" if self.allowed else self.answer.how or "rejected"


class NoQuorum:
    """There are no approvers: any answer counts."""

    need = 1

    def includes(self, approver: PeerId, peer: PeerId) -> bool:
        return False


class _Request:
    """A request that waits for an answer."""

    __slots__ = ("address", "answer", "holder", "question", "size", "subject")

    def __init__(self, subject: Subject, address: Multiaddr | None, size: int) -> None:
        self.subject: Final = subject
        self.address: Final = address
        self.holder: Final = Holder.of(subject, address)
        self.size: Final = size
        self.question: Question | None = None
        self.answer: asyncio.Future[Answer] | None = None
        """What it waits for, from that question."""


class Approvals:
    """Decides requests that need an answer first.

    A question about a peer holds all requests of that peer and direction. All answerers get it, and the first answer
    decides. Without any answerer it is rejected. Open questions, waiting requests and their bytes have limited room, see
    :class:`Room`; who gives way is rejected. After a question that somebody has seen and not answered, the peer causes no
    new ones like it for ``Config.firewall_quiet``, to protect people from floods.

    ``emit`` gets an event when a question starts to wait for an answer, and one when it ends. ``refusals`` counts who gave
    way. ``name_of`` has the names of peers.
    """

    def __init__(
        self,
        firewall: Firewall,
        config: Config,
        emit: Callable[[Event], None],
        refusals: Refusals,
        name_of: Callable[[PeerId], str | None] = lambda _: None,
    ) -> None:
        self.firewall = firewall
        self.name_of = name_of
        self.quorum: Quorum = NoQuorum()
        self.keep_rule: Callable[[PeerId, Direction, Rule], object] = lambda *_: None
        """Called with each rule set by an answer, to store it."""
        self._config = config
        self.patience: Final = config.firewall_timeout
        """Seconds within which a question ends."""
        self.quiet: Final = config.firewall_quiet
        """Seconds without a question at most; None: there is no such time."""
        self._emit = emit
        self._answerers: dict[Answerer, None] = {}
        self._last_id = 0
        self._questions: dict[Hashable, Question] = {}
        self._timers: dict[Question, asyncio.TimerHandle] = {}
        self._open: Room[Question] = Room(
            "max_firewall_questions", config, refusals, lambda question: question.end("crowded out")
        )
        self._waiting: Room[_Request] = Room("max_firewall_waiting_requests", config, refusals, self._turn_away)
        self._bytes: Room[_Request] = Room("max_firewall_waiting_bytes", config, refusals, self._turn_away)
        self._silence = Silence(config.firewall_quiet)
        self._forgotten = True
        """There was no answerer yet, and nobody was told of that."""
        self._closed = False

    # -- who answers -----------------------------------------------------------------------------

    def add_handler(self, function: Callable[[FirewallRequest], Any], by: str = "handler") -> None:
        """Adds a handler, plain or async, and offers it the open questions. ``by``: who answers through it.

        Raises:
            ValueError: ``by`` is what decisions by others are told with.
        """
        self.add(Handler(function, _checked(by)))

    def remove_handler(self, function: Callable[[FirewallRequest], Any]) -> None:
        """Removes a handler; open questions without another answerer are rejected."""
        for answerer in list(self._answerers):
            if isinstance(answerer, Handler) and answerer.function == function:
                self.remove(answerer)

    def open_queue(self, buffer: int, owner: Owner | None = None, by: str = "handler") -> FirewallRequestQueue:
        """Adds an iterator, and offers it the open questions. ``by`` as for :meth:`add_handler`.

        Raises:
            ValueError: ``buffer`` is below 1, or as for :meth:`add_handler`.
        """
        _checked(by)
        queue = Queue(buffer, owner or Owner())
        self.add(queue)
        return FirewallRequestQueue(queue, by, self.remove, self._forget)

    def add(self, answerer: Answerer) -> None:
        """Adds an answerer, and offers it the open questions."""
        if self._closed:
            answerer.close()
            return
        self._forgotten = False
        self._answerers[answerer] = None
        for question in list(self._questions.values()):
            question.offer(answerer)

    def remove(self, answerer: Answerer) -> None:
        """Removes an answerer, and ends it; open questions without another one are rejected."""
        self._answerers.pop(answerer, None)
        for question in list(self._questions.values()):
            question.give_up(answerer)
        answerer.close()

    def close(self) -> None:
        """Rejects waiting and future questions, and ends handlers and iterators."""
        self._closed = True
        for question in list(self._questions.values()):
            question.end("closed")
        for answerer in list(self._answerers):
            self.remove(answerer)

    def _forget(self, queue: Queue) -> None:
        """The iterator was garbage-collected. Questions already taken from it can still be answered."""
        self._answerers.pop(queue, None)
        for question in list(queue.questions):
            question.give_up(queue)

    # -- requests --------------------------------------------------------------------------------

    async def decide(self, subject: Subject, address: Multiaddr | None, size: int) -> Decision:
        """Decides a request, with a question if needed. ``size``: its memory in bytes while it waits."""
        request = _Request(subject, address, max(size, 1))
        try:
            answer = BY_RULE
            while True:
                applied = self.firewall.find(subject.peer, subject.direction)
                verdict = Verdict.ASK if applied.rule is None else applied.rule.verdict(subject)
                if verdict is not Verdict.ASK:
                    return Decision(verdict is Verdict.ALLOW, applied, answer)
                answer = await self._ask(request, applied.rule)
                if answer.result != "reconsider":
                    return Decision(answer.result == "pass", applied, answer)
        finally:
            self._leave(request)

    async def _ask(self, request: _Request, rule: Rule | None) -> Answer:
        """Waits for the answer to the open question about the peer, or to a new one."""
        subject = request.subject
        question = self._questions.get((subject.peer, subject.direction)) if rule is None else None
        is_new = question is None
        if question is None:
            if not self._answerers:
                self._warn_of_nobody(request.subject)
                return Answer("reject", "firewall", "closed" if self._closed else "no answerer")
            question = self._make_question(request, rule)
            if self._silence.includes(question.about, request.holder, loop_time()):
                return Answer("reject", "firewall", "quiet")
            self._questions[_key(question)] = question
        request.question, request.answer = question, question.join()
        try:
            if not self._find_room(request, question):
                question.turn_away(request.answer)
            elif is_new:
                self._put(question)
            return await request.answer
        finally:
            question.leave(request.answer)

    def _warn_of_nobody(self, subject: Subject) -> None:
        """Else a forgotten firewall would be silent."""
        if self._forgotten and not self._closed:
            self._forgotten = False
            logger.warning(
                "a request %s %s was rejected, since no rule decides it and nobody answers the firewall's questions: set a"
                " rule, or add a handler with on_firewall_request (this is said once)",
                "from" if subject.direction is Direction.INBOUND else "to",
                subject.peer,
            )

    def _find_room(self, request: _Request, question: Question) -> bool:
        """Whether the request may wait, and its question be open; others may have to give way for that."""
        places: list[tuple[Room[Any], Any, int]] = [
            (self._waiting, request, 1),
            (self._bytes, request, request.size),
            (self._open, question, 1),
        ]
        places = [(room, item, size) for room, item, size in places if item not in room]
        for room, item, size in places:
            room.add(item, size)
        # All are asked first: nobody must give way to a newcomer that is refused itself.
        if any(room.refuses(item) for room, item, _ in places):
            return False
        return all(room.make(item) for room, item, _ in places)

    def _turn_away(self, request: _Request) -> None:
        """The request gives way."""
        assert request.question is not None
        assert request.answer is not None
        self._leave(request)
        request.question.turn_away(request.answer)

    def _leave(self, request: _Request) -> None:
        for room in (self._waiting, self._bytes):
            room.discard(request)

    # -- questions -------------------------------------------------------------------------------

    def rules_changed(self, peer: PeerId | None) -> None:
        """Re-evaluates the questions whose rule has changed."""
        for question in list(self._questions.values()):
            subject = question.subject
            if (peer is None or subject.peer == peer) and (
                self.firewall.find(subject.peer, subject.direction).rule != question.rule
            ):
                rule = question.rule
                question.rules_changed(has_ended=self.firewall.left_of(rule) is not rule)

    def quorum_changed(self) -> None:
        """Ends the questions on which enough approvers have agreed by now."""
        for question in list(self._questions.values()):
            question.count()

    def set_rule(self, question: Question, rule: Rule) -> Verdict:
        """Sets a rule as the answer. This ends the question, unless a policy's rule takes precedence. Returns what the rule
        says, as far as it has not ended."""
        peer, direction = question.subject.peer, question.subject.direction
        self.firewall.set_peer_rule(peer, rule, direction)
        self.keep_rule(peer, direction, rule)
        left = self.firewall.left_of(rule)
        return Verdict.ASK if left is None else left.verdict(question.subject)

    def grant(self, question: Question, types: Collection[str] | None, seconds: float | None) -> Rule:
        """The rule by which requests of these types pass, or with None all: for so many seconds, or for good.

        Raises:
            ValueError: as for :meth:`FirewallRequest.set_rule`.
        """
        if types is None:
            return self.limit(question, Rule.ALLOW_ALL, seconds)
        rule = question.rule or Rule.ASK
        if rule is self._own_rule(question):
            until = None if seconds is None else self.firewall.in_seconds(seconds)
            for type_name in types:
                rule = rule.lend(type_name, until)
            return rule
        for type_name in types:
            rule = rule.allowing(type_name)
        return self.limit(question, rule, seconds)

    def limit(self, question: Question, rule: Rule, seconds: float | None) -> Rule:
        """The same rule, for so many seconds or until its own end; then the peer's own rule from before holds again.

        Raises:
            ValueError: as for :meth:`FirewallRequest.set_rule`.
        """
        if seconds is None:
            return rule
        until = self.firewall.in_seconds(seconds)
        return rule.ending(until if rule.until is None else min(until, rule.until), self._own_rule(question))

    def _own_rule(self, question: Question) -> Rule | None:
        return self.firewall.peer_rule(question.subject.peer, question.subject.direction)

    def reject_network(self, network: str, by: str) -> int:
        """Silences a network, and rejects its open questions; their number."""
        self._silence.begin(network, (network,), loop_time())
        questions = [question for question in self._questions.values() if network in question.holder.networks]
        return sum(question.end("rejected", by) for question in questions)

    def question_opened(self, question: Question) -> None:
        """It waits for an answer, which is told."""
        subject = question.subject
        self._emit(
            FirewallRequestOpened(
                question.id, subject.peer, question.name, subject.direction, subject.type, question.kind
            )
        )

    def question_ended(self, question: Question, outcome: Outcome, answer: Answer) -> None:
        """It is over, which is told if it was opened."""
        subject = question.subject
        del self._questions[_key(question)]
        self._open.discard(question)
        if question in self._timers:
            self._timers.pop(question).cancel()
        # A peer could send and withdraw requests for ever. Requests that we withdraw ourselves do not count.
        in_vain = outcome == "timed out" or (outcome == "withdrawn" and subject.direction is Direction.INBOUND)
        if in_vain and question.shown:
            self._silence.begin(question.about, question.holder.networks, loop_time())
        if question.opened:
            self._emit(
                FirewallRequestEnded(
                    question.id,
                    subject.peer,
                    question.name,
                    subject.direction,
                    subject.type,
                    question.kind,
                    outcome,
                    answer.by,
                    answer.reason,
                )
            )

    def _make_question(self, request: _Request, rule: Rule | None) -> Question:
        kind: QuestionKind = "peer" if rule is None else "request"
        expires = deadline_in(self.patience)
        return Question(self._last_id + 1, kind, request.subject, request.address, rule, expires, self)

    def _put(self, question: Question) -> None:
        """Offers a new question to all answerers, until one answers."""
        self._last_id = question.id
        self._timers[question] = question.loop.call_at(question.expires, question.end, "timed out")
        for answerer in list(self._answerers):
            if answerer in self._answerers:  # one may remove another
                question.offer(answerer)
        question.open()


def _checked(by: str) -> str:
    """Who answers, unless decisions by others are told with that."""
    if by in {"rule", "firewall"} or by.startswith("approver"):
        raise ValueError(f'by={by!r} stands for other decisions: name who answers, such as "person"')
    return by


def _key(question: Question) -> Hashable:
    """Requests share a question about their peer; a question about a request is its own."""
    return (question.subject.peer, question.subject.direction) if question.kind == "peer" else question.id
