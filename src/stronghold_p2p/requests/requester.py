"""Our requests: each is sent once, and ends once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Literal

from ..errors import ConnectionLost, DecodeError, NoResponse, NotPermitted, RequestTimeout, StrongholdError
from ..events import Direction
from ..firewall.gate import Gate
from ..generics import Req, Res
from ..identity import PeerId
from ..transport.connection import Connection
from ..transport.state import RemoteIdentify
from ..transport.substream import MAX_LAZY_SIZE, Substream
from .codec import Codec
from .message import MessageReceiver, frame, is_short, push

__all__ = ["Requester"]


class _OutboundRequest(MessageReceiver):
    """A request of ours that is under way. ``response`` ends once, with the body or an error."""

    __slots__ = ("response", "sent", "timeout")

    def __init__(
        self, stream: Substream, max_size: int, timeout: float, response: asyncio.Future[bytes], *, sent: bool
    ) -> None:
        super().__init__(stream, max_size)
        self.response = response
        self.timeout = timeout
        self.sent = sent
        """The request was handed over whole."""
        stream.set_receiver(self)

    def send(self, message: bytes, *, lazy: bool) -> None:
        """Sends the request, while the response is awaited: one that is answered or rejected before it was sent whole
        ends there. ``lazy``: without waiting for the remote to agree to the protocol."""
        if not lazy:
            self.stream.propose()
        self.sent = push(self.stream, message)

    def abandon(self) -> None:
        """Ends the stream without its answer. The Rust crate, which is known by having no identify, closes its connection
        on a reset while its handler works: it gets a FIN, and its response is dropped."""
        self.drop()
        if self.sent and self.stream.remote_identify is RemoteIdentify.MISSING:
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
            if self.sent:
                self.stream.release()
            else:
                self.stream.reset()  # what of the request has not left is of no use to a remote that has answered
            if not self.response.done():
                self.response.set_result(body)

    def eof_received(self) -> None:
        if self.begun:
            self._fail(DecodeError(self.stream.protocol, "the stream was closed in the middle of the response"))
        else:
            self._fail(NoResponse(self.stream.peer))

    def resume_writing(self) -> None:
        self.sent = True

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
        self, protocol: str, request_codec: Codec[Req], response_codec: Codec[Res], gate: Gate, *, text: bool
    ) -> None:
        self._protocol = protocol
        self._encode = request_codec.encode
        self._decode = response_codec.decode
        self._max_response = response_codec.max_size
        self._gate = gate
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
        message = self._encode(body)
        deadline = asyncio.get_running_loop().time() + timeout
        address = connection.remote_address if connection is not None else None
        permitted = self._gate.decide(peer, Direction.OUTBOUND, body, message, address)
        if permitted is not True:
            await self._wait_for_permission(peer, permitted, deadline, timeout)
        if connection is not None:
            try:
                return self._decode(await self._exchange(connection, message, deadline, timeout))
            except _NothingSent:
                pass  # the connection was closing: once more, on a fresh one
        connection = await connect(deadline)
        if self._gate.rejects_all(peer, Direction.OUTBOUND):
            raise NotPermitted(peer, "the firewall rejects every outbound request")  # since we dial
        try:
            return self._decode(await self._exchange(connection, message, deadline, timeout))
        except _NothingSent as error:
            raise error.reason from None

    @staticmethod
    async def _wait_for_permission(
        peer: PeerId, permitted: Literal[False] | Awaitable[bool], deadline: float, timeout: float
    ) -> None:
        if permitted is not False:
            try:
                async with asyncio.timeout_at(deadline):
                    if await permitted:
                        return
            except TimeoutError:
                raise RequestTimeout(timeout) from None
        raise NotPermitted(peer, "the firewall rejects this outbound request")

    async def _exchange(self, connection: Connection, message: bytes, deadline: float, timeout: float) -> bytes:
        """One request on ``connection``; returns the response's body."""
        stream = connection.open_substream_now(self._protocol)
        if stream is None:
            try:
                async with asyncio.timeout_at(deadline):
                    stream = await connection.open_substream(self._protocol)
            except ConnectionLost as error:
                raise _NothingSent(error) from error
            except TimeoutError:
                raise RequestTimeout(timeout) from None
        # To whom the protocol is unknown, what is not short text must not come with the lines (see MAX_LAZY_SIZE).
        lazy = (self._text and len(message) < MAX_LAZY_SIZE - 3) or connection.serves(self._protocol)
        sent = lazy and is_short(message) and stream.write_now(frame(message))
        response: asyncio.Future[bytes] = connection.loop.create_future()
        exchange = _OutboundRequest(stream, self._max_response, timeout, response, sent=sent)
        stream.set_deadline(deadline)
        try:
            if not sent:
                exchange.send(message, lazy=lazy)
            return await response
        except asyncio.CancelledError:
            exchange.abandon()
            if not response.cancelled() and response.done():
                response.exception()  # nobody is left to hear it
            raise
        except ConnectionLost as error:
            if stream.untouched:
                raise _NothingSent(error) from error
            raise
