"""Outbound requests: each is sent once, and ends once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic

from .. import reset_codes
from ..errors import (
    ConnectionLost,
    DecodeError,
    DialError,
    EncodeError,
    NoResponse,
    NotPermitted,
    RequestTimeout,
    StreamReset,
    StrongholdError,
)
from ..events import Direction
from ..firewall.gate import Gate, permission
from ..generics import Req, Res
from ..identity import PeerId
from ..transport.connection import Connection
from ..transport.receiver import StreamReceiver
from ..transport.state import RemoteIdentify
from ..transport.substream import Substream
from .message import MessageReader, send_message
from .protocol import RequestProtocol

__all__ = ["Requester"]

OUTBOUND: Final = Direction.OUTBOUND  # a member's look-up in its class is slow before Python 3.12


class _OutboundRequest(StreamReceiver):
    """A request of ours that is under way, as the receiver of its stream. ``response`` ends once, with the body or an
    error. The stream brings one message; what follows it is dropped with the stream."""

    __slots__ = ("_reader", "_sent", "_stream", "_timeout", "response")

    def __init__(self, stream: Substream, max_response: int, timeout: float) -> None:
        self.response: asyncio.Future[bytes] = stream.loop.create_future()
        self._stream = stream
        self._reader = MessageReader(stream, max_response)
        self._timeout = timeout
        self._sent = False
        """The request was handed over whole."""
        stream.receiver = self

    def send(self, message: bytes, *, lazy: bool) -> None:
        """Sends the request while reading: one that is answered or rejected before it was sent whole ends there.
        ``lazy``: without waiting for the remote to agree to the protocol."""
        if not lazy:
            self._stream.propose()
        self._sent = send_message(self._stream, message)

    def abandon(self) -> None:
        """Ends the stream without its answer. The Rust crate, which is known by having no identify, closes its connection
        on a reset while its handler works: it gets a FIN, and its response is dropped."""
        self._reader.drop()
        if self._sent and self._stream.remote_identify is RemoteIdentify.MISSING:
            self._stream.release()
        else:
            self._stream.reset()

    # -- as the stream's receiver ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            body = self._reader.take(data)
        except DecodeError as error:
            self._fail(error)
            return
        if body is not None:
            self._close()
            if not self.response.done():
                self.response.set_result(body)

    def place_for(self, size: int) -> memoryview | None:
        return self._reader.place_for(size)

    def data_placed(self, size: int) -> None:
        if self._reader.fill(size):
            self.data_received(b"")

    def eof_received(self) -> None:
        if self._reader.kept:
            self._fail(DecodeError(self._stream.protocol, "the stream was closed in the middle of the response"))
        else:
            self._fail(NoResponse(self._stream.peer))

    def resume_writing(self) -> None:
        self._sent = True

    def stream_failed(self, error: StrongholdError) -> None:
        if isinstance(error, StreamReset) and (told := reset_codes.read(error.code)) is not None:
            error = NoResponse(self._stream.peer, told)
        self._settle(error)
        self._reader.drop()

    def expired(self) -> None:
        self._settle(RequestTimeout(self._timeout))
        self.abandon()

    # -- details ---------------------------------------------------------------------------------

    def _settle(self, error: StrongholdError) -> None:
        if not self.response.done():  # its caller may have been cancelled
            self.response.set_exception(error)

    def _fail(self, error: StrongholdError) -> None:
        self._settle(error)
        self._reader.drop()
        self._close()

    def _close(self) -> None:
        """The remote has said all that we want to know."""
        if self._sent:
            self._stream.release(answered=True)
        else:
            self._stream.reset()  # what of the request has not left is of no use to it


class _NothingSent(Exception):
    """The connection ended before a byte of the request reached its socket, or a relay lets too little pass on it: the one case
    in which it is tried again."""

    def __init__(self, reason: ConnectionLost) -> None:
        super().__init__(reason)
        self.reason = reason


class Requester(Generic[Req, Res]):
    """Sends requests, to each remote by the best protocol that it is known to serve."""

    def __init__(self, protocols: Sequence[RequestProtocol[Req, Res]], gate: Gate) -> None:
        """``protocols``, at least one: the best first; the last is for remotes of which nothing is known."""
        self._preferred = tuple(protocols[:-1])
        self._common = protocols[-1]
        self._gate = gate

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
        protocol = self._choose(connection) if self._preferred else self._common
        message = protocol.requests.encode(body)
        deadline = asyncio.get_running_loop().time() + timeout
        address = connection.remote_address if connection is not None else None
        permitted = self._gate.decide(peer, OUTBOUND, protocol.requests, body, message, address)
        if permitted is not True:
            await permission(permitted, peer, "request", deadline, timeout)
        if connection is not None:
            try:
                return await self._ask(connection, protocol, message, deadline, timeout)
            except _NothingSent:
                pass  # the connection was closing: once more, on a fresh one
        connection = await connect(deadline)
        if self._gate.rejects_all(peer, OUTBOUND):
            raise NotPermitted(peer, "the firewall rejects every outbound request")  # since we dial
        if (chosen := self._choose(connection)) is not protocol:
            protocol = chosen
            message = protocol.requests.encode(body)
        try:
            return await self._ask(connection, protocol, message, deadline, timeout)
        except _NothingSent as error:
            raise DialError(peer, reason="the connection was lost before the request left") from error.reason

    def _choose(self, connection: Connection | None) -> RequestProtocol[Req, Res]:
        if connection is not None:
            for protocol in self._preferred:
                if connection.serves(protocol.id):
                    return protocol
        return self._common

    @staticmethod
    async def _ask(
        connection: Connection, protocol: RequestProtocol[Req, Res], message: bytes, deadline: float, timeout: float
    ) -> Res:
        """One request on ``connection``."""
        refusal = connection.refusal_of_size(len(message)) if connection.path.limits is not None else None
        if refusal is not None:
            if not connection.fits_anew(len(message)):
                raise EncodeError(refusal)
            connection.drain()  # another circuit takes it
            raise _NothingSent(ConnectionLost(refusal))
        stream = connection.open_substream_now(protocol.id)
        if stream is None:
            try:
                async with asyncio.timeout_at(deadline):
                    stream = await connection.open_substream(protocol.id)
            except ConnectionLost as error:
                raise _NothingSent(error) from error
            except TimeoutError:
                raise RequestTimeout(timeout) from None
        if connection.budget.factor != 1.0:
            connection.budget.factor = 1.0  # who is asked may answer at length
        outbound = _OutboundRequest(stream, protocol.responses.max_size, timeout)
        stream.set_deadline(deadline)
        response = outbound.response
        try:
            outbound.send(message, lazy=len(message) < protocol.lazy_below or connection.serves(protocol.id))
            return protocol.responses.decode(await response)
        except asyncio.CancelledError:
            outbound.abandon()
            if not response.cancelled() and response.done():
                response.exception()  # nobody is left to hear it
            raise
        except ConnectionLost as error:
            if stream.untouched:
                raise _NothingSent(error) from error
            raise
        finally:
            del response, outbound  # its exception knows this frame
