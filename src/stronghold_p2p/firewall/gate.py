"""The gate: the single point where the firewall checks every request, inbound and outbound."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Literal, Protocol

from .. import reset_codes
from ..errors import NotPermitted, RequestTimeout
from ..event_hub import EventHub
from ..events import Direction, FirewallDecision, How, SignedAnswer
from ..identity import PeerId
from ..logs import SparingLog
from ..multiaddr import Multiaddr
from ..reset_codes import Reason
from .approvals import Approvals
from .quotas import Excess, Place, Quotas
from .rules import AppliedRule, Firewall, Rule, Subject, Verdict
from .tenancy import Tenancy, Tenant
from .trial import Trial

__all__ = ["Decided", "Gate", "RequestCodec", "permission"]

ALLOW_ALL: Final = Rule.ALLOW_ALL

REASONS: Final[dict[How, Reason]] = {
    "timeout": Reason.UNANSWERED,
    "quiet": Reason.UNANSWERED,
    "full": Reason.BUSY,
    "no answerer": Reason.UNANSWERED,
    "closed": Reason.BUSY,
}
"""What a remote that may know is told of how it was rejected; of the others, that it was."""


class RequestCodec(Protocol):
    """The encoding of requests, as seen by the gate."""

    @property
    def type_name(self) -> Callable[[Any], str | None]:
        """Returns the type name of a request, for rules."""

    def weight(self, data: bytes, /) -> int:
        """Memory in bytes of the decoded request while it waits for an answer."""


class Decided(Tenant, Protocol):
    """A request or a stream, as far as it knows of its decision, and as a strict rule ends it."""

    decision_id: int
    """The id of the decision that let it pass; 0 if nobody reads decisions."""
    place: Place | None
    """What it takes of its peer's quota, to be left when it has ended."""
    refusal: int
    """The error code that tells the remote why it was rejected; 0 if it may not know."""


class Gate:
    """Decides each request by the rules in force, with a question if needed, and reports every decision.

    ``view`` reduces a request for rules and questions; None: they see the request itself.
    """

    def __init__(
        self, firewall: Firewall, approvals: Approvals, view: Callable[[Any], Any] | None, events: EventHub
    ) -> None:
        self.tenancy: Final = Tenancy(firewall)
        self._firewall = firewall
        self._approvals = approvals
        self._view = view
        self._events = events
        self.quotas: Final = Quotas()
        """The limits of inbound requests by type."""
        self.trial: Trial | None = None
        """The policy that is only observed."""
        self._last_id = 0
        """Of the decisions that were told."""
        self._log_no_view = SparingLog(logging.ERROR, "firewall_view failed on a request: its decision is told without")
        self._log_failure = SparingLog(logging.ERROR, "firewall_view failed on a request: it is rejected")

    def rejects_all(self, peer: PeerId, direction: Direction) -> bool:
        """Whether every request is rejected, regardless of its content."""
        rule = self._firewall.find(peer, direction).rule
        return rule is not None and rule.rejects_all

    def allows_some(self, peer: PeerId, direction: Direction) -> bool:
        """Whether a rule allows requests without an answer: all, or those of some types."""
        rule = self._firewall.find(peer, direction).rule
        return rule is not None and rule.allows_some

    def rejects(self, peer: PeerId, direction: Direction, type_name: str) -> bool:
        """Whether a rule rejects every request of this type, regardless of its content."""
        rule = self._firewall.find(peer, direction).rule
        return rule is not None and rule.predicate is None and rule.verdict_on(type_name) is Verdict.REJECT

    def may_tell(self, peer: PeerId) -> bool:
        """Whether its rule lets ``peer`` know why it is rejected."""
        rule = self._firewall.find(peer, Direction.INBOUND).rule
        return rule is not None and rule.reasons

    def refusal(self, peer: PeerId, excess: Excess) -> int:
        """The error code that tells ``peer`` what it is over; 0 if it may not know."""
        return self._encode(excess) if self.may_tell(peer) else 0

    def refuse(
        self, peer: PeerId, direction: Direction, address: Multiaddr | None, type_name: str | None = None
    ) -> None:
        """Reports a request that was rejected before its body was read, see :meth:`rejects_all`; or a stream, whose type is
        its protocol."""
        applied = self._firewall.find(peer, direction)
        self._tell(peer, direction, type_name, address, applied, None, None, allowed=False)

    def decide_stream(
        self,
        peer: PeerId,
        direction: Direction,
        protocol: str,
        address: Multiaddr | None,
        stream: Decided | None = None,
    ) -> bool | Awaitable[bool]:
        """As :meth:`decide`, for a stream of ``protocol``. It has no content to see, so it has no view."""
        applied = self._firewall.find(peer, direction)
        subject = Subject(peer, direction, protocol, None)
        verdict = Verdict.ASK if applied.rule is None else applied.rule.verdict(subject)
        may_pass = verdict is not Verdict.REJECT and direction is Direction.INBOUND
        if may_pass and self.quotas.active and self._is_over_limit(peer, protocol, 0, stream, address, applied):
            return False
        if verdict is Verdict.ASK:
            return self._ask(subject, address, 0, stream)
        allowed = verdict is Verdict.ALLOW
        self._tell(peer, direction, protocol, address, applied, stream, None, allowed=allowed)
        return allowed

    def decide(
        self,
        peer: PeerId,
        direction: Direction,
        codec: RequestCodec,
        body: Any,
        message: bytes,
        address: Multiaddr | None,
        request: Decided | None = None,
    ) -> bool | Awaitable[bool]:
        """Whether a request, ``body`` as ``codec`` has it in ``message``, may pass; an awaitable if somebody must be
        asked. ``request``, which is inbound, gets the decision's id, and its place within the limits of its type; if it is
        let in, it is named to :attr:`tenancy` at its end."""
        applied = self._firewall.find(peer, direction)
        rule = applied.rule
        if rule is ALLOW_ALL and not self.quotas.active:
            if self._events.decisions_wanted or self.trial is not None:
                type_name = codec.type_name(body)
                self._tell_of_rule(peer, direction, type_name, address, applied, request, body, allowed=True)
            return True
        type_name = codec.type_name(body)
        verdict = Verdict.ASK if rule is None or rule.predicate is not None else rule.verdict_on(type_name)
        if self.quotas.active and verdict is not Verdict.REJECT:
            size = len(message)
            if self._is_over_limit(peer, type_name, size, request, address, applied):
                return False
        if verdict is not Verdict.ASK:  # decided without a view
            allowed = verdict is Verdict.ALLOW
            if (
                self._events.decisions_wanted
                or self.trial is not None
                or (rule is not None and (rule.strict or rule.reasons))
            ):
                self._tell_of_rule(peer, direction, type_name, address, applied, request, body, allowed=allowed)
            return allowed
        try:
            view = body if self._view is None else self._view(body)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises
            self._log_failure.write(exc_info=error)
            self._tell(peer, direction, type_name, address, applied, request, None, allowed=False, by="firewall")
            return False
        subject = Subject(peer, direction, type_name, view)
        if rule is None or rule.predicate is None:
            return self._ask(subject, address, codec.weight(message), request)
        allowed = rule.verdict(subject) is Verdict.ALLOW
        self._tell(peer, direction, type_name, address, applied, request, view, allowed=allowed)
        return allowed

    def _is_over_limit(
        self,
        peer: PeerId,
        type_name: str | None,
        size: int,
        request: Decided | None,
        address: Multiaddr | None,
        applied: AppliedRule,
    ) -> bool:
        """Whether what is inbound is over a limit of its type, which is told; otherwise it gets its place."""
        if request is None:
            return False
        now = asyncio.get_running_loop().time()
        request.place = self.quotas.enter(peer, type_name, size, now)
        if request.place is not None:
            return False
        excess = self.quotas.excess(peer, type_name, size, now)
        tell = partial(self._tell, peer, Direction.INBOUND, type_name, address, applied, request, None)
        tell(allowed=False, by="firewall", how="limit", excess=excess)
        return True

    async def _ask(self, subject: Subject, address: Multiaddr | None, size: int, request: Decided | None) -> bool:
        loop = asyncio.get_running_loop()
        since = loop.time()
        tell = partial(self._tell, subject.peer, subject.direction, subject.type, address)
        try:
            decision = await self._approvals.decide(subject, address, size)
        except asyncio.CancelledError:  # the request went away before an answer
            applied = self._firewall.find(subject.peer, subject.direction)
            waited = loop.time() - since
            tell(applied, request, subject.view, allowed=False, by="firewall", how="withdrawn", waited=waited)
            raise
        tell(
            decision.applied,
            request,
            subject.view,
            allowed=decision.allowed,
            by=decision.answer.by,
            how=decision.how,
            waited=loop.time() - since,
            reason=decision.answer.reason,
            signatures=decision.answer.signatures,
        )
        rule = decision.applied.rule
        if decision.allowed and rule is not None and rule.strict:
            loop.call_soon(self.tenancy.rules_changed, subject.peer)  # it may have gone since the answer
        return decision.allowed

    def _tell_of_rule(
        self,
        peer: PeerId,
        direction: Direction,
        type_name: str | None,
        address: Multiaddr | None,
        applied: AppliedRule,
        request: Decided | None,
        body: Any,
        *,
        allowed: bool,
    ) -> None:
        """A rule has decided without a view, which a reader may want nevertheless."""
        view = None
        if self._events.views_wanted:
            try:
                view = body if self._view is None else self._view(body)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever a user's function raises
                self._log_no_view.write(exc_info=error)
        self._tell(peer, direction, type_name, address, applied, request, view, allowed=allowed)

    def _tell(
        self,
        peer: PeerId,
        direction: Direction,
        type_name: str | None,
        address: Multiaddr | None,
        applied: AppliedRule,
        request: Decided | None,
        view: Any,
        *,  # mypyc knows no arguments with a default before others without
        allowed: bool,
        by: str = "rule",
        how: How | None = None,
        waited: float = 0.0,
        reason: str | None = None,
        signatures: tuple[SignedAnswer, ...] = (),
        excess: Excess | None = None,
    ) -> None:
        """A request is decided: a strict rule will end it, who may know hears why it is rejected, readers that it is. ``how`` None:
        as ``allowed`` says."""
        how = how or ("approved" if allowed else "rejected")
        rule = applied.rule
        if request is not None and rule is not None:
            if allowed:
                if rule.strict:
                    self.tenancy.enter(request, peer, direction, type_name, rule)
            elif rule.reasons:
                quiet = self._approvals.quiet if how == "quiet" else None
                request.refusal = self._encode(excess or Excess(REASONS.get(how, Reason.REJECTED), quiet))
        observed = None
        if self.trial is not None:
            asked = by != "rule"
            observed = self.trial.observe(peer, direction, type_name, address, applied, allowed=allowed, asked=asked)
        if not self._events.decisions_wanted:
            return
        self._last_id += 1
        if allowed and request is not None:
            request.decision_id = self._last_id
        decision = FirewallDecision(
            id=self._last_id,
            peer=peer,
            name=self._approvals.name_of(peer),
            direction=direction,
            type=type_name,
            rule=None if rule is None else repr(rule),
            layer=applied.layer,
            line=applied.line,
            allowed=allowed,
            by=by,
            how=how,
            waited=waited,
            address=address,
            reason=reason,
            signatures=signatures,
            observed=observed,
        )
        self._events.emit_decision(decision, view)

    def _encode(self, excess: Excess) -> int:
        retry_after = excess.retry_after
        if retry_after is None and excess.reason is Reason.BUSY:
            retry_after = self._approvals.patience
        return reset_codes.encode(excess.reason, retry_after)


async def permission(
    permitted: Literal[False] | Awaitable[bool], peer: PeerId, what: str, deadline: float, timeout: float
) -> None:
    """Returns when ``what`` we want from ``peer`` may pass.

    Raises:
        NotPermitted: it may not.
        RequestTimeout: nobody has answered before ``deadline`` (the loop's time), after ``timeout`` seconds.
    """
    if permitted is not False:
        try:
            async with asyncio.timeout_at(deadline):
                if await permitted:
                    return
        except TimeoutError:
            raise RequestTimeout(timeout) from None
    raise NotPermitted(peer, f"the firewall rejects this outbound {what}")
