"""A question of the firewall: what is asked, who may answer, how it ends."""

from __future__ import annotations

import asyncio
from typing import Final, Literal, Protocol

from ..events import Direction, Outcome, QuestionKind
from ..identity import PeerId
from ..loops import check_loop
from ..multiaddr import Multiaddr
from .rules import Rule, Subject, Verdict

__all__ = ["Answer", "Answerer", "FirewallRequest", "Question", "QuestionHost"]

Answer = Literal["pass", "reject", "reconsider"]
"""What the requests are told that wait on a question."""

ANSWERS: Final[dict[Outcome, Answer]] = {
    "approved": "pass",
    "rejected": "reject",
    "rule set": "reconsider",
    "reconsidered": "reconsider",
    "timed out": "reject",
    "withdrawn": "reject",
    "unanswered": "reject",
    "closed": "reject",
}


class FirewallRequest:
    """A question of the firewall. Answer it once, with :meth:`approve`, :meth:`reject` or :meth:`set_rule`, from any
    callback or task of the event loop; unanswered within ``Config.firewall_timeout`` it is as rejected.

    Everybody who answers gets one of the same :attr:`id`, and the first answer ends the question for all. It also ends if
    the last request that waits on it goes away, if a rule decides that was set meanwhile, or if nobody is left who could
    answer. An answer after that changes nothing, and returns False; the async handlers still at work on the question are
    cancelled, but for the one that has just ended it.
    """

    __slots__ = ("_question", "address", "direction", "expires", "id", "kind", "peer", "type", "view")

    def __init__(self, question: Question) -> None:
        subject = question.subject
        self._question = question
        self.id: Final = question.id
        """Counts up within one :class:`StrongholdP2p`, from 1."""
        self.kind: Final = question.kind
        """``"peer"``: no rule is known for this peer; ``"request"``: this one request."""
        self.peer: Final[PeerId] = subject.peer
        self.direction: Final[Direction] = subject.direction
        self.address: Final = question.address
        """Where the peer is, if it is connected."""
        self.type: Final = subject.type
        """The type of the request; of the first one, if the question is about the peer."""
        self.view: Final = subject.view
        """What the firewall sees of it."""
        self.expires: Final = question.expires
        """When it ends unanswered, by the clock of the event loop: ``expires - loop.time()`` seconds are left."""

    def __repr__(self) -> str:
        # Never the view.
        return f"<FirewallRequest {self.id}: {self.kind} {self.direction.name} {self.peer} {self.type or ''}>"

    @property
    def waiting(self) -> int:
        """Requests that wait on the answer; 0 when the question has ended."""
        return self._question.waiting

    @property
    def outcome(self) -> Outcome | None:
        """How the question has ended; None while it is open."""
        return self._question.outcome

    def approve(self) -> bool:
        """The requests waiting pass; no rule is kept. False if the question has ended."""
        check_loop(self._question.loop)
        return self._question.end("approved")

    def reject(self) -> bool:
        """The requests waiting are rejected; no rule is kept. False if the question has ended."""
        check_loop(self._question.loop)
        return self._question.end("rejected")

    def set_rule(self, rule: Rule) -> bool:
        """Keeps ``rule`` for the peer and this direction, and applies it to the requests waiting. False if the question
        has ended: nothing is kept then.

        Raises:
            TypeError: it is no rule.
        """
        check_loop(self._question.loop)
        if not isinstance(rule, Rule):
            raise TypeError(f"expected a Rule, got {rule!r}")
        return self._question.set_rule(rule)


class Answerer(Protocol):
    """Somebody who answers questions."""

    def take(self, question: Question) -> bool:
        """Whether it may answer the question, or does already; False if it fails at once, or has no room."""

    def drop(self, question: Question) -> None:
        """Its answer would change nothing any more."""

    def close(self) -> None:
        """It is asked no more."""


class QuestionHost(Protocol):
    """Whoever asks."""

    def set_rule(self, question: Question, rule: Rule) -> None:
        """A rule is the answer. Ends the question, unless another rule goes before this one."""

    def question_opened(self, question: Question) -> None: ...

    def question_ended(self, question: Question, outcome: Outcome) -> None: ...


class Question:
    """One question, and what waits on it.

    It is offered to those who answer, and then open if it has no answer yet; it ends once, with an outcome. It ends by
    itself as soon as nobody waits on it, or nobody has it any more who could answer.
    """

    __slots__ = (
        "_host",
        "_takers",
        "_waiting",
        "address",
        "expires",
        "id",
        "kind",
        "loop",
        "opened",
        "outcome",
        "rule",
        "subject",
    )

    def __init__(
        self,
        id: int,
        kind: QuestionKind,
        subject: Subject,
        address: Multiaddr | None,
        rule: Rule | None,
        expires: float,
        host: QuestionHost,
    ) -> None:
        self.id: Final = id
        self.kind: Final[QuestionKind] = kind
        self.subject: Final = subject
        """The request; the first one, if the question is about the peer."""
        self.address: Final = address
        self.rule: Final = rule
        """The one that has it asked, if any."""
        self.expires: Final = expires
        self.loop: Final = asyncio.get_running_loop()
        self.opened = False
        """It has no answer though all have been offered it who could answer then."""
        self.outcome: Outcome | None = None
        self._host = host
        self._takers: dict[Answerer, None] = {}
        self._waiting: dict[asyncio.Future[Answer], None] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def join(self) -> asyncio.Future[Answer]:
        """One more request waits on the answer."""
        answer: asyncio.Future[Answer] = self.loop.create_future()
        self._waiting[answer] = None
        return answer

    def leave(self, answer: asyncio.Future[Answer]) -> None:
        """A request waits no longer, whether it has an answer or not."""
        if answer in self._waiting:
            del self._waiting[answer]
            if not self._waiting:
                self.end("withdrawn")

    def offer(self, answerer: Answerer) -> None:
        if self.outcome is None:
            self._takers[answerer] = None  # first: what it takes, it may also give up at once
            if not answerer.take(self):
                self._takers.pop(answerer, None)

    def open(self) -> None:
        """All have been offered it who answer now."""
        if not self._takers:
            self.end("unanswered")
        elif self.outcome is None:
            self.opened = True
            self._host.question_opened(self)

    def give_up(self, answerer: Answerer) -> None:
        """It will not answer."""
        if answerer in self._takers:
            del self._takers[answerer]
            answerer.drop(self)
            if self.opened and not self._takers:
                self.end("unanswered")

    def set_rule(self, rule: Rule) -> bool:
        """False if it has ended."""
        if self.outcome is not None:
            return False
        self._host.set_rule(self, rule)
        if self.outcome is None:
            # A policy's rule goes before this one and still says to ask: then the rule is the answer.
            verdict = rule.verdict(self.subject)
            if verdict is not Verdict.ASK:
                self.end("rule set", "pass" if verdict is Verdict.ALLOW else "reject")
        return True

    def end(self, outcome: Outcome, answer: Answer | None = None) -> bool:
        """Tells all whom it concerns; ``answer`` if it is not the outcome's. False if it has ended before."""
        if self.outcome is not None:
            return False
        self.outcome = outcome
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(answer or ANSWERS[outcome])
        self._waiting.clear()
        takers, self._takers = self._takers, {}
        for answerer in takers:
            answerer.drop(self)
        self._host.question_ended(self, outcome)
        return True
