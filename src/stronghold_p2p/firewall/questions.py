"""A question of the firewall: its content, its answerers and its end."""

from __future__ import annotations

import asyncio
from typing import Final, Literal, Protocol

from ..events import Direction, Outcome, QuestionKind
from ..identity import PeerId
from ..loops import check_loop
from ..multiaddr import Multiaddr
from ..resources.networks import networks_of
from .room import Holder
from .rules import Rule, Subject, Verdict
from .silence import Topic

__all__ = ["Answer", "Answerer", "FirewallRequest", "Question", "QuestionHost"]

Answer = Literal["pass", "reject", "reconsider"]
"""The result for the requests that wait for a question."""

ANSWERS: Final[dict[Outcome, Answer]] = {
    "approved": "pass",
    "rejected": "reject",
    "rule set": "reconsider",
    "reconsidered": "reconsider",
    "timed out": "reject",
    "withdrawn": "reject",
    "crowded out": "reject",
    "unanswered": "reject",
    "closed": "reject",
}


class FirewallRequest:
    """A question of the firewall. Answer it with :meth:`approve`, :meth:`reject`, :meth:`reject_network` or
    :meth:`set_rule`.

    Answers can come from any callback or task of the event loop. Without an answer within ``Config.firewall_timeout``
    the requests are rejected.

    All answerers get the question with the same :attr:`id`, and the first answer ends it. It also ends when its last
    request goes away, when a new rule decides it, when others need its place, or when its last answerer leaves. Later
    answers return False and have no effect. The other async handlers of the question are then cancelled.
    """

    __slots__ = ("_question", "address", "direction", "expires", "id", "kind", "peer", "type", "view")

    def __init__(self, question: Question) -> None:
        subject = question.subject
        self._question = question
        self.id: Final = question.id
        """A counter within one :class:`StrongholdP2p`, from 1."""
        self.kind: Final = question.kind
        """``"peer"``: about a peer without a rule; ``"request"``: about this request."""
        self.peer: Final[PeerId] = subject.peer
        self.direction: Final[Direction] = subject.direction
        self.address: Final = question.address
        """The remote address; None if not connected."""
        self.type: Final = subject.type
        """The type of the request; for a question about a peer, of the first one."""
        self.view: Final = subject.view
        """The view of the request, see ``firewall_view=``; by default the request itself."""
        self.expires: Final = question.expires
        """The deadline by the clock of the event loop: ``expires - loop.time()`` is the remaining time in seconds."""

    def __repr__(self) -> str:
        # Never the view.
        return f"<FirewallRequest {self.id}: {self.kind} {self.direction.name} {self.peer} {self.type or ''}>"

    @property
    def network(self) -> str | None:
        """The network of :attr:`address`, which :meth:`reject_network` is about; None if not connected.

        For IPv4 it is the address alone (/32), for IPv6 a household's network (/56). A relayed peer has its relay's.
        """
        return None if self.address is None else networks_of(self.address)[-1]

    @property
    def waiting(self) -> int:
        """The number of waiting requests; 0 when the question has ended."""
        return self._question.waiting

    @property
    def outcome(self) -> Outcome | None:
        """How the question ended; None while it is open."""
        return self._question.outcome

    def approve(self) -> bool:
        """Lets the waiting requests pass, without setting a rule. False if the question has ended."""
        check_loop(self._question.loop)
        return self._question.end("approved")

    @property
    def tells_types_apart(self) -> bool:
        """Whether the rule that caused it does, see :meth:`approve_always`."""
        rule = self._question.rule
        return rule is not None and bool(rule.types)

    def approve_always(self) -> bool:
        """Lets this request pass, and from now on all of the peer in this direction; if the rule that caused the question tells
        types apart, those of this type, and the rule stays as it is for others: a request without a type passes once. With a
        state file, the rule is stored. False if the question has ended; then no rule is set."""
        check_loop(self._question.loop)
        rule, type_name = self._question.rule, self.type
        if rule is None or not rule.types:
            return self._question.set_rule(Rule.ALLOW_ALL)
        return self.approve() if type_name is None else self._question.set_rule(rule.allowing(type_name))

    def reject(self) -> bool:
        """Rejects the waiting requests, without setting a rule. False if the question has ended."""
        check_loop(self._question.loop)
        return self._question.end("rejected")

    def reject_network(self) -> int:
        """Rejects this question and all others about requests from its :attr:`network`, and for ``Config.firewall_quiet``
        every further request from there that would be a question. Sets no rule, and bans nobody.

        Returns the number of rejected questions; 0 if the question has ended, and then it has no effect.

        Raises:
            ValueError: the peer is not connected, so its network is unknown.
        """
        check_loop(self._question.loop)
        if self.network is None:
            raise ValueError(
                f"question {self.id} is about a peer without a connection, whose network is unknown: use reject()"
            )
        return self._question.reject_network(self.network)

    def set_rule(self, rule: Rule) -> bool:
        """Sets ``rule`` for the peer in this direction, and applies it to the waiting requests. With a state file, the
        rule is stored. False if the question has ended; then no rule is set.

        Raises:
            TypeError: not a rule, or a rule with a type that no request has.
        """
        check_loop(self._question.loop)
        if not isinstance(rule, Rule):
            raise TypeError(f"expected a Rule, got {rule!r}")
        return self._question.set_rule(rule)


class Answerer(Protocol):
    """A handler or an iterator that answers questions."""

    def take(self, question: Question) -> bool:
        """Offers the question. False if the answerer fails at once, or has no room."""

    def drop(self, question: Question) -> None:
        """The question has ended; its answer would have no effect."""

    def close(self) -> None:
        """Ends the answerer; it gets no more questions."""


class QuestionHost(Protocol):
    """The owner of questions."""

    def set_rule(self, question: Question, rule: Rule) -> None:
        """Sets a rule as the answer. This ends the question, unless another rule takes precedence."""

    def reject_network(self, network: str) -> int:
        """Silences a network. Returns the number of its questions, which this ends."""

    def question_opened(self, question: Question) -> None: ...

    def question_ended(self, question: Question, outcome: Outcome) -> None: ...


class Question:
    """One question, and the requests that wait for it.

    It is offered to all answerers, and is open if none answered at once. It ends once, with an outcome. Without waiting
    requests or without answerers it ends by itself.
    """

    __slots__ = (
        "_host",
        "_takers",
        "_waiting",
        "address",
        "expires",
        "holder",
        "id",
        "kind",
        "loop",
        "opened",
        "outcome",
        "rule",
        "shown",
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
        """The request; for a question about a peer, the first one."""
        self.address: Final = address
        self.holder: Final = Holder.of(subject, address)
        self.rule: Final = rule
        """The rule that caused the question, if any."""
        self.expires: Final = expires
        self.loop: Final = asyncio.get_running_loop()
        self.opened = False
        """All current answerers got it, and none answered at once."""
        self.shown = 0
        """How many answerers have it before them, or have had, and did not answer at once."""
        self.outcome: Outcome | None = None
        self._host = host
        self._takers: dict[Answerer, None] = {}
        self._waiting: dict[asyncio.Future[Answer], None] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def about(self) -> PeerId | Topic:
        """What it is about: a peer, or its requests of this type."""
        return self.subject.peer if self.kind == "peer" else Topic(self.subject.peer, self.subject.type)

    def join(self) -> asyncio.Future[Answer]:
        """Adds a waiting request."""
        answer: asyncio.Future[Answer] = self.loop.create_future()
        self._waiting[answer] = None
        return answer

    def leave(self, answer: asyncio.Future[Answer], outcome: Outcome = "withdrawn") -> None:
        """Removes a waiting request, answered or not. After the last one the question ends with ``outcome``."""
        if answer in self._waiting:
            del self._waiting[answer]
            if not self._waiting:
                self.end(outcome)

    def turn_away(self, answer: asyncio.Future[Answer]) -> None:
        """Rejects one waiting request, to make room for others."""
        if not answer.done():
            answer.set_result("reject")
        self.leave(answer, "crowded out")

    def offer(self, answerer: Answerer) -> None:
        if self.outcome is None:
            self._takers[answerer] = None  # first: what it takes, it may also give up at once
            if not answerer.take(self):
                self.give_up(answerer)

    def open(self) -> None:
        """Called when all current answerers were offered it."""
        if not self._takers:
            self.end("unanswered")
        elif self.outcome is None:
            self.opened = True
            self._host.question_opened(self)

    def give_up(self, answerer: Answerer) -> None:
        """The answerer will not answer."""
        if answerer in self._takers:
            del self._takers[answerer]
            answerer.drop(self)
            if self.opened and not self._takers:
                self.end("unanswered")

    def set_rule(self, rule: Rule) -> bool:
        """False if the question has ended."""
        if self.outcome is not None:
            return False
        self._host.set_rule(self, rule)
        if self.outcome is None:
            # The policy's ASK rule takes precedence: the new rule decides as an answer.
            verdict = rule.verdict(self.subject)
            if verdict is not Verdict.ASK:
                self.end("rule set", "pass" if verdict is Verdict.ALLOW else "reject")
        return True

    def reject_network(self, network: str) -> int:
        """0 if the question has ended."""
        if self.outcome is not None:
            return 0
        others = self._host.reject_network(network)
        return others + self.end("rejected")

    def end(self, outcome: Outcome, answer: Answer | None = None) -> bool:
        """Notifies requests, answerers and the host. ``answer`` overrides that of ``outcome``. False if already ended."""
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
