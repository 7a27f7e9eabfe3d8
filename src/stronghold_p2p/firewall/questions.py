"""A question of the firewall: its content, its answerers and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, get_args

from ..events import Direction, How, Outcome, QuestionKind, Scope, SignedAnswer
from ..identity import PeerId
from ..loops import check_loop
from ..multiaddr import Multiaddr
from ..resources.networks import networks_of
from ..resources.shares import Path
from .room import Holder
from .rules import Rule, Subject, Verdict
from .silence import Topic

if TYPE_CHECKING:
    from .approvals import Approvals

__all__ = ["MAX_TYPE", "Answer", "Answerer", "FirewallRequest", "Question", "Quorum"]

MAX_TYPE: Final = 200
"""Characters of a type that may be approved by its name. In untyped JSON it is the remote's own text: nobody sees more of it,
and the rule would be kept with all of it."""

Result = Literal["pass", "reject", "reconsider"]

RESULTS: Final[dict[Outcome, tuple[Result, How | None]]] = {
    "approved": ("pass", "approved"),
    "rejected": ("reject", "rejected"),
    "rule set": ("reconsider", None),
    "reconsidered": ("reconsider", None),
    "timed out": ("reject", "timeout"),
    "withdrawn": ("reject", "withdrawn"),
    "crowded out": ("reject", "full"),
    "unanswered": ("reject", "no answerer"),
    "closed": ("reject", "closed"),
}
"""What the end of a question means for the requests that wait for it, and how that is told; None: as the rules decide."""


class Answer(NamedTuple):
    """The result for the requests that wait for a question."""

    result: Result
    by: str
    """Who gave it, as in :class:`FirewallDecision`."""
    how: How | None = None
    """None: as the rules decide. To be reconsidered: how it is told if they reject."""
    reason: str | None = None
    signatures: tuple[SignedAnswer, ...] = ()


class FirewallRequest:
    """A question of the firewall. Answer it with :meth:`approve`, :meth:`approve_type`, :meth:`approve_all`,
    :meth:`reject`, :meth:`reject_network` or :meth:`set_rule`.

    Answers can come from any callback or task of the event loop. Without an answer within ``Config.firewall_timeout``
    the requests are rejected.

    All answerers get the question with the same :attr:`id`, and the first answer ends it. It also ends when its last
    request goes away, when a new rule decides it, when others need its place, or when its last answerer leaves. Later
    answers return False and have no effect. The other async handlers of the question are then cancelled.
    """

    __slots__ = ("_by", "_question", "address", "direction", "expires", "id", "kind", "peer", "type", "view")

    def __init__(self, question: Question, by: str) -> None:
        subject = question.subject
        self._question = question
        self._by = by
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
        type_name = None if self.type is None else self.type[:MAX_TYPE]
        return f"<FirewallRequest {self.id}: {self.kind} {self.direction.name} {self.peer} {type_name!r}>"

    @property
    def name(self) -> str | None:
        """The peer's name, if it has one."""
        return self._question.name

    @property
    def network(self) -> str | None:
        """The network of :attr:`address`, which :meth:`reject_network` is about; None if not connected.

        For IPv4 it is the address alone (/32), for IPv6 a household's network (/56). A relayed peer has its relay's.
        """
        return None if self.address is None else networks_of(self.address)[-1]

    @property
    def path(self) -> Path:
        """Whose turn it takes where questions come by turns: its networks', and then its peer's."""
        return self._question.holder.path

    def count_shown(self, times: int) -> None:
        """Says that a person sees it, or with -1 that it only waits to be shown: what nobody has seen makes nobody quiet, see
        ``Config.firewall_quiet``."""
        self._question.shown += times

    @property
    def waiting(self) -> int:
        """The number of waiting requests; 0 when the question has ended."""
        return self._question.waiting

    @property
    def need(self) -> int:
        """How many approvers must agree. With 1 any answer counts; with more, approvals from here have no effect."""
        return self._question.need

    @property
    def agreed(self) -> int:
        """How many approvers have agreed so far."""
        return len(self._question.votes)

    @property
    def outcome(self) -> Outcome | None:
        """How the question ended; None while it is open."""
        return self._question.outcome

    @property
    def by(self) -> str | None:
        """Who ended it, as in :class:`FirewallDecision`; None while it is open."""
        return None if self._question.answer is None else self._question.answer.by

    @property
    def reason(self) -> str | None:
        """The reason of a rejection, if one was given."""
        return None if self._question.answer is None else self._question.answer.reason

    def approve(self) -> bool:
        """Lets the waiting requests pass, without setting a rule. False if the question has ended, or if several approvers
        must agree, see :attr:`need`."""
        return self._approve("once")

    def approve_type(self, for_: float | None = None, *, also: Collection[str] = ()) -> bool:
        """Lets the request pass, and from now on all of this type from the peer in this direction, and of the types ``also``:
        for ``for_`` seconds, or for good. Its rule stays as it is for others. With a state file, the rule is stored. False as
        for :meth:`approve`; then no rule is set.

        Raises:
            TypeError: no request has one of the types.
            ValueError: the request has no type, or one of over 200 characters, which nobody sees whole; or as for
                :meth:`set_rule`.
        """
        if self.type is None or len(self.type) > MAX_TYPE:
            which = "without a type" if self.type is None else f"whose type has over {MAX_TYPE} characters"
            raise ValueError(f"question {self.id} is about a request {which}: use approve() or approve_all()")
        return self._approve("type", for_, also)

    def approve_all(self, for_: float | None = None) -> bool:
        """Lets the waiting requests pass, and from now on all of the peer in this direction: for ``for_`` seconds, or for
        good. With a state file, the rule is stored. False as for :meth:`approve`; then no rule is set.

        Raises:
            ValueError: as for :meth:`set_rule`.
        """
        return self._approve("all", for_)

    def _approve(self, scope: Scope, for_: float | None = None, also: Collection[str] = ()) -> bool:
        check_loop(self._question.loop)
        return self.need == 1 and self._question.approve(scope, for_, self._by, also=also)

    def reject(self, reason: str | None = None) -> bool:
        """Rejects the waiting requests, without setting a rule. ``reason`` is for the audit, and for who else was asked.
        False if the question has ended."""
        check_loop(self._question.loop)
        return self._question.end("rejected", self._by, reason)

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
        return self._question.reject_network(self.network, self._by)

    def set_rule(self, rule: Rule, for_: float | None = None) -> bool:
        """Sets ``rule`` for the peer in this direction, and applies it to the waiting requests. After ``for_`` seconds the
        peer's own rule from before holds again; None: it is replaced for good. With a state file, the rule is stored. False if the
        question has ended, or if the rule allows something on which several approvers must agree; then no rule is set.

        Raises:
            TypeError: not a rule, or a rule with a type that no request has.
            ValueError: ``for_`` is not above 0 or leads beyond the year 9999, or the peer's rules would have too many ends.
        """
        check_loop(self._question.loop)
        if not isinstance(rule, Rule):
            raise TypeError(f"expected a Rule, got {rule!r}")
        if self.need > 1 and any(each.allows_some for each in rule.chain):
            return False
        return self._question.set_rule(rule, for_, self._by)


class Answerer(Protocol):
    """A handler or an iterator that answers questions."""

    def take(self, question: Question) -> bool:
        """Offers the question. False if the answerer fails at once, or has no room."""

    def drop(self, question: Question) -> None:
        """The question has ended; its answer would have no effect."""

    def close(self) -> None:
        """Ends the answerer; it gets no more questions."""


class Quorum(Protocol):
    """Approvers, and how many of them must agree."""

    @property
    def need(self) -> int:
        """With 1, any answer counts, also one of somebody else."""

    def includes(self, approver: PeerId, peer: PeerId) -> bool:
        """Whether ``approver`` may answer a question about ``peer``: never about itself."""


class Question:
    """One question, and the requests that wait for it.

    It is offered to all answerers, and is open if none answered at once. It ends once, with an outcome. Without waiting
    requests or without answerers it ends by itself.
    """

    __slots__ = (
        "_host",
        "_setting",
        "_takers",
        "_votes",
        "_waiting",
        "address",
        "answer",
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
        host: Approvals,
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
        self.answer: Answer | None = None
        """What came with the outcome."""
        self._host = host
        self._setting: Answer | None = None
        """While a rule is set as the answer: that answer."""
        self._votes: dict[PeerId, SignedAnswer] = {}
        self._takers: dict[Answerer, None] = {}
        self._waiting: dict[asyncio.Future[Answer], None] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def name(self) -> str | None:
        return self._host.name_of(self.subject.peer)

    @property
    def need(self) -> int:
        return self._host.quorum.need

    @property
    def votes(self) -> tuple[SignedAnswer, ...]:
        """The approvals of those who may still give them."""
        includes, peer = self._host.quorum.includes, self.subject.peer
        return tuple(signed for signed in self._votes.values() if includes(signed.approver, peer))

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
            answer.set_result(Answer("reject", "firewall", "full"))
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

    def vote(self, signed: SignedAnswer) -> bool:
        """Counts an approver's answer. A rejection ends the question, and so do enough approvals, with the narrowest of their
        scopes. False if the question has ended, if who has answered is no approver, or has answered before."""
        approver = signed.approver
        known = approver in self._votes or not self._host.quorum.includes(approver, self.subject.peer)
        if self.outcome is not None or known:
            return False
        if not signed.approved:
            return self.end("rejected", _by((signed,)), signed.reason, (signed,))
        self._votes[approver] = signed
        self.count()
        return True

    def count(self) -> None:
        """Ends the question if enough approvers have agreed."""
        votes = self.votes
        if votes and len(votes) >= self.need:
            scope = min((signed.scope for signed in votes), key=get_args(Scope).index)
            times = [signed.seconds for signed in votes if signed.seconds is not None]
            if scope == "type" and len(self.subject.type or "") > MAX_TYPE:
                scope = "once"
            try:
                self.approve(scope, min(times, default=None), _by(votes), votes)
            except ValueError:  # such a rule would have too many ends
                self.approve("once", None, _by(votes), votes)

    def approve(
        self,
        scope: Scope,
        seconds: float | None,
        by: str,
        signatures: tuple[SignedAnswer, ...] = (),
        also: Collection[str] = (),
    ) -> bool:
        """False if the question has ended, also by the end of the rule that asks it."""
        self._host.firewall.expire()
        type_name = self.subject.type
        if self.outcome is not None or scope == "once" or (scope == "type" and type_name is None):
            return self.end("approved", by, signatures=signatures)
        types = {type_name, *also} if scope == "type" and type_name is not None else None
        return self.set_rule(self._host.grant(self, types, seconds), None, by, signatures)

    def set_rule(self, rule: Rule, seconds: float | None, by: str, signatures: tuple[SignedAnswer, ...] = ()) -> bool:
        """False if the question has ended."""
        if self.outcome is not None:
            return False
        rule = self._host.limit(self, rule, seconds)
        self._setting = Answer("reconsider", by, signatures=signatures)
        try:
            verdict = self._host.set_rule(self, rule)
            if self.outcome is None and verdict is not Verdict.ASK:
                # The policy's ASK rule takes precedence: the new rule decides as an answer.
                result: Result = "pass" if verdict is Verdict.ALLOW else "reject"
                self._end("rule set", self._setting._replace(result=result))
        finally:
            self._setting = None
        return True

    def rules_changed(self, *, has_ended: bool) -> None:
        """The rule that caused it is no longer in force, maybe since it ``has_ended`` by its date."""
        if self._setting is None:
            self._end("reconsidered", Answer("reconsider", "rule", "expired" if has_ended else None))
        else:
            self._end("rule set", self._setting)

    def reject_network(self, network: str, by: str) -> int:
        """0 if the question has ended."""
        if self.outcome is not None:
            return 0
        others = self._host.reject_network(network, by)
        return others + self.end("rejected", by)

    def end(
        self,
        outcome: Outcome,
        by: str = "firewall",
        reason: str | None = None,
        signatures: tuple[SignedAnswer, ...] = (),
    ) -> bool:
        """Notifies requests, answerers and the host. False if already ended."""
        result, how = RESULTS[outcome]
        return self._end(outcome, Answer(result, by, how, reason, signatures))

    def _end(self, outcome: Outcome, answer: Answer) -> bool:
        if self.outcome is not None:
            return False
        self.outcome, self.answer = outcome, answer
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(answer)
        self._waiting.clear()
        takers, self._takers = self._takers, {}
        for answerer in takers:
            answerer.drop(self)
        self._host.question_ended(self, outcome, answer)
        return True


def _by(approvals: tuple[SignedAnswer, ...]) -> str:
    return "approver " + ", ".join(str(signed.approver) for signed in approvals)
