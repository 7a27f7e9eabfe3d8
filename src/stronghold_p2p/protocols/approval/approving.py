"""The side that approves: questions of other peers' firewalls, answered here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Final, Literal, Self, TypeAlias, get_args

from ...encoding import messages
from ...errors import RemoteProtocolError, StrongholdError
from ...events import Direction, Outcome, QuestionKind, Scope
from ...identity import Keypair, PeerId
from ...loops import Owner, check_loop
from ...multiaddr import Multiaddr
from ...resources.shares import Shares
from ...transport.connection import Connection
from ...transport.stream import Stream
from ..framing import read, read_bytes, write_bytes
from ..service import Service, in_task
from .answers import MAX_REASON, MAX_SECONDS
from .question import MAX_BY, MAX_MESSAGE, PROTOCOL, ApprovalQuestion, cut

__all__ = ["ApprovalOutcome", "ApprovalRequest", "ApprovalRequests", "Approving"]

logger = logging.getLogger("stronghold_p2p")

MAX_OPEN: Final = 64
"""Open questions of one asking peer; further ones are refused. One of this library asks no more than 32 at once, on each of
two connections while one replaces the other."""

MAX_END: Final = 4096
"""Bytes of the message that tells how a question has ended: each character of who has answered and why takes 4 at most."""

READ_TIMEOUT: Final = 10.0
"""Seconds from the opening of a stream to the whole question."""

PATIENCE: Final = 2.0
"""Seconds after the deadline for the peer that asks to say how its question has ended."""

ApprovalOutcome: TypeAlias = Outcome | Literal["lost"]
"""How a question has ended at the peer that asks; ``"lost"``: unknown, since the connection has ended, or that peer asks us
no more."""
OUTCOMES: Final[dict[str, ApprovalOutcome]] = {outcome: outcome for outcome in get_args(Outcome)}


class ApprovalRequest:
    """A question of another peer's firewall. Answer it with :meth:`approve`, :meth:`approve_type`, :meth:`approve_all` or
    :meth:`reject`.

    Each answer is signed with this peer's key, and kept by the peer that asks. What else it tells of the question is that
    peer's word, and the view and type are the requester's: texts of others, to be escaped before they are shown.
    """

    def __init__(self, id: int, question: ApprovalQuestion, line: _Line) -> None:
        loop = asyncio.get_running_loop()
        self._line = line
        self._is_answered = False
        self._by: str | None = None
        self._reason: str | None = None
        self._ended: asyncio.Future[ApprovalOutcome] = loop.create_future()
        self.id: Final = id
        """A counter within one :class:`StrongholdP2p`, from 1."""
        self.asker: Final = line.asker
        """The peer that asks, whose firewall it is."""
        self.kind: Final[QuestionKind] = question.kind
        """``"peer"``: about a peer without a rule; ``"request"``: about this request."""
        self.peer: Final = question.peer
        """Whose request it is; of an outbound one, to whom."""
        self.name: Final = question.name
        """What the asking peer calls it, in at most 100 characters."""
        self.address: Final[Multiaddr | None] = question.address
        """Where the asking peer sees it; None if it is not connected there."""
        self.direction: Final[Direction] = question.direction
        """Inbound: to the asking peer."""
        self.type: Final = question.type
        """The type of the request, in at most 200 characters."""
        self.view: Final = question.view
        """The view of the request as text, JSON where it can be, cut to 2,000 characters."""
        self.waiting: Final = question.waiting
        """The number of requests that wait for the answer."""
        self.need: Final = question.need
        """How many approvers must agree."""
        self.agreed: Final = question.agreed
        """How many had when it was asked."""
        self.expires: Final = loop.time() + question.seconds
        """The deadline by the clock of the event loop: ``expires - loop.time()`` is the remaining time in seconds."""

    def __repr__(self) -> str:
        # Never the view.
        return (
            f"<ApprovalRequest {self.id} of {self.asker}: {self.kind} {self.direction.name} {self.peer} {self.type!r}>"
        )

    @property
    def outcome(self) -> ApprovalOutcome | None:
        """How the question ended; None while it is open."""
        return self._ended.result() if self._ended.done() else None

    @property
    def is_answered(self) -> bool:
        """Whether an answer was given here."""
        return self._is_answered

    @property
    def by(self) -> str | None:
        """Who ended it, as in :class:`FirewallDecision` of the peer that asks; None while it is open, or if that is unknown."""
        return self._by

    @property
    def reason(self) -> str | None:
        """The reason of a rejection, if one was given."""
        return self._reason

    async def ended(self) -> ApprovalOutcome:
        """Waits until the question has ended, and returns how."""
        check_loop(self._ended.get_loop())
        await asyncio.wait((self._ended,))
        return self._ended.result()

    def approve(self) -> bool:
        """Lets the waiting requests pass. False if the question has ended, or was answered here before. Whether the answer
        came in time, :attr:`outcome` says."""
        return self._give("once", None)

    def approve_type(self, for_: float | None = None) -> bool:
        """The same, and from now on for all requests of this type from that peer in this direction: for ``for_`` seconds, or
        for good. If several approvers must agree, the narrowest of what they approve applies.

        Raises:
            ValueError: the request has no type, or ``for_`` is not above 0 or more than a year.
        """
        if self.type is None:
            raise ValueError(f"question {self.id} is about a request without a type: use approve() or approve_all()")
        return self._give("type", for_)

    def approve_all(self, for_: float | None = None) -> bool:
        """The same for all requests of that peer in this direction.

        Raises:
            ValueError: ``for_`` is not above 0, or more than a year.
        """
        return self._give("all", for_)

    def reject(self, reason: str | None = None) -> bool:
        """Rejects the waiting requests. ``reason`` is for the peer that asks, and cut to 200 characters. False as for
        :meth:`approve`."""
        return self._give(None, None, None if reason is None else cut(reason, MAX_REASON))

    def _give(self, scope: Scope | None, seconds: float | None, reason: str | None = None) -> bool:
        check_loop(self._ended.get_loop())
        if seconds is not None and not 0 < seconds <= MAX_SECONDS:
            raise ValueError(f"expected a time above 0 and of at most {MAX_SECONDS:,.0f} seconds, got {seconds}")
        if self._is_answered or self._ended.done():
            return False
        self._is_answered = True
        self._line.send(scope, seconds, reason)
        return True

    def _end(self, outcome: ApprovalOutcome, by: str = "", reason: str = "") -> None:
        self._by, self._reason = by or None, reason or None
        self._ended.set_result(outcome)


class _Line:
    """To the peer that asks, about one question."""

    def __init__(
        self, keypair: Keypair, connection: Connection, stream: Stream, question: ApprovalQuestion, sent: bytes
    ) -> None:
        self.asker: Final = connection.peer
        self.reset: Final = stream.reset
        self._keypair = keypair
        self._connection = connection
        self._stream = stream
        self._question = question
        self._sent = sent

    def send(self, scope: Scope | None, seconds: float | None, reason: str | None) -> None:
        """Signs an answer, and sends it in the background."""
        answer = self._question.answer(
            self._sent, asker=self.asker, scope=scope, seconds=seconds, reason=reason, time=time.time()
        )
        self._connection.spawn(self._write(answer.seal(self._keypair)))

    async def _write(self, envelope: bytes) -> None:
        try:
            await write_bytes(self._stream, envelope)
        except StrongholdError as error:
            logger.debug("an answer for %s was not sent: %s", self.asker, error)


class _Inbox:
    """The questions that one iterator has not given out yet."""

    def __init__(self, of: frozenset[PeerId]) -> None:
        self.of: Final = of
        self.requests: Final[Shares[ApprovalRequest]] = Shares()
        """By the peer that asks, and then by the one that it is about."""
        self.taken: Final[set[ApprovalRequest]] = set()
        """Open ones that it has given out."""
        self.changed = asyncio.Event()
        self.is_closed = False

    def put(self, request: ApprovalRequest) -> None:
        self.requests.add((request.asker, request.peer), request)
        self.changed.set()

    async def take(self) -> ApprovalRequest:
        """Raises StopAsyncIteration: it is closed."""
        while not self.requests:
            if self.is_closed:
                raise StopAsyncIteration
            self.changed.clear()
            await self.changed.wait()
        request = self.requests.next()
        self.taken.add(request)
        return request

    def discard(self, request: ApprovalRequest) -> None:
        self.requests.discard(request)
        self.taken.discard(request)


class ApprovalRequests:
    """An iterator over the questions of other peers' firewalls, for ``async for``, also in several tasks. They come by turns
    among the peers that ask, and then among those that they are about. One that has ended before does not come.

    It gets questions until it is closed or garbage-collected.
    """

    def __init__(self, inbox: _Inbox, owner: Owner, remove: Callable[[_Inbox], None]) -> None:
        self._inbox = inbox
        self._owner = owner
        self._remove = remove

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ApprovalRequest:
        self._owner.check()
        return await self._inbox.take()

    def close(self) -> None:
        """Ends the iteration, and leaves all its questions to other approvers."""
        self._owner.check()
        self._remove(self._inbox)
        for request in list(self._inbox.taken):
            request._line.reset()

    def __del__(self) -> None:
        # Questions that were taken from it can still be answered.
        loop = self._owner.loop
        if loop is None:
            self._remove(self._inbox)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._remove, self._inbox)  # the garbage collector runs in any thread


class Approving(Service):
    """Takes questions of the peers for which an iterator is open; the protocol is offered to no others. ``changed`` is called
    with each peer whose offer has changed."""

    def __init__(self, changed: Callable[[PeerId], None]) -> None:
        self.protocols = {PROTOCOL: in_task(self._serve)}
        self._changed = changed
        self._inboxes: dict[PeerId, _Inbox] = {}
        self._streams: dict[Stream, PeerId] = {}
        """The open ones, each with the peer that asks."""
        self._last_id = 0

    def offers(self, peer: PeerId) -> bool:
        """Whether ``peer`` may ask."""
        return peer in self._inboxes

    def open(self, of: Collection[PeerId], owner: Owner) -> ApprovalRequests:
        """An iterator over the questions of these peers.

        Raises:
            RuntimeError: the questions of one of them have an iterator.
            ValueError: ``of`` is empty.
        """
        inbox = _Inbox(frozenset(of))
        if not inbox.of:
            raise ValueError("expected the peers whose questions are to be answered, got none")
        for peer in inbox.of:
            if peer in self._inboxes:
                raise RuntimeError(f"the questions of {peer} already have an iterator")
        for peer in inbox.of:
            self._inboxes[peer] = inbox
            self._changed(peer)
        return ApprovalRequests(inbox, owner, self._remove)

    def close(self) -> None:
        """Ends all iterators, and leaves all questions to other approvers."""
        for inbox in set(self._inboxes.values()):
            self._remove(inbox)
        for stream in list(self._streams):
            stream.reset()

    def _remove(self, inbox: _Inbox) -> None:
        """Gives it no more questions, and gives up those that nobody has taken."""
        if not inbox.is_closed:
            inbox.is_closed = True
            for peer in inbox.of:
                del self._inboxes[peer]
                self._changed(peer)
            for request in list(inbox.requests):
                inbox.discard(request)
                request._line.reset()
            inbox.changed.set()

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        asker = connection.peer
        inbox = self._inboxes.get(asker)
        if inbox is None or sum(one == asker for one in self._streams.values()) >= MAX_OPEN:
            stream.reset()
            return
        self._streams[stream] = asker
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                sent = await read_bytes(stream, max_size=MAX_MESSAGE)
            question = ApprovalQuestion.decode(sent)
            if question.peer == self.host.keypair.peer_id:
                raise RemoteProtocolError(PROTOCOL, "a question about ourselves")
            self._last_id += 1
            line = _Line(self.host.keypair, connection, stream, question, sent)
            await _hold(inbox, ApprovalRequest(self._last_id, question, line), stream)
        finally:
            del self._streams[stream]


async def _hold(inbox: _Inbox, request: ApprovalRequest, stream: Stream) -> None:
    """Has a question answered, until it ends."""
    end = messages.ApprovalEnd(outcome="lost")
    inbox.put(request)
    try:
        async with asyncio.timeout_at(request.expires + PATIENCE):
            end = await read(stream, messages.ApprovalEnd, max_size=MAX_END)
    except TimeoutError:
        end.outcome = "timed out"
    finally:
        inbox.discard(request)
        request._end(OUTCOMES.get(end.outcome, "lost"), cut(end.by, MAX_BY), cut(end.reason, MAX_REASON))
