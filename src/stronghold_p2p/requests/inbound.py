"""One request of a remote, from the opening of its stream to the end of its response."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine
from enum import IntEnum, auto
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import Any, Final, Generic

from ..config import Config
from ..errors import DecodeError, RequestTimeout, StrongholdError
from ..events import ConnectionInfo, RequestOutcome
from ..firewall.quotas import Place
from ..generics import Req, Res
from ..identity import PeerId
from ..loops import check_loop
from ..resources.networks import networks_of
from ..resources.shares import Path
from ..transport.receiver import StreamReceiver
from ..transport.substream import Substream
from .message import MessageReader, send_message
from .protocol import RequestProtocol

__all__ = ["InboundRequest", "Request", "RequestHost", "State", "Step"]


class State(IntEnum):
    """Where a request is on its way; they stand in its order."""

    READING = auto()
    """It has not come whole. It takes no place of those that have, but memory of its peer's share."""
    WAITING = auto()
    """It is whole: it waits for its peer's share of the traffic, or for who iterates."""
    DECIDING = auto()
    """It is decoded, and the firewall decides."""
    QUEUED = auto()
    """Let in: it waits for who iterates."""
    ANSWERING = auto()
    """Its handler is at work, or who iterates has it."""
    RESPONDING = auto()
    """The response leaves, as the remote takes it."""
    ENDED = auto()
    """Responded, rejected, reset by either side, or lost with its connection."""


class Step(IntEnum):
    """What takes a request from one state to the next."""

    COMPLETE = auto()
    ADMIT = auto()
    QUEUE = auto()
    HAND_OVER = auto()
    RESPOND = auto()
    END = auto()


# A member's look-up in its class is slow before Python 3.12; compiled, a Final one is none.
READING: Final = State.READING
WAITING: Final = State.WAITING
DECIDING: Final = State.DECIDING
QUEUED: Final = State.QUEUED
ANSWERING: Final = State.ANSWERING
RESPONDING: Final = State.RESPONDING
ENDED: Final = State.ENDED
COMPLETE: Final = Step.COMPLETE
ADMIT: Final = Step.ADMIT
QUEUE: Final = Step.QUEUE
HAND_OVER: Final = Step.HAND_OVER
RESPOND: Final = Step.RESPOND
END: Final = Step.END

TRANSITIONS: Final[dict[State, dict[Step, State]]] = {
    READING: {COMPLETE: WAITING, END: ENDED},
    WAITING: {ADMIT: DECIDING, END: ENDED},
    DECIDING: {QUEUE: QUEUED, HAND_OVER: ANSWERING, END: ENDED},
    QUEUED: {HAND_OVER: ANSWERING, END: ENDED},
    ANSWERING: {RESPOND: RESPONDING, END: ENDED},
    RESPONDING: {END: ENDED},
    ENDED: {},
}
"""Every step that there is. Another one is a fault of ours, and a KeyError."""

MIN_HELD: Final = 16 * 1024
"""Bytes of a request that counts as memory of its peer until it has ended. Smaller ones are bounded by their number."""


class RequestHost(ABC, Generic[Req, Res]):
    """What a request asks of whoever serves it. A class and no protocol: compiled, each call goes by its table."""

    config: Config

    @abstractmethod
    def completed(self, inbound: InboundRequest[Req, Res]) -> None:
        """It has come whole: it is to be admitted, now or later."""

    @abstractmethod
    def deliver(self, inbound: InboundRequest[Req, Res], message: bytes) -> None:
        """It was admitted."""

    @abstractmethod
    def responding(self, inbound: InboundRequest[Req, Res], size: int) -> None:
        """Its response, of ``size`` bytes, waits until the remote reads."""

    @abstractmethod
    def failed(self, inbound: InboundRequest[Req, Res], error: RequestTimeout | DecodeError) -> None:
        """It is no request, or its time is up: it is to be reset."""

    @abstractmethod
    def ended(self, inbound: InboundRequest[Req, Res]) -> None:
        """It has ended, and so has its task; called once for each that was completed."""


class InboundRequest(StreamReceiver, Generic[Req, Res]):
    """A remote's request, as the receiver of its stream. That brings one message; what follows it is ignored."""

    __slots__ = (
        "_awaited",
        "_held",
        "_host",
        "_message",
        "_reader",
        "_task",
        "decision_id",
        "let_in_at",
        "outcome",
        "place",
        "protocol",
        "refusal",
        "size",
        "state",
        "stream",
    )

    def __init__(self, stream: Substream, protocol: RequestProtocol[Req, Res], host: RequestHost[Req, Res]) -> None:
        self.stream = stream
        self.protocol = protocol
        self.state = READING
        self.place: Place | None = None
        """What it takes of its peer's quota."""
        self.decision_id = 0
        """The id of the firewall's decision that let it pass; 0 if nobody reads decisions."""
        self.let_in_at = 0.0
        """When that was, if there is such an id."""
        self.refusal = 0
        """The error code that tells the remote why it was rejected; 0 if it may not know."""
        self.outcome: RequestOutcome = "left"
        """What has become of it, once it has ended."""
        self.size = 0
        """Bytes of the message, once it has come whole."""
        self._host = host
        self._reader = MessageReader(stream, protocol.requests.max_size)
        self._message = b""
        self._held = False
        """Its bytes count as memory of its peer."""
        self._awaited: Awaitable[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        stream.receiver = self
        stream.set_deadline(stream.now() + host.config.request_timeout)

    @property
    def holder(self) -> Path:
        """Whose it is among what is shared."""
        return (*networks_of(self.stream.remote_address), self.stream.peer)

    # -- its steps -------------------------------------------------------------------------------

    def admit(self) -> None:
        """There is room for it: it is delivered."""
        self.state = TRANSITIONS[self.state][ADMIT]
        if self._held and self.size < MIN_HELD:
            self._let_go()
        message, self._message = self._message, b""
        self._host.deliver(self, message)

    def ask(self, permitted: Awaitable[bool], decision: Coroutine[Any, Any, None]) -> None:
        """Somebody is asked; ``decision`` waits for the answer, ``permitted``, which has a time limit of its own."""
        self.stream.clear_deadline()
        self._awaited = permitted
        self._task = self.stream.spawn(decision)

    def queue(self) -> None:
        """Whoever iterates has time to answer from now on."""
        self.state = TRANSITIONS[self.state][QUEUE]
        self._hold()
        self.stream.set_deadline(self.stream.now() + self._host.config.handler_timeout)

    def hand_over(self) -> None:
        """Its handler, or who iterates, has it."""
        if self._held and self.size < MIN_HELD:
            self._let_go()
        self.state = TRANSITIONS[self.state][HAND_OVER]
        self._task = None  # what has waited for the decision calls the handler now, and is not to be cancelled

    def run(self, answer: Awaitable[Res], response: Coroutine[Any, Any, None]) -> None:
        """``response`` waits for an asynchronous handler's ``answer``, which has a time limit."""
        self.stream.set_deadline(self.stream.now() + self._host.config.handler_timeout)
        self._awaited = answer
        task = self.stream.begin(response)
        if task is not None:  # else it may have begun another
            self._task = task

    def respond(self, message: bytes) -> None:
        """Sends the response and ends the stream; does nothing if that has ended."""
        if self.state is ENDED:
            return
        self.state = TRANSITIONS[self.state][RESPOND]
        self._task = None  # it has said what there was to say
        if self._held:
            self._let_go()
        if send_message(self.stream, message):
            self.stream.release()
            self._end("responded")
        else:
            self.stream.set_deadline(self.stream.now() + self._host.config.request_timeout)
            self._host.responding(self, len(message))

    def reject(self) -> None:
        """The firewall or the user says no: the stream is closed without a byte, or reset with the reason for who may know."""
        self._end("declined")
        if self.refusal:
            self.stream.reset(self.refusal)
        else:
            self.stream.release()

    def reset(self, outcome: RequestOutcome = "failed") -> None:
        """There will be no response, by a fault of the remote or of ours."""
        self._end(outcome)
        self.stream.reset(self.refusal)

    def evict(self) -> None:
        """The strict rule that let it in is no longer in force: as far as nothing has left, it ends like a rejected one."""
        if self.state is RESPONDING:
            self.reset("declined")
        else:
            self.reject()

    # -- as the stream's receiver ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if COMPLETE not in TRANSITIONS[self.state]:
            return
        try:
            message = self._reader.take(data)
        except DecodeError as error:
            self._host.failed(self, error)
            return
        if message is None:
            return
        if self._reader.kept:
            self._reader.drop()
        self.size = len(message)
        self.state = TRANSITIONS[self.state][COMPLETE]
        self._message = message
        if self.size >= MIN_HELD:
            self._hold()
        self._host.completed(self)
        if self.state is WAITING:
            self._hold()

    def place_for(self, size: int) -> memoryview | None:
        return self._reader.place_for(size) if COMPLETE in TRANSITIONS[self.state] else None

    def data_placed(self, size: int) -> None:
        if self._reader.fill(size):
            self.data_received(b"")

    def eof_received(self) -> None:
        if COMPLETE in TRANSITIONS[self.state]:
            self._host.failed(self, DecodeError(self.stream.protocol, "the stream was closed before the request's end"))

    def resume_writing(self) -> None:
        """All of the response has left."""
        self.stream.release()
        self._end("responded")

    def stream_failed(self, error: StrongholdError) -> None:
        self._end("left")

    def expired(self) -> None:
        config = self._host.config
        if self.state is QUEUED or self.state is ANSWERING:
            error = RequestTimeout(config.handler_timeout, "handler")
        elif self.state is RESPONDING:
            error = RequestTimeout(config.request_timeout, "response")
        else:
            error = RequestTimeout(config.request_timeout, "inbound request")
        self._host.failed(self, error)

    def connection_closing(self) -> None:
        if self.state < ANSWERING:
            self.reject()  # nobody has got it, and nobody will: its requester need not wonder

    # -- details ---------------------------------------------------------------------------------

    def _hold(self) -> None:
        if not self._held:
            self._held = True
            self.stream.hold(self.size)

    def _let_go(self) -> None:
        self._held = False
        self.stream.let_go(self.size)

    def _end(self, outcome: RequestOutcome) -> None:
        if self.state is ENDED:
            return
        self.outcome = outcome
        was_read = self.state is not READING
        self.state = TRANSITIONS[self.state][END]
        self._message = b""
        if self._reader.kept:
            self._reader.drop()
        if not was_read:
            return
        task, self._task = self._task, None  # whose exception knows its frames, and so us
        if task is None or task is asyncio.current_task(self.stream.loop) or task.done():
            self._host.ended(self)
            return
        task.cancel()
        if iscoroutine(self._awaited) and getcoroutinestate(self._awaited) == CORO_CREATED:
            self._awaited.close()  # the requester has left before it began, and so it never will
        # It may take its time to end. A remote that opens and resets would otherwise have any number of them running.
        task.add_done_callback(self._task_ended)

    def _task_ended(self, _task: asyncio.Task[None]) -> None:
        self._host.ended(self)


class Request(Generic[Req]):
    """An inbound request that passed the firewall."""

    __slots__ = ("_answerable", "_inbound", "body", "peer")

    def __init__(self, body: Req, inbound: InboundRequest[Req, Any]) -> None:
        self.body = body
        """The decoded request."""
        self.peer: PeerId = inbound.stream.peer
        """The sender, authenticated by the handshake."""
        self._inbound = inbound
        self._answerable = False
        """The request came from ``requests()`` and is not answered yet."""

    def __repr__(self) -> str:
        return f"<Request from {self.peer}>"  # never the content

    @property
    def connection(self) -> ConnectionInfo:
        """The connection of this request."""
        return self._inbound.stream.info

    async def respond(self, response: Any) -> None:
        """Answers a request from ``requests()``; a handler returns its response instead.

        Without effect if the requester has left, or the time is up.

        Raises:
            EncodeError: the response cannot be encoded, or is too large; the request can still be answered.
            RuntimeError: the request is already answered or declined, or belongs to a handler.
        """
        self._check_answerable()
        message = self._inbound.protocol.responses.encode(response)
        self._answerable = False
        self._inbound.respond(message)

    async def decline(self) -> None:
        """Closes the stream without a response, like a rejection.

        Raises:
            RuntimeError: as for :meth:`respond`.
        """
        self._check_answerable()
        self._answerable = False
        self._inbound.reject()

    def _check_answerable(self) -> None:
        check_loop(self._inbound.stream.loop)
        if not self._answerable:
            raise RuntimeError("the request is already answered or declined, or its handler answers it")
