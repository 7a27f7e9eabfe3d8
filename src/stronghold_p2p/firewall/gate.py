"""The gate: the single point where the firewall checks every request, inbound and outbound."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, Protocol

from ..errors import NotPermitted, RequestTimeout
from ..event_hub import EventHub
from ..events import Direction, FirewallDecision
from ..identity import PeerId
from ..logs import SparingLog
from ..multiaddr import Multiaddr
from .approvals import Approvals
from .rules import AppliedRule, Firewall, Rule, Subject, Verdict

__all__ = ["Gate", "RequestCodec", "permission"]

ALLOW_ALL, REJECT_ALL = Rule.ALLOW_ALL, Rule.REJECT_ALL


class RequestCodec(Protocol):
    """The encoding of requests, as seen by the gate."""

    @property
    def type_name(self) -> Callable[[Any], str | None]:
        """Returns the type name of a request, for rules."""

    def weight(self, data: bytes, /) -> int:
        """Memory in bytes of the decoded request while it waits for an answer."""


class Gate:
    """Decides each request by the rules in force, with a question if needed, and reports every decision.

    ``view`` reduces a request for rules and questions; None: they see the request itself.
    """

    def __init__(
        self, firewall: Firewall, approvals: Approvals, view: Callable[[Any], Any] | None, events: EventHub
    ) -> None:
        self._firewall = firewall
        self._approvals = approvals
        self._view = view
        self._events = events
        self._log_failure = SparingLog(logging.ERROR, "firewall_view failed on a request: it is rejected")

    def rejects_all(self, peer: PeerId, direction: Direction) -> bool:
        """Whether every request is rejected, regardless of its content."""
        return self._firewall.find(peer, direction).rule is REJECT_ALL

    def allows_some(self, peer: PeerId, direction: Direction) -> bool:
        """Whether a rule allows requests without an answer: all, or those of some types."""
        rule = self._firewall.find(peer, direction).rule
        return rule is not None and rule.allows_some

    def rejects(self, peer: PeerId, direction: Direction, type_name: str) -> bool:
        """Whether a rule rejects every request of this type, regardless of its content."""
        rule = self._firewall.find(peer, direction).rule
        return rule is not None and rule.predicate is None and rule.verdict_on(type_name) is Verdict.REJECT

    def refuse(
        self, peer: PeerId, direction: Direction, address: Multiaddr | None, type_name: str | None = None
    ) -> None:
        """Reports a request that was rejected before its body was read, see :meth:`rejects_all`; or a stream, whose type is
        its protocol."""
        self._tell(peer, direction, type_name, self._firewall.find(peer, direction), address, allowed=False)

    def decide_stream(
        self, peer: PeerId, direction: Direction, protocol: str, address: Multiaddr | None
    ) -> bool | Awaitable[bool]:
        """Whether a stream of ``protocol`` may be opened; as for :meth:`decide`. It has no content to see, so no view."""
        applied = self._firewall.find(peer, direction)
        rule = applied.rule
        subject = Subject(peer, direction, protocol, None)
        verdict = Verdict.ASK if rule is None else rule.verdict(subject)
        if verdict is Verdict.ASK:
            return self._ask(subject, address, 0)
        allowed = verdict is Verdict.ALLOW
        self._tell(peer, direction, protocol, applied, address, allowed=allowed)
        return allowed

    def decide(
        self,
        peer: PeerId,
        direction: Direction,
        codec: RequestCodec,
        body: Any,
        message: bytes,
        address: Multiaddr | None,
    ) -> bool | Awaitable[bool]:
        """Whether a request, ``body`` as ``codec`` has it in ``message``, may pass; an awaitable if somebody must be
        asked."""
        applied = self._firewall.find(peer, direction)
        rule = applied.rule
        if rule is ALLOW_ALL:
            if self._events.decisions_wanted:
                self._tell(peer, direction, codec.type_name(body), applied, address, allowed=True)
            return True
        type_name = codec.type_name(body)
        if rule is not None and rule.types:
            verdict = rule.verdict_on(type_name)
            if verdict is not Verdict.ASK:  # decided without a view
                if self._events.decisions_wanted:
                    self._tell(peer, direction, type_name, applied, address, allowed=verdict is Verdict.ALLOW)
                return verdict is Verdict.ALLOW
        try:
            view = body if self._view is None else self._view(body)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises
            self._log_failure.write(exc_info=error)
            self._tell(peer, direction, type_name, applied, address, allowed=False)
            return False
        subject = Subject(peer, direction, type_name, view)
        verdict = Verdict.ASK if rule is None else rule.verdict(subject)
        if verdict is Verdict.ASK:
            return self._ask(subject, address, codec.weight(message))
        allowed = verdict is Verdict.ALLOW
        self._tell(peer, direction, type_name, applied, address, allowed=allowed)
        return allowed

    async def _ask(self, subject: Subject, address: Multiaddr | None, size: int) -> bool:
        loop = asyncio.get_running_loop()
        since = loop.time()
        tell = partial(self._tell, subject.peer, subject.direction, subject.type)
        try:
            allowed, applied = await self._approvals.decide(subject, address, size)
        except asyncio.CancelledError:  # the request went away before an answer
            applied = self._firewall.find(subject.peer, subject.direction)
            tell(applied, address, allowed=False, waited=loop.time() - since)
            raise
        tell(applied, address, allowed=allowed, waited=loop.time() - since)
        return allowed

    def _tell(
        self,
        peer: PeerId,
        direction: Direction,
        type_name: str | None,
        applied: AppliedRule,
        address: Multiaddr | None,
        *,
        allowed: bool,
        waited: float = 0.0,
    ) -> None:
        if self._events.decisions_wanted:
            rule = None if applied.rule is None else repr(applied.rule)
            self._events.emit_decision(
                FirewallDecision(peer, direction, type_name, rule, applied.layer, allowed, waited, address)
            )


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
