"""Requests and responses: one stream each, every request ends exactly once.

On the wire a message is its length (unsigned varint) and its body. The dialer of the stream sends the request, the
listener the response; both then close. A rejected request's stream is closed in order without a byte of response.
FIN waits: a requester sends it when the answer has begun, since js-libp2p cannot take it in a stream's first flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import Any, Generic, Self, TypeVar

from .codec import Codec
from .config import Config
from .errors import (
    ConnectionLost,
    DecodeError,
    NoResponse,
    NotPermitted,
    RequestTimeout,
    StrongholdError,
)
from .events import ConnectionInfo, Event, RequestFailed
from .firewall import Firewall
from .identity import PeerId
from .transport.connection import Connection
from .transport.stream import MAX_LAZY_SIZE, Stream, append_chunk
from .wire import varint

__all__ = ["Request", "RequestQueue", "Requester", "Responder"]

logger = logging.getLogger("stronghold_p2p")

Req = TypeVar("Req")
Res = TypeVar("Res")

Handler = Callable[["Request[Req]"], Res | Awaitable[Res]]


class _MessageReceiver:
    """Puts one message together from what comes on a stream."""

    __slots__ = ("_chunks", "_missing", "_size", "max_size", "stream")

    def __init__(self, stream: Stream, max_size: int) -> None:
        self.stream = stream
        self.max_size = max_size
        self._chunks: list[bytes] = []
        self._missing = -1
        """Bytes of the body that have not come; -1 while its length is not known."""
        self._size = 0
        """Bytes in the chunks, which count against the budget."""

    @property
    def begun(self) -> bool:
        """Whether a part of a message has come."""
        return self._size > 0

    def take(self, data: bytes) -> bytes | None:
        """The message's body if ``data`` completes it; what follows it is ignored.

        Raises:
            DecodeError: the length is malformed, or over the limit.
        """
        if not self._chunks:
            head = varint.decode(data)
            if head is not None:
                size, start = head
                if len(data) == start + size <= self.max_size:
                    return data[start:]
        return self._take_part(data)

    def credit(self, size: int) -> None:
        """Lets the remote send ``size`` bytes more."""
        self.stream.credit(size)

    def drop(self) -> None:
        """Forgets what has come."""
        self.stream.connection.budget.give(self._size)
        self._chunks.clear()
        self._size = 0

    def _take_part(self, data: bytes) -> bytes | None:
        append_chunk(self._chunks, data)
        self._size += len(data)
        self.stream.connection.budget.take(len(data))
        if self._missing < 0:
            # A length is at most nine bytes: joining until it is known is cheap.
            self._chunks[:] = [b"".join(self._chunks)]
            head = varint.decode(self._chunks[0])
            if head is None:
                return None
            size, start = head
            if size > self.max_size:
                raise DecodeError(
                    self.stream.protocol, f"a message of {size} bytes is over the limit of {self.max_size}"
                )
            self._chunks[0] = self._chunks[0][start:]
            self._missing = size - len(self._chunks[0])
        else:
            self._missing -= len(data)
        if self._missing > 0:
            self.credit(len(data))
            return None
        if self._missing < 0:
            self._chunks[-1] = self._chunks[-1][: self._missing]
        body = b"".join(self._chunks)
        self.drop()
        return body


class _OutboundRequest(_MessageReceiver):
    """A request of ours that is under way. ``response`` ends once, with the body or an error."""

    __slots__ = ("response", "sent", "timeout")

    def __init__(self, stream: Stream, max_size: int, timeout: float, response: asyncio.Future[bytes]) -> None:
        super().__init__(stream, max_size)
        self.response = response
        self.timeout = timeout
        self.sent = False
        """The request was handed over whole."""
        stream.set_receiver(self)

    def abandon(self) -> None:
        """Ends the stream without its answer. The Rust crate, which has no identify, closes its connection on a reset
        while its handler works: it gets a FIN, and its response is dropped."""
        self.drop()
        if self.sent and not self.stream.connection.identified:
            self.stream.release()
        else:
            self.stream.reset()

    def data_received(self, data: bytes) -> None:
        try:
            body = self.take(data)
        except DecodeError as error:
            self._fail(error)
            return
        if body is not None:
            self.stream.release()
            if not self.response.done():
                self.response.set_result(body)

    def eof_received(self) -> None:
        if self.begun:
            self._fail(DecodeError(self.stream.protocol, "the stream was closed in the middle of the response"))
        else:
            self._fail(NoResponse(self.stream.peer))

    def stream_failed(self, error: StrongholdError) -> None:
        self.drop()
        if not self.response.done():
            self.response.set_exception(error)

    def expired(self) -> None:
        if not self.response.done():
            self.response.set_exception(RequestTimeout(self.timeout))
        self.abandon()

    def _fail(self, error: StrongholdError) -> None:
        if not self.response.done():
            self.response.set_exception(error)
        self.drop()
        if self.sent:
            self.stream.release()
        else:
            self.stream.reset()


class _NothingSent(Exception):
    """The connection ended before a byte of the request reached its socket: the one case in which it is tried again."""

    def __init__(self, reason: ConnectionLost) -> None:
        super().__init__(reason)
        self.reason = reason


class Requester(Generic[Req, Res]):
    """Sends requests."""

    def __init__(
        self, protocol: str, request_codec: Codec[Req], response_codec: Codec[Res], firewall: Firewall, *, text: bool
    ) -> None:
        self._protocol = protocol
        self._encode = request_codec.encode
        self._decode = response_codec.decode
        self._max_response = response_codec.max_size
        self._firewall = firewall
        self._text = text

    async def request(
        self,
        peer: PeerId,
        body: Req,
        *,
        timeout: float,
        connect: Callable[[float], Awaitable[Connection]],
        connection: Connection | None,
    ) -> Res:
        """Sends ``body`` to ``peer`` and returns its response, within ``timeout`` seconds.

        ``connection`` is used if there is one; else, or if it turns out to be gone before a byte left, ``connect``,
        which is given the deadline, makes one.
        """
        if not self._firewall.permits_outbound(peer):
            raise NotPermitted(peer, "a firewall rule for outbound requests")
        message = self._encode(body)
        message = varint.encode(len(message)) + message
        deadline = asyncio.get_running_loop().time() + timeout
        if connection is not None:
            try:
                return self._decode(await self._exchange(connection, message, deadline, timeout))
            except _NothingSent:
                pass  # the connection was closing: once more, on a fresh one
        connection = await connect(deadline)
        if not self._firewall.permits_outbound(peer):
            raise NotPermitted(peer, "a firewall rule for outbound requests")
        try:
            return self._decode(await self._exchange(connection, message, deadline, timeout))
        except _NothingSent as error:
            raise error.reason from None

    async def _exchange(self, connection: Connection, message: bytes, deadline: float, timeout: float) -> bytes:
        """One request on ``connection``; returns the response's body."""
        stream = connection.open_stream_now(self._protocol)
        if stream is None:
            try:
                async with asyncio.timeout_at(deadline):
                    stream = await connection.open_stream(self._protocol)
            except ConnectionLost as error:
                raise _NothingSent(error) from error
            except TimeoutError:
                raise RequestTimeout(timeout) from None
        flushes = connection.flushes
        response: asyncio.Future[bytes] = connection.loop.create_future()
        exchange = _OutboundRequest(stream, self._max_response, timeout, response)
        stream.set_deadline(deadline)
        try:
            # To whom the protocol is unknown, what is not short text must not come with the lines (see MAX_LAZY_SIZE).
            lazy = (self._text and len(message) <= MAX_LAZY_SIZE) or connection.serves(self._protocol)
            if lazy and stream.write_now(message):
                exchange.sent = True
            else:
                await self._write(exchange, message, lazy=lazy)
            return await response
        except asyncio.CancelledError:
            exchange.abandon()
            if not response.cancelled() and response.done():
                response.exception()  # nobody is left to hear it
            raise
        except ConnectionLost as error:
            if connection.flushes == flushes:
                raise _NothingSent(error) from error
            raise

    @staticmethod
    async def _write(exchange: _OutboundRequest, message: bytes, *, lazy: bool) -> None:
        """Writes while reading: a request that is answered or rejected before it was sent whole ends there."""
        try:
            if not lazy:
                await exchange.stream.negotiated()
            await exchange.stream.write(message)
        except StrongholdError:
            # The response's future tells it, since every end of the stream reaches the exchange.
            return
        exchange.sent = True


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
        return self._exchange.stream.connection.info

    async def respond(self, response: Any) -> None:
        """Answers a request taken from ``requests()``; a handler returns its response instead. If the requester is gone
        by now, or the time is up, nothing happens.

        Raises:
            EncodeError: the response cannot be encoded; the request can still be answered.
            RuntimeError: the request was answered or declined before, or it is a handler's.
        """
        self._check_answerable()
        message = self._exchange.responder.frame(response)
        self._exchange.answerable = False
        self._exchange.send(message)

    async def decline(self) -> None:
        """Closes the stream without a response, as a rejection does.

        Raises:
            RuntimeError: as for :meth:`respond`.
        """
        self._check_answerable()
        self._exchange.answerable = False
        self._exchange.stream.release()

    def _check_answerable(self) -> None:
        if not self._exchange.answerable:
            raise RuntimeError("this request was answered or declined before, or is answered by its handler")


class _QueuedRequest(Request[Req]):
    """Declined when it is dropped unanswered."""

    __slots__ = ()

    def __del__(self) -> None:
        exchange = self._exchange
        if exchange.answerable:
            exchange.answerable = False
            loop = exchange.stream.connection.loop
            if not loop.is_closed():
                loop.call_soon_threadsafe(exchange.stream.release)  # the garbage collector runs in any thread


class Responder(Generic[Req, Res]):
    """Serves the requests of remotes: to a handler, or to whoever iterates over them."""

    def __init__(
        self,
        request_codec: Codec[Req],
        response_codec: Codec[Res],
        firewall: Firewall,
        config: Config,
        emit: Callable[[Event], None],
    ) -> None:
        self.max_request = request_codec.max_size
        self.config = config
        self._decode = request_codec.decode
        self._encode = response_codec.encode
        self._firewall = firewall
        self._emit = emit
        self._handler: Handler[Req, Res] | None = None
        self._queue: RequestQueue[Req, Res] | None = None

    @property
    def serving(self) -> bool:
        """Whether there is anyone to answer."""
        return self._handler is not None or self._queue is not None

    def set_handler(self, handler: Handler[Req, Res]) -> None:
        """Has ``handler`` answer. Raises RuntimeError if someone answers already."""
        self._check_free()
        self._handler = handler

    def open_queue(self, buffer: int) -> RequestQueue[Req, Res]:
        """Has whoever iterates over the queue answer; it reads ``buffer`` requests ahead. Raises RuntimeError as above."""
        self._check_free()
        self._queue = RequestQueue(buffer)
        return self._queue

    def close(self) -> None:
        """Ends the iteration."""
        if self._queue is not None:
            self._queue.close()

    def accept(self, stream: Stream) -> None:
        """A remote has opened a stream for a request. A rejected one ends here, before its body is read."""
        if not self._firewall.permits_inbound(stream.peer):
            stream.release()
        elif self._queue is None:
            _InboundRequest(stream, self, admitted=True)
        else:
            self._queue.enter(_InboundRequest(stream, self, admitted=False))

    def deliver(self, exchange: _InboundRequest[Req, Res], message: bytes) -> None:
        """A request has come whole."""
        try:
            body = self._decode(message)
        except DecodeError as error:
            self.ended(exchange)
            self.fail(exchange, error)
            return
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
                exchange.send(self.frame(answer))
        except Exception as error:  # noqa: BLE001 - see answer
            self._handler_failed(exchange, error)

    def frame(self, response: Res) -> bytes:
        """The response as it is sent. Raises EncodeError."""
        message = self._encode(response)
        return varint.encode(len(message)) + message

    def fail(self, exchange: _InboundRequest[Req, Res], error: Exception) -> None:
        """Resets the request's stream; the user learns why, the remote does not."""
        exchange.reset()
        self._emit(RequestFailed(exchange.stream.peer, error))

    def ended(self, exchange: _InboundRequest[Req, Res]) -> None:
        """A request has ended before it could be delivered."""
        if self._queue is not None:
            self._queue.leave(exchange)

    async def answer(self, exchange: _InboundRequest[Req, Res], answer: Awaitable[Res]) -> None:
        try:
            exchange.send(self.frame(await answer))
        except asyncio.CancelledError:
            exchange.reset()
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises ends its request, nothing else
            self._handler_failed(exchange, error)

    def _handler_failed(self, exchange: _InboundRequest[Req, Res], error: Exception) -> None:
        logger.error("the handler of a request by %s failed", exchange.stream.peer, exc_info=error)
        self.fail(exchange, error)

    def _check_free(self) -> None:
        if self.serving:
            raise RuntimeError("requests are answered already: by one handler, or one iterator")


class _InboundRequest(_MessageReceiver, Generic[Req, Res]):
    """A remote's request that is under way."""

    __slots__ = (
        "_admitted",
        "_answer",
        "_complete",
        "_ended",
        "_message",
        "_task",
        "_withheld",
        "answerable",
        "responder",
    )

    def __init__(self, stream: Stream, responder: Responder[Req, Res], *, admitted: bool) -> None:
        super().__init__(stream, responder.max_request)
        self.responder = responder
        self.answerable = False
        """The user holds it and has not answered."""
        self._admitted = admitted
        self._complete = False
        self._ended = False
        self._message = b""
        self._withheld = 0
        self._answer: Awaitable[Res] | None = None
        self._task: asyncio.Task[None] | None = None
        self._limit_time(responder.config.request_timeout)
        stream.set_receiver(self)

    def admit(self) -> None:
        """There is room for it: it is read to its end and delivered."""
        self._admitted = True
        if self._complete:
            self.stream.connection.budget.give(len(self._message))
            message, self._message = self._message, b""
            self.responder.deliver(self, message)
        elif self._withheld:
            self.stream.credit(self._withheld)

    def await_answer(self) -> None:
        """The user answers by :class:`Request`, if in time."""
        self._limit_time(self.responder.config.handler_timeout)
        self.answerable = True

    def run(self, answer: Awaitable[Res]) -> None:
        """An asynchronous handler answers, if in time."""
        self._limit_time(self.responder.config.handler_timeout)
        self._answer = answer
        self._task = self.stream.connection.spawn(self.responder.answer(self, answer))

    def send(self, message: bytes) -> None:
        """Sends the response and ends the stream; does nothing if that has ended."""
        if self._ended:
            return
        if self.stream.write_now(message):
            self.stream.release()
        else:
            self._limit_time(self.responder.config.request_timeout)
            self._task = self.stream.connection.spawn(self._write(message))

    def credit(self, size: int) -> None:
        if self._admitted:
            self.stream.credit(size)
        else:
            self._withheld += size  # backpressure: the rest waits at the remote

    def reset(self) -> None:
        """Ends the exchange without a response."""
        self._forget()
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
            if self._admitted:
                self.responder.deliver(self, message)
            else:
                self._message = message
                self.stream.connection.budget.take(len(message))

    def eof_received(self) -> None:
        if not self._complete:
            self.responder.ended(self)
            self.responder.fail(
                self, DecodeError(self.stream.protocol, "the stream was closed before the request's end")
            )

    def stream_failed(self, error: StrongholdError) -> None:
        self._forget()

    def expired(self) -> None:
        what = "handler" if self._complete and self._admitted else "inbound request"
        limit = self.responder.config.handler_timeout if what == "handler" else self.responder.config.request_timeout
        self.responder.fail(self, RequestTimeout(limit, what))

    # -- details ---------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._ended = True
        self.drop()
        if self._message:
            self.stream.connection.budget.give(len(self._message))
            self._message = b""
        if not (self._complete and self._admitted):
            self.responder.ended(self)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            if iscoroutine(self._answer) and getcoroutinestate(self._answer) == CORO_CREATED:
                self._answer.close()  # the requester has left before it began, and so it never will

    async def _write(self, message: bytes) -> None:
        try:
            await self.stream.write(message)
        except StrongholdError:
            return  # the requester is gone, or does not read in time
        self.stream.release()

    def _limit_time(self, seconds: float) -> None:
        self.stream.set_deadline(self.stream.connection.now() + seconds)


class RequestQueue(Generic[Req, Res]):
    """Requests for ``async for``. What is beyond the buffer waits in its stream: it gets no more window."""

    def __init__(self, buffer: int) -> None:
        if buffer < 1:
            raise ValueError(f"buffer must be at least 1, not {buffer}")
        self._room = buffer
        self._admitting = False
        self._reading: set[_InboundRequest[Req, Res]] = set()
        self._waiting: dict[_InboundRequest[Req, Res], None] = {}
        self._ready: asyncio.Queue[Request[Req] | None] = asyncio.Queue()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Request[Req]:
        request = await self._ready.get()
        if request is None:
            self._ready.put_nowait(None)  # for whoever else iterates
            raise StopAsyncIteration
        self._room += 1
        self._admit()
        return request

    def enter(self, exchange: _InboundRequest[Req, Res]) -> None:
        """A request has begun."""
        self._waiting[exchange] = None
        self._admit()

    def put(self, request: Request[Req]) -> None:
        """A request has come whole: it takes its place in the buffer."""
        self._reading.discard(request._exchange)
        self._ready.put_nowait(request)

    def leave(self, exchange: _InboundRequest[Req, Res]) -> None:
        """A request has ended before it could be delivered."""
        self._waiting.pop(exchange, None)
        if exchange in self._reading:
            self._reading.discard(exchange)
            self._room += 1
            self._admit()

    def close(self) -> None:
        """Ends the iteration, after the requests that are ready."""
        self._ready.put_nowait(None)

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
