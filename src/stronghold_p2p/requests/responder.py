"""The requests of remotes: past the gate, to a handler or an iterator, and their answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import Any, Generic, Self

from ..config import Config
from ..errors import DecodeError, RequestTimeout, StrongholdError
from ..events import ConnectionInfo, Direction, Event, RequestFailed
from ..firewall.gate import Gate
from ..firewall.traffic import Traffic
from ..generics import Req, Res
from ..identity import PeerId
from ..loops import Owner, check_loop, is_contained
from ..transport.substream import Substream
from .codec import Codec
from .message import MessageReceiver, frame, is_short, push

__all__ = ["Request", "RequestQueue", "Responder"]

logger = logging.getLogger("stronghold_p2p")

Handler = Callable[["Request[Req]"], Res | Awaitable[Res]]


class Request(Generic[Req]):
    """An inbound request that the firewall let pass."""

    __slots__ = ("_exchange", "body", "peer")

    def __init__(self, body: Req, exchange: _InboundRequest[Req, Any]) -> None:
        self.body = body
        """The request, decoded."""
        self.peer: PeerId = exchange.stream.peer
        """Who sent it, proved by the handshake."""
        self._exchange = exchange

    def __repr__(self) -> str:
        return f"<Request from {self.peer}>"  # never the content

    @property
    def connection(self) -> ConnectionInfo:
        """The connection that it came on."""
        return self._exchange.stream.info

    async def respond(self, response: Any) -> None:
        """Answers a request taken from ``requests()``; a handler returns its response instead. If the requester is gone
        by now, or the time is up, nothing happens.

        Raises:
            EncodeError: the response cannot be encoded; the request can still be answered.
            RuntimeError: the request was answered or declined before, or it is a handler's.
        """
        self._check_answerable()
        message = self._exchange.responder.encode(response)
        self._exchange.answerable = False
        self._exchange.send(message)

    async def decline(self) -> None:
        """Closes the stream without a response, as a rejection does.

        Raises:
            RuntimeError: as for :meth:`respond`.
        """
        self._check_answerable()
        self._exchange.answerable = False
        self._exchange.reject()

    def _check_answerable(self) -> None:
        check_loop(self._exchange.stream.loop)
        if not self._exchange.answerable:
            raise RuntimeError("this request was answered or declined before, or is answered by its handler")


class _QueuedRequest(Request[Req]):
    """Declined when it is dropped unanswered."""

    __slots__ = ()

    def __del__(self) -> None:
        exchange = self._exchange
        if exchange.answerable:
            exchange.answerable = False
            loop = exchange.stream.loop
            if not loop.is_closed():
                loop.call_soon_threadsafe(exchange.reject)  # the garbage collector runs in any thread


class Responder(Generic[Req, Res]):
    """Serves the requests of remotes: to a handler, or to whoever iterates over them."""

    def __init__(
        self,
        request_codec: Codec[Req],
        response_codec: Codec[Res],
        gate: Gate,
        config: Config,
        emit: Callable[[Event], None],
    ) -> None:
        self.max_request = request_codec.max_size
        self.config = config
        self._decode = request_codec.decode
        self.encode = response_codec.encode
        self._gate = gate
        self._emit = emit
        self._traffic: Traffic[_InboundRequest[Req, Res]] = Traffic(
            config.max_requests_in_flight_per_peer, config.max_requests_per_second_per_peer
        )
        self.serving = False
        """There is someone to answer."""
        self._paced: dict[PeerId, asyncio.TimerHandle] = {}
        """Peers for whose next request a timer is set."""
        self._handler: Handler[Req, Res] | None = None
        self._queue: RequestQueue[Req, Res] | None = None

    def limit_traffic(self, in_flight: int, per_second: float | None) -> None:
        """Sets how many requests of one peer are handled at once, and are let in each second; None: no such limit."""
        self._traffic.max_in_flight = in_flight
        self._traffic.per_second = per_second
        for peer in self._stop_pacing():
            self._let_next_in_soon(peer)

    def set_handler(self, handler: Handler[Req, Res]) -> None:
        """Has ``handler`` answer. Raises RuntimeError if someone answers already."""
        self._take_over()
        self._handler = handler

    def open_queue(self, buffer: int, owner: Owner | None = None) -> RequestQueue[Req, Res]:
        """Has whoever iterates over the queue answer; it reads ``buffer`` requests ahead. Raises RuntimeError as above."""
        queue: RequestQueue[Req, Res] = RequestQueue(buffer, owner)
        self._take_over()
        self._queue = queue
        return queue

    def close(self) -> None:
        """Ends the iteration, and the timers."""
        self._stop_pacing()
        if self._queue is not None:
            self._queue.close()

    def accept(self, _connection: object, stream: Substream) -> None:
        """A remote has opened a stream for a request: it is offered the protocol, so not all that it asks is rejected."""
        exchange = _InboundRequest(stream, self)
        if self._traffic.enter(stream.peer, exchange, stream.now()):
            self._let_in(exchange)
        else:
            self._let_next_in_soon(stream.peer)

    def deliver(self, exchange: _InboundRequest[Req, Res], message: bytes) -> None:
        """A request has come whole."""
        try:
            body = self._decode(message)
        except DecodeError as error:
            self.fail(exchange, error)
            return
        stream = exchange.stream
        permitted = self._gate.decide(stream.peer, Direction.INBOUND, body, message, stream.remote_address)
        if permitted is True:
            self.hand_over(exchange, body)
        elif permitted is False:
            exchange.reject()
        else:
            if self._queue is not None:
                self._queue.leave(exchange)  # who waits for an answer takes no place of those that need none
            exchange.wait(permitted, body)

    def hand_over(self, exchange: _InboundRequest[Req, Res], body: Req) -> None:
        """The firewall lets the request pass."""
        if self._queue is not None:
            exchange.await_answer()
            self._queue.put(_QueuedRequest(body, exchange))
            return
        assert self._handler is not None
        try:
            answer = self._handler(Request(body, exchange))
            if hasattr(answer, "__await__"):
                exchange.run(answer)
            else:
                exchange.send(self.encode(answer))
        except KeyboardInterrupt:
            exchange.reset()  # closing must not wait for it
            raise
        except BaseException as error:  # noqa: BLE001 - see answer
            self._handler_failed(exchange, error)

    def fail(self, exchange: _InboundRequest[Req, Res], error: Exception) -> None:
        """Resets the request's stream; the user learns why, the remote does not."""
        exchange.reset()
        self._emit(RequestFailed(exchange.stream.peer, error))

    def ended(self, exchange: _InboundRequest[Req, Res]) -> None:
        """A request has ended; called once for each."""
        if self._queue is not None:
            self._queue.leave(exchange)
        stream = exchange.stream
        if self._traffic.leave(stream.peer, exchange):
            self._let_next_in_soon(stream.peer)

    def _let_in(self, exchange: _InboundRequest[Req, Res]) -> None:
        """The limits of the peer's traffic allow it."""
        if self._queue is not None:
            self._queue.enter(exchange)
        else:
            exchange.admit()

    def _let_next_in_soon(self, peer: PeerId, delay: float = 0.0) -> None:
        if peer not in self._paced and self._traffic.waits(peer):
            self._paced[peer] = asyncio.get_running_loop().call_later(delay, self._let_next_in, peer)

    def _stop_pacing(self) -> list[PeerId]:
        """Cancels every timer; returns the peers that had one."""
        paced, self._paced = self._paced, {}
        for timer in paced.values():
            timer.cancel()
        return list(paced)

    def _let_next_in(self, peer: PeerId) -> None:
        """Lets in what the peer's traffic allows by now, of whichever connection."""
        delay: float | None = None
        while delay is None:
            following = self._traffic.next(peer, asyncio.get_running_loop().time())
            if following is None:
                break
            if isinstance(following, float):
                delay = following
            else:
                self._let_in(following)
        self._paced.pop(peer, None)
        if delay is not None:
            self._let_next_in_soon(peer, delay)

    async def answer(self, exchange: _InboundRequest[Req, Res], answer: Awaitable[Res]) -> None:
        """Sends what an asynchronous handler returns."""
        try:
            exchange.send(self.encode(await answer))
        except BaseException as error:
            if not is_contained(error, exchange.stream.loop):
                if not isinstance(error, GeneratorExit):
                    exchange.reset()  # closing must not wait for it
                raise
            self._handler_failed(exchange, error)  # whatever a handler raises ends its request, nothing else

    def _handler_failed(self, exchange: _InboundRequest[Req, Res], error: BaseException) -> None:
        logger.error("the handler of a request by %s failed", exchange.stream.peer, exc_info=error)
        if not isinstance(error, Exception):
            cause, error = error, RuntimeError(f"the handler raised {type(error).__name__}")
            error.__cause__ = cause
        self.fail(exchange, error)

    def _take_over(self) -> None:
        if self.serving:
            raise RuntimeError("requests are answered already: by one handler, or one iterator")
        self.serving = True


class _InboundRequest(MessageReceiver, Generic[Req, Res]):
    """A remote's request that is under way."""

    __slots__ = (
        "_admitted",
        "_awaited",
        "_complete",
        "_ended",
        "_held",
        "_limit",
        "_message",
        "_task",
        "_withheld",
        "answerable",
        "responder",
        "size",
    )

    def __init__(self, stream: Substream, responder: Responder[Req, Res]) -> None:
        super().__init__(stream, responder.max_request)
        self.responder = responder
        self.answerable = False
        """The user holds it and has not answered."""
        self.size = 0
        """Bytes of the message, once it has come whole."""
        self._held = 0
        self._admitted = False
        self._complete = False
        self._ended = False
        self._message = b""
        self._withheld = 0
        self._awaited: Awaitable[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._limit_time(responder.config.request_timeout, "inbound request")
        stream.set_receiver(self)

    def admit(self) -> None:
        """There is room for it: it is read to its end and delivered."""
        self._admitted = True
        if self._complete:
            self.let_go()
            message, self._message = self._message, b""
            self.responder.deliver(self, message)
        elif self._withheld:
            self.stream.credit(self._withheld)

    def await_answer(self) -> None:
        """The user answers by :class:`Request`, if in time."""
        self._limit_time(self.responder.config.handler_timeout, "handler")
        self.answerable = True

    def hold(self) -> None:
        """The message counts as received, and not yet taken, until :meth:`let_go`."""
        self._held = self.size
        self.stream.hold(self._held)

    def let_go(self) -> None:
        """The user has it, or nobody ever will."""
        self.stream.let_go(self._held)
        self._held = 0

    def reject(self) -> None:
        """The firewall or the user says no: the stream is closed without a byte."""
        self._end()
        self.stream.release()

    def wait(self, permitted: Awaitable[bool], body: Req) -> None:
        """Somebody is asked; the question has a time limit of its own."""
        self.stream.clear_deadline()
        self._run(permitted, self._wait(permitted, body))

    def run(self, answer: Awaitable[Res]) -> None:
        """An asynchronous handler answers, if in time."""
        self._limit_time(self.responder.config.handler_timeout, "handler")
        self._run(answer, self.responder.answer(self, answer), eager=True)

    def send(self, message: bytes) -> None:
        """Sends the response and ends the stream; does nothing if that has ended."""
        if self._ended:
            return
        if is_short(message) and self.stream.write_now(frame(message)):
            self.stream.release()
            self._end()
            return
        self._limit_time(self.responder.config.request_timeout, "response")
        if push(self.stream, message):
            self.resume_writing()

    def credit(self, size: int) -> None:
        if self._admitted:
            self.stream.credit(size)
        else:
            self._withheld += size  # backpressure: the rest waits at the remote

    def expect(self, size: int) -> None:
        if self._admitted:
            self.stream.expect(size)

    def reset(self) -> None:
        """Ends the exchange without a response."""
        self._end()
        self.stream.reset()

    # -- as the stream's receiver ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._complete:
            return
        try:
            message = self.take(data)
        except DecodeError as error:
            self.responder.fail(self, error)
            return
        if message is not None:
            self._complete = True
            self.size = len(message)
            if self._admitted:
                self.responder.deliver(self, message)
            else:
                self._message = message
                self.hold()

    def eof_received(self) -> None:
        if not self._complete:
            self.responder.fail(
                self, DecodeError(self.stream.protocol, "the stream was closed before the request's end")
            )

    def resume_writing(self) -> None:
        """The response has left."""
        self.stream.release()
        self._end()

    def stream_failed(self, error: StrongholdError) -> None:
        self._end()

    def expired(self) -> None:
        self.responder.fail(self, RequestTimeout(*self._limit))

    # -- details ---------------------------------------------------------------------------------

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self.drop()
        if self._held:
            self.let_go()
            self._message = b""
        if self._task is not None and self._task is not asyncio.current_task(self.stream.loop):
            self._task.cancel()
            if iscoroutine(self._awaited) and getcoroutinestate(self._awaited) == CORO_CREATED:
                self._awaited.close()  # the requester has left before it began, and so it never will
        self.responder.ended(self)

    def _run(self, awaited: Awaitable[Any], coroutine: Coroutine[Any, Any, None], *, eager: bool = False) -> None:
        self._awaited = awaited
        task = self.stream.spawn(coroutine, eager=eager)
        if not task.done():  # an eager task may be, and may have begun another one
            self._task = task

    async def _wait(self, permitted: Awaitable[bool], body: Req) -> None:
        if await permitted:
            self.responder.hand_over(self, body)
        else:
            self.reject()

    def _limit_time(self, seconds: float, what: str) -> None:
        self._limit = seconds, what
        self.stream.set_deadline(self.stream.now() + seconds)


class RequestQueue(Generic[Req, Res]):
    """Requests for ``async for``. What is beyond the buffer waits in its stream: it gets no more window."""

    def __init__(self, buffer: int, owner: Owner | None = None) -> None:
        if buffer < 1:
            raise ValueError(f"buffer must be at least 1, not {buffer}")
        self._owner = owner or Owner()
        self._room = buffer
        self._admitting = False
        self._reading: set[_InboundRequest[Req, Res]] = set()
        self._waiting: dict[_InboundRequest[Req, Res], None] = {}
        self._ready: dict[_InboundRequest[Req, Res], Request[Req]] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Request[Req]:
        self._owner.check()
        while not self._ready:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        exchange = next(iter(self._ready))
        request = self._ready.pop(exchange)
        exchange.let_go()
        self._room += 1
        self._admit()
        return request

    def enter(self, exchange: _InboundRequest[Req, Res]) -> None:
        """A request has begun."""
        self._waiting[exchange] = None
        self._admit()

    def put(self, request: Request[Req]) -> None:
        """A request has come whole: it takes its place in the buffer."""
        if request._exchange in self._reading:
            self._reading.discard(request._exchange)
        else:
            self._room -= 1  # it had left to wait for an answer
        request._exchange.hold()
        self._ready[request._exchange] = request
        self._changed.set()

    def leave(self, exchange: _InboundRequest[Req, Res]) -> None:
        """A request has ended before it was taken."""
        self._waiting.pop(exchange, None)
        if self._ready.pop(exchange, None) is not None:
            self._room += 1
            self._admit()
        elif exchange in self._reading:
            self._reading.discard(exchange)
            self._room += 1
            self._admit()

    def close(self) -> None:
        """Ends the iteration, after the requests that are ready."""
        self._closed = True
        self._changed.set()

    def _admit(self) -> None:
        if self._admitting:
            return  # one that was admitted has left at once: the loop below goes on, however many do
        self._admitting = True
        try:
            while self._waiting and self._room > 0:
                exchange = next(iter(self._waiting))
                del self._waiting[exchange]
                self._room -= 1
                self._reading.add(exchange)
                exchange.admit()
        finally:
            self._admitting = False
