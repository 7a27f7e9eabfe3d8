"""Events of the firewall: what it decided and why, its questions, and the sources of its rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import PolicyError, StateError
from ..identity import PeerId
from ..multiaddr import Multiaddr
from .direction import Direction

__all__ = [
    "BanChanged",
    "FirewallDecision",
    "FirewallRequestEnded",
    "FirewallRequestOpened",
    "How",
    "NameChanged",
    "Outcome",
    "PolicyFailed",
    "PolicyLoaded",
    "QuestionKind",
    "RequestHandled",
    "RequestOutcome",
    "RuleChanged",
    "Scope",
    "SignedAnswer",
    "StateFailed",
]

How = Literal[
    "approved",
    "rejected",
    "timeout",
    "quiet",
    "full",
    "no answerer",
    "expired",
    "limit",
    "withdrawn",
    "closed",
]
"""How a request was decided: by a rule or an answer (the first two); rejected without an answer in time, during the quiet
after such a question, to make room for others, or with nobody to ask; rejected as the rule that had asked about it has ended;
beyond a limit of its type or peer; gone before it was decided; or rejected because the peer is closing."""

Scope = Literal["once", "type", "all"]
"""What an approval is about: the requests that wait, all of their type, or all of the peer."""


@dataclass(frozen=True, slots=True)
class SignedAnswer:
    """An approver's answer to a question, with its signature."""

    approver: PeerId
    approved: bool
    scope: Scope
    """Of an approval."""
    seconds: float | None
    """How long an approval with a scope beyond ``"once"`` lasts; None: for good."""
    reason: str | None
    """Of a rejection, if the approver gave one."""
    envelope: bytes
    """What the approver has signed, in a signed envelope (libp2p RFC 0002)."""


@dataclass(frozen=True, slots=True)
class FirewallDecision:
    """The firewall decided a request. Never holds its content, unless the reader asked for views.

    There is one per request, so readers must opt in: ``events(decisions=True)``.
    """

    id: int
    """A counter within one :class:`StrongholdP2p`, from 1, of the decisions that somebody has read."""
    peer: PeerId
    name: str | None
    """The peer's name, if it has one."""
    direction: Direction
    type: str | None
    """The type of the request; None if it has none, or was rejected before its body was read."""
    rule: str | None
    """The rule in force, as text; None if there was none, so that the answer to a question decided, or its absence."""
    layer: str
    """The layer of the rule: ``suspended`` (see :meth:`StrongholdP2p.suspend_requests`), ``policy peer``, ``peer``,
    ``policy default``, ``default`` or ``none``."""
    line: int | None
    """The rule's line in the policy file; None if it is from elsewhere."""
    allowed: bool
    by: str
    """Who decided: ``"rule"``; ``"handler"``, ``"person"`` or what else :meth:`StrongholdP2p.on_firewall_request` was told;
    ``"approver"`` with the peer ids, separated by commas; or ``"firewall"`` for what is rejected without any of them."""
    how: How
    waited: float
    """Time spent waiting for an answer, in seconds."""
    address: Multiaddr | None = None
    """Where the peer is: :attr:`Multiaddr.relay` is the relay that forwards, if one does. None if it is not connected."""
    reason: str | None = None
    """What :meth:`FirewallRequest.reject`, or an approver, gave as the reason."""
    signatures: tuple[SignedAnswer, ...] = ()
    """The answers of the approvers that decided."""
    observed: bool | None = None
    """What a policy that only observes would have decided; None if there is none, or if it would have asked."""
    view: Any = None
    """What the reader wanted of the request's view: ``events(decisions=True, views=...)``."""


RequestOutcome = Literal["responded", "failed", "timeout", "left", "declined", "ended"]
"""What became of a request that passed: it was responded to; its handler failed; that, or the remote, took too long; the
requester has left; or it was declined. Of a stream: it has ended, or failed."""


@dataclass(frozen=True, slots=True)
class RequestHandled:
    """An inbound request or stream that passed the firewall is over.

    Goes to those who read decisions.
    """

    id: int
    """That of its :class:`FirewallDecision`."""
    peer: PeerId
    outcome: RequestOutcome
    seconds: float
    """From the decision on."""


QuestionKind = Literal["peer", "request"]
"""The kind of question: about a peer without a rule, or about one request."""

Outcome = Literal[
    "approved", "rejected", "rule set", "reconsidered", "timed out", "withdrawn", "crowded out", "unanswered", "closed"
]
"""How a question ended: by an answer (the first three), by changed rules, without an answer in time, without remaining
requests, to make room for others, without remaining answerers, or because the peer is closing."""


@dataclass(frozen=True, slots=True)
class FirewallRequestOpened:
    """A question waits for an answer. Not emitted for questions that are answered immediately, or have no answerer.

    Never holds the content of the request.
    """

    id: int
    """A counter, from 1."""
    peer: PeerId
    name: str | None
    """The peer's name, if it has one."""
    direction: Direction
    type: str | None
    """The type of the request; for a question about a peer, of the first one."""
    kind: QuestionKind


@dataclass(frozen=True, slots=True)
class FirewallRequestEnded:
    """An open question ended."""

    id: int
    peer: PeerId
    name: str | None
    direction: Direction
    type: str | None
    kind: QuestionKind
    outcome: Outcome
    by: str
    """Who ended it, as in :class:`FirewallDecision`."""
    reason: str | None
    """That of a rejection, if one was given."""


@dataclass(frozen=True, slots=True)
class RuleChanged:
    """A rule was set or removed by a call, by an answer, or in the state file while the peer runs; or it has ended. The rules
    of a policy come with :class:`PolicyLoaded`."""

    peer: PeerId | None
    """Whose rule it is; None: the default."""
    direction: Direction
    rule: str | None
    """As text; None: there is none any more."""


@dataclass(frozen=True, slots=True)
class BanChanged:
    """A peer was banned, or a ban was lifted, by a call, by an answer, or in the state file while the peer runs."""

    peer: PeerId
    banned: bool


@dataclass(frozen=True, slots=True)
class NameChanged:
    """A peer was given a petname, or it was taken away, by a call, or in the state file while the peer runs."""

    peer: PeerId
    name: str | None


@dataclass(frozen=True, slots=True)
class PolicyLoaded:
    """A policy file was loaded, and is in force."""

    path: str


@dataclass(frozen=True, slots=True)
class PolicyFailed:
    """A policy file changed and is unusable; the previous policy stays in force."""

    error: PolicyError


@dataclass(frozen=True, slots=True)
class StateFailed:
    """A rule or ban is in force but was not stored, or external changes of the state file were not read."""

    error: StateError
