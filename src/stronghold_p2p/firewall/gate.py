"""The gate: the single point where the firewall checks every request, inbound and outbound."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from ..event_hub import EventHub
from ..events import Direction, FirewallDecision
from ..identity import PeerId
from ..logs import SparingLog
from ..multiaddr import Multiaddr
from .approvals import Approvals
from .rules import AppliedRule, Firewall, Rule, Subject, Verdict

__all__ = ["Gate", "RequestCodec"]

ALLOW_ALL = Rule.ALLOW_ALL


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
        rule = self._firewall.find(peer, direction).rule
        return rule is not None and rule.rejects_all

    def allows_some(self, peer: PeerId, direction: Direction) -> bool:
        """Whether a rule allows requests without an answer: all, or those of some types."""
        rule = self._firewall.find(peer, direction).rule
        return rule is not None and rule.allows_some

    def refuse(self, peer: PeerId, direction: Direction, address: Multiaddr | None) -> None:
        """Reports a request that was rejected before its body was read, see :meth:`rejects_all`."""
        self._tell(peer, direction, None, self._firewall.find(peer, direction), address, allowed=False)

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
