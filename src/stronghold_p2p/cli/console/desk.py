"""The person at the pages, as one of those who answer the firewall's questions."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from ...errors import InvalidAddress, StateError
from ...events import Direction
from ...firewall.answerers import Turns
from ...firewall.questions import FirewallRequest
from ...peer import StrongholdP2p
from ..ask.asked import MAX_REASON, Act, Answer, give
from ..ask.shown import type_is_whole
from ..command import MAX_SECONDS
from . import records

__all__ = ["AnswerError", "Desk", "Given", "Removal"]

logger = logging.getLogger("stronghold_p2p")

MAX_SHOWN = 20
"""Questions that are shown at once; others wait for their turn. A flood of one network thus hides those of none other."""

MAX_ENDED = 2 * MAX_SHOWN
"""Ends that are told, so that every page that showed a question can say what became of it."""


HAS_ENDED = "This question has ended."


class Given(msgspec.Struct, forbid_unknown_fields=True, rename={"seconds": "for"}):
    """An answer, as a page sends it."""

    id: int
    answer: Act
    seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_SECONDS)] | None = None
    """How long ``type`` and ``all`` hold; None: for good."""
    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON)] | None = None
    """Of a rejection."""


class Removal(msgspec.Struct, forbid_unknown_fields=True):
    """What of a peer is to be removed, as a page sends it: its rule in a direction, or its ban."""

    peer: str
    what: Literal["inbound", "outbound", "ban"]


class AnswerError(Exception):
    """What a page says had no effect; why."""


class Desk:
    """Lays out the open questions by turns among networks and then peers, as long as there is a page to see them."""

    def __init__(self, peer: StrongholdP2p[Any, Any], *, alone: bool) -> None:
        """``alone``: nobody else is asked."""
        self._peer = peer
        self._alone = alone
        self.changed: Callable[[], object] = lambda: None
        """Called when what is laid out has changed."""
        self._turns = Turns(0)
        self._shown: dict[int, tuple[FirewallRequest, records.Record]] = {}
        self._ended: deque[records.Record] = deque(maxlen=MAX_ENDED)
        self._warned = False
        peer.on_firewall_request(self._take, by="person")

    @property
    def record(self) -> records.Record:
        """The questions, for a page."""
        return {
            "shown": [
                record | {"waiting": question.waiting, "agreed": question.agreed}
                for question, record in self._shown.values()
            ],
            "more": self._turns.waiting,
            "ended": list(self._ended),
        }

    def attend(self, attended: bool) -> None:
        """Whether there is a page. Without one nobody sees the questions: they wait."""
        self._turns.places = MAX_SHOWN if attended else 0
        if attended:
            self._warned = False

    async def answer(self, given: Given) -> None:
        """Raises AnswerError."""
        question, _ = self._shown.get(given.id, (None, None))
        if question is None:
            raise AnswerError(HAS_ENDED)
        if given.answer == "type" and not type_is_whole(question):
            raise AnswerError("The type cannot be seen whole, so it cannot be allowed by its name.")
        answer = Answer(given.answer, given.seconds, reason=given.reason or None)
        try:
            done = await give(answer, question, self._peer.ban_peer)
        except (ValueError, StateError) as error:
            raise AnswerError(str(error)) from error
        if not done and question.outcome is None:
            raise AnswerError(f"{question.need} approvers must agree: here it can only be rejected.")
        if not done:
            raise AnswerError(HAS_ENDED)

    async def remove(self, removal: Removal) -> None:
        """Raises AnswerError."""
        try:
            if removal.what == "ban":
                await self._peer.unban_peer(removal.peer)
            else:
                self._peer.remove_peer_rule(removal.peer, direction=Direction[removal.what.upper()])
        except (InvalidAddress, StateError) as error:
            raise AnswerError(str(error)) from error

    def close(self) -> None:
        """Answers no more: other answerers get the questions, or they are rejected."""
        self._peer.remove_firewall_handler(self._take)

    async def _take(self, question: FirewallRequest) -> None:
        """Cancelled when the question ends."""
        if self._alone and not self._turns.places and not self._warned:
            self._warned = True
            logger.warning("a request waits for an answer in the console, and no page of it is open")
        self.changed()
        await self._turns.take(question)
        self._shown[question.id] = question, records.question(question)
        self.changed()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            del self._shown[question.id]
            self._turns.pass_on()
            self._ended.append(records.end(question))
            self.changed()
