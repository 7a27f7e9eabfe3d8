"""What an asker sees of questions, whoever asks them, and what it can answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from ...events import Direction
from ...identity import PeerId
from ...multiaddr import Multiaddr

__all__ = ["MAX_REASON", "Act", "Answer", "Asked", "Ban", "Questions", "give"]

MAX_REASON: Final = 200
"""Characters of why something is rejected: a sentence, for the audit."""

Act = Literal["once", "type", "all", "reject", "network", "ban"]

Ban: TypeAlias = Callable[[PeerId], Awaitable[object]] | None
"""Bans a peer; None: that cannot be done from here."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is decided about a question."""

    act: Act
    seconds: float | None = None
    """How long an approval of a type, or of everything, lasts; None: for good."""
    also: frozenset[str] = frozenset()
    """Further types that are approved with that of the request."""
    reason: str | None = None
    """Of a rejection."""


class Asked(Protocol):
    """A question, such as a :class:`FirewallRequest`."""

    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> Literal["peer", "request"]: ...
    @property
    def peer(self) -> PeerId: ...
    @property
    def name(self) -> str | None: ...
    @property
    def address(self) -> Multiaddr | None: ...
    @property
    def direction(self) -> Direction: ...
    @property
    def type(self) -> str | None: ...
    @property
    def view(self) -> Any: ...
    @property
    def network(self) -> str | None: ...
    @property
    def expires(self) -> float: ...
    @property
    def waiting(self) -> int: ...
    @property
    def need(self) -> int: ...
    @property
    def agreed(self) -> int: ...
    @property
    def outcome(self) -> str | None: ...
    @property
    def by(self) -> str | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def path(self) -> tuple[Hashable, ...]: ...

    def approve(self) -> bool: ...
    def approve_type(self, for_: float | None = None, *, also: Collection[str] = ...) -> bool: ...
    def approve_all(self, for_: float | None = None) -> bool: ...
    def reject(self, reason: str | None = None) -> bool: ...
    def reject_network(self) -> int: ...
    def count_shown(self, times: int) -> None: ...


class Questions(Protocol):
    """Where questions come from, such as a :class:`StrongholdP2p`."""

    def on_firewall_request(self, handler: Callable[[Any], Awaitable[None]], *, by: str) -> Any: ...
    def remove_firewall_handler(self, handler: Callable[[Any], Awaitable[None]]) -> None: ...


async def give(answer: Answer, question: Asked, ban: Ban) -> int:
    """The number of questions that the answer ended: 0 if this one has ended before, or if several must agree; then it
    changes nothing.

    Raises:
        TypeError, ValueError: it is no answer to this question.
    """
    match answer.act:
        case "once":
            return question.approve()
        case "type":
            return question.approve_type(answer.seconds, also=answer.also)
        case "all":
            return question.approve_all(answer.seconds)
        case "reject":
            return question.reject(answer.reason)
        case "network":
            return question.reject_network()
        case "ban":
            if ban is None or not question.reject(answer.reason):
                return False  # rejected first: closing its connections would end the question
            await ban(question.peer)
            return True
