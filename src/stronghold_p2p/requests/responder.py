"""Inbound requests: through the gate, to a handler or an iterator, and their responses."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Generic

from ..config import Config
from ..errors import DecodeError, LimitExceeded, RequestTimeout
from ..event_hub import EventHub
from ..events import Direction, RequestFailed, RequestHandled
from ..firewall.gate import Gate
from ..firewall.paced_traffic import PacedTraffic
from ..firewall.traffic import TrafficLimits
from ..generics import Req, Res
from ..logs import SparingLog
from ..loops import Owner, is_contained
from ..resources.networks import networks_of
from ..resources.refusals import Refusals
from ..resources.shares import Shares
from ..resources.turns import Turns
from ..transport.substream import Substream
from .inbound import InboundRequest, Request, RequestHost, State
from .protocol import RequestProtocol
from .queue import RequestQueue

__all__ = ["Responder"]

INBOUND: Final = Direction.INBOUND  # a member's look-up in its class is slow before Python 3.12

Handler = Callable[["Request[Req]"], Res | Awaitable[Res]]


class Responder(RequestHost[Req, Res], Generic[Req, Res]):
    """Serves inbound requests of all request protocols, with a handler or an iterator."""

    def __init__(
        self,
        protocols: Sequence[RequestProtocol[Req, Res]],
        gate: Gate,
        config: Config,
        events: EventHub,
        refusals: Refusals,
    ) -> None:
        self.protocols = {protocol.id: protocol for protocol in protocols}
        """What is served, by protocol id."""
        self.config = config
        self.turns: Turns
        """Set before the first request."""
        self.serving = False
        """Whether there is a handler or an iterator."""
        self._gate = gate
        self._events = events
        self.traffic: PacedTraffic[InboundRequest[Req, Res]] = PacedTraffic(TrafficLimits.of(config), self._admit)
        self._refusals = refusals
        self._max_responses = config.max_response_buffer
        self._responses: Shares[InboundRequest[Req, Res]] = Shares()
        """Those whose remote does not read, with their sizes."""
        self._handler: Handler[Req, Res] | None = None
        self._queue: RequestQueue[Req, Res] | None = None
        self._log_invalid = SparingLog(logging.WARNING, "a request from %s cannot be decoded")
        self._log_late = SparingLog(logging.WARNING, "a request from %s was reset: %s")
        self._log_failure = SparingLog(logging.ERROR, "the handler failed on a request from %s")

    def set_handler(self, handler: Handler[Req, Res]) -> None:
        """Sets the handler.

        Raises:
            RuntimeError: there already is a handler or an iterator.
        """
        self._take_over()
        self._handler = handler

    def open_queue(self, buffer: int, owner: Owner | None = None) -> RequestQueue[Req, Res]:
        """Makes the iterator, which reads ``buffer`` requests ahead.

        Raises:
            RuntimeError: there already is a handler or an iterator.
        """
        queue: RequestQueue[Req, Res] = RequestQueue(buffer, lambda: self.turns, owner)
        self._take_over()
        self._queue = queue
        return queue

    def close(self) -> None:
        """Ends the iteration, and the timers."""
        self.traffic.close()
        if self._queue is not None:
            self._queue.close()

    def accept(self, _connection: object, stream: Substream) -> None:
        """A remote has opened a stream for a request: it is offered the protocol, so not all that it asks is rejected."""
        InboundRequest(stream, self.protocols[stream.protocol], self)

    # -- as the requests' host -------------------------------------------------------------------

    def completed(self, inbound: InboundRequest[Req, Res]) -> None:
        stream = inbound.stream
        if self.traffic.enter(stream.peer, inbound, stream.now()):
            self._admit(inbound)
        else:
            self.traffic.admit_next_soon(stream.peer)

    def deliver(self, inbound: InboundRequest[Req, Res], message: bytes) -> None:
        codec = inbound.protocol.requests
        try:
            body = codec.decode(message)
        except DecodeError as error:
            self.failed(inbound, error)
            return
        stream = inbound.stream
        permitted = self._gate.decide(stream.peer, INBOUND, codec, body, message, stream.remote_address, inbound)
        if permitted is True:
            self._let_in(inbound, body)
        elif permitted is False:
            inbound.reject()
        else:
            inbound.ask(permitted, self._wait_for_permission(inbound, permitted, body))

    def responding(self, inbound: InboundRequest[Req, Res], size: int) -> None:
        responses, limit = self._responses, self._max_responses
        holder = inbound.holder
        responses.add(holder, inbound, max(size, 1))  # an empty one takes a place, too
        if responses.free(holder, limit) <= 0:
            self.traffic.block(inbound.stream.peer)
        while responses.used > limit:
            *_, newest = responses.largest()
            self._refusals.add("max_response_buffer", networks_of(newest.stream.remote_address))
            self._fail(newest, LimitExceeded("max_response_buffer"))

    def failed(self, inbound: InboundRequest[Req, Res], error: RequestTimeout | DecodeError) -> None:
        if isinstance(error, RequestTimeout):
            if inbound.state is State.WAITING:
                inbound.refusal = self._gate.refusal(inbound.stream.peer, self.traffic.excess(inbound.stream.peer))
            self._log_late.write(inbound.stream.peer, error)
        else:
            self._log_invalid.write(inbound.stream.peer)  # without the reason, which quotes the content
        self._fail(inbound, error)

    def ended(self, inbound: InboundRequest[Req, Res]) -> None:
        if self._queue is not None:
            self._queue.leave(inbound)
        elif self.turns.crowded:
            if inbound.outcome == "left":
                self.turns.give_up(inbound.holder, inbound.admit)
            else:
                self.turns.forget(inbound.admit)
        peer = inbound.stream.peer
        if self._gate.tenancy.tenants:
            self._gate.tenancy.leave(inbound, peer)
        if inbound.place is not None:
            inbound.place.leave()
        if inbound.decision_id:
            seconds = inbound.stream.now() - inbound.let_in_at
            self._events.emit_handled(RequestHandled(inbound.decision_id, peer, inbound.outcome, seconds))
        if self._responses and self._responses.discard(inbound):
            self.traffic.unblock(peer)
        if self.traffic.leave(peer, inbound):
            self.traffic.admit_next_soon(peer)

    # -- answering -------------------------------------------------------------------------------

    def _let_in(self, inbound: InboundRequest[Req, Res], body: Req) -> None:
        """The firewall lets the request pass."""
        if inbound.decision_id:
            inbound.let_in_at = inbound.stream.now()
        if self._queue is not None:
            self._queue.put(inbound, body)
            return
        assert self._handler is not None
        inbound.hand_over()
        try:
            answer = self._handler(Request(body, inbound))
            if hasattr(answer, "__await__"):
                inbound.run(answer, self._answer(inbound, answer))
            else:
                self._respond(inbound, answer)
        except KeyboardInterrupt:
            inbound.reset()  # closing must not wait for it
            raise
        except BaseException as error:  # noqa: BLE001 - see _answer
            self._handler_failed(inbound, error)

    async def _wait_for_permission(
        self, inbound: InboundRequest[Req, Res], permitted: Awaitable[bool], body: Req
    ) -> None:
        if await permitted:
            self._let_in(inbound, body)
        else:
            inbound.reject()

    async def _answer(self, inbound: InboundRequest[Req, Res], answer: Awaitable[Res]) -> None:
        """Sends what an asynchronous handler returns. Hundreds may return in one turn of the loop, and each response take
        a millisecond to encode: those have their turns, too."""
        turns = self.turns
        try:
            response = await answer
            if turns.over:
                turns.wait_to_end(inbound.holder, partial(self._respond, inbound, response))
            else:
                turns.run(self._respond, inbound, response)
        except BaseException as error:
            if not is_contained(error, inbound.stream.loop):
                if not isinstance(error, GeneratorExit):
                    inbound.reset()  # closing must not wait for it
                raise
            self._handler_failed(inbound, error)  # whatever a handler raises ends its request, nothing else

    def _respond(self, inbound: InboundRequest[Req, Res], response: Res) -> None:
        if inbound.state is State.ENDED:
            return  # its requester has left while the response waited for its turn
        try:
            inbound.respond(inbound.protocol.responses.encode(response))
        except KeyboardInterrupt:
            inbound.reset()
            raise
        except BaseException as error:  # noqa: BLE001 - see _answer
            self._handler_failed(inbound, error)

    def _handler_failed(self, inbound: InboundRequest[Req, Res], error: BaseException) -> None:
        self._log_failure.write(inbound.stream.peer, exc_info=error)
        if not isinstance(error, Exception):
            cause, error = error, RuntimeError(f"the handler raised {type(error).__name__}")
            error.__cause__ = cause
        self._fail(inbound, error)

    def _fail(self, inbound: InboundRequest[Req, Res], error: Exception) -> None:
        """Resets the request's stream; the user learns why, the remote does not."""
        inbound.reset("timeout" if isinstance(error, RequestTimeout) else "failed")
        self._events.emit(RequestFailed(inbound.stream.peer, error))

    def _take_over(self) -> None:
        if self.serving:
            raise RuntimeError("requests already have a handler or an iterator: only one can answer them")
        self.serving = True

    # -- the traffic of each peer ----------------------------------------------------------------

    def _admit(self, inbound: InboundRequest[Req, Res]) -> None:
        """The limits of the peer's traffic allow it."""
        if self._queue is not None:
            self._queue.enter(inbound)
            return
        turns = self.turns
        if turns.crowded:
            turns.wait_to_begin(inbound.holder, inbound.admit)
        else:
            turns.begin(inbound.admit)
