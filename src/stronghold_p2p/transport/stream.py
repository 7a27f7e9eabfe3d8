"""A stream: negotiated on first use, with backpressure both ways."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import MutableSequence
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from ..errors import (
    ClosedError,
    LimitExceeded,
    NegotiationError,
    ProtocolNotSupported,
    RemoteProtocolError,
    StreamReset,
    StrongholdError,
)
from ..events import Direction
from ..identity import PeerId
from ..wire import multistream, yamux

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["MAX_JOIN_SIZE", "MAX_LAZY_SIZE", "Stream", "StreamReceiver", "append_chunk"]

MAX_LAZY_SIZE: Final = 16_383
"""Bytes that may follow the protocol lines before they are echoed. The Rust crate takes what follows a line that it
does not know for the next line, and closes the connection if that is longer."""

MAX_FRAME_BODY: Final = 256 * 1024
"""Bytes of a Data frame; rust-yamux takes 1 MiB at most. Smaller ones let other streams in between."""

MAX_JOIN_SIZE: Final = 16 * 1024
"""Bytes up to which joining data with what goes before it costs less than a frame of its own."""

MAX_SMALL_CHUNK: Final = 4096
"""Bytes up to which pieces that wait to be read are joined."""


class StreamReceiver(Protocol):
    """Takes what comes on a stream in the very callback in which it came; for protocols on the hot path."""

    def data_received(self, data: bytes) -> None:
        """At least one byte."""

    def eof_received(self) -> None:
        """The remote sends no more."""

    def stream_failed(self, error: StrongholdError) -> None:
        """The stream has ended: reset, not supported, connection lost. The last call."""

    def expired(self) -> None:
        """The stream's deadline has passed."""


class Stream:
    """One stream of a connection, as its user sees it.

    Bytes are read and written by coroutines, one reader and one writer at a time, or taken by a :class:`StreamReceiver`.
    ``async with`` closes the stream, and resets it on an exception.

    Every coroutine raises :class:`ProtocolNotSupported` if the remote does not speak the protocol, :class:`StreamReset`
    if the remote reset the stream, :class:`ConnectionLost` if its connection ended, and :class:`ClosedError` if we ended
    it. What came before is read first.
    """

    __slots__ = (
        "_agreement",
        "_buffer",
        "_buffer_offset",
        "_deadline",
        "_deadline_tick",
        "_eof",
        "_error",
        "_lines_to_send",
        "_machine",
        "_muxed",
        "_negotiated",
        "_read_waiter",
        "_receiver",
        "_released",
        "_withheld",
        "_write_waiter",
        "connection",
        "protocol",
    )

    def __init__(self, connection: Connection, muxed: yamux.Stream, protocol: str) -> None:
        self.connection = connection
        self.protocol = protocol
        """The protocol id; empty until the dialer of an inbound stream has proposed one that we serve."""
        self._muxed = muxed
        self._negotiated = False
        self._lines_to_send = encode_lines(protocol) if protocol else b""
        self._machine: multistream.Dialer | multistream.Listener | None = None
        self._receiver: StreamReceiver | None = None
        self._error: StrongholdError | None = None
        self._eof = False
        """The remote has sent all, which no end of the connection takes back."""
        self._released = False
        self._buffer: deque[bytes] | None = None
        self._buffer_offset = 0
        self._withheld = 0
        self._agreement: asyncio.Future[None] | None = None
        """Who waits for the remote to agree to the protocol, or for the stream to end."""
        self._read_waiter: asyncio.Future[None] | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._deadline_tick = 0

    def __repr__(self) -> str:
        return f"<Stream {self._muxed.id} {self.protocol or 'in negotiation'} with {self.peer}>"

    # -- for users -------------------------------------------------------------------------------

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, proved by the handshake."""
        return self.connection.peer

    @property
    def direction(self) -> Direction:
        """Who opened the stream."""
        return Direction.OUTBOUND if self._muxed.outbound else Direction.INBOUND

    async def negotiated(self) -> None:
        """Returns as soon as the remote has agreed to the protocol."""
        self.send_lines()
        while not self._negotiated:
            self._check()
            if self._agreement is None:
                self._agreement = self.connection.loop.create_future()
            await asyncio.wait((self._agreement,))  # reader and writer may both wait, and either be cancelled

    async def read(self, n: int = 65_536) -> bytes:
        """1 to ``n`` bytes, as soon as there are any; ``b""`` when the remote has sent all."""
        while not self._buffer:
            if self._eof:
                return b""
            self._check()
            self.send_lines()
            await self._wait_to_read()
        data, offset = self._buffer[0], self._buffer_offset
        if len(data) - offset <= n:
            self._buffer.popleft()
            self._buffer_offset = 0
            if offset:
                data = data[offset:]
        else:
            self._buffer_offset += n
            data = data[offset : offset + n]
        if self._muxed.owner is not None:
            self.connection.budget.give(len(data))
            self.credit(len(data))
        return data

    async def readexactly(self, n: int) -> bytes:
        """``n`` bytes.

        Raises:
            RemoteProtocolError: the remote ended the stream before.
        """
        chunks: list[bytes] = []
        left = n
        while left:
            chunk = await self.read(left)
            if not chunk:
                raise RemoteProtocolError(self.protocol, f"the stream ended after {n - left} of {n} bytes")
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all of ``data``, which may be reused afterwards; waits while the remote's window or the socket is full."""
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        if not self._negotiated and len(view) > MAX_LAZY_SIZE and not self.connection.serves(self.protocol):
            await self.negotiated()
        if self._lines_to_send and len(view) > MAX_JOIN_SIZE:
            self.send_lines()
        while view:
            self._check()
            if not self._muxed.local_open:
                raise RuntimeError("write after close_write")
            room = min(self._muxed.send_window - len(self._lines_to_send), MAX_FRAME_BODY)
            if self.connection.congested or room <= 0:
                await self._wait_to_write()
                continue
            self._send(view[:room])
            view = view[room:]

    async def close_write(self) -> None:
        """Tells the remote that we send no more (FIN). What it still sends can be read."""
        if self._error is None:
            self.send_lines()
            self.connection.send_fin(self._muxed)
            self._detach_if_ended()

    async def close(self) -> None:
        """Ends our part: we send no more, and what still comes is dropped. Does not wait for the remote."""
        self.release()

    def reset(self, code: int = 0) -> None:
        """Ends the stream at once, both ways (RST). ``code`` tells a remote that knows error codes why."""
        if self._error is None:
            self._receiver = None
            if not self._muxed.outbound:
                self.send_lines()  # else the dialer would take it for a protocol that is not served
            self.connection.reset(self._muxed, code)
            self._end(ClosedError("we have reset the stream"))
            self._buffer = None
            self._eof = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None:
            self.release()
        else:
            self.reset()

    # -- for protocols on the hot path -----------------------------------------------------------

    @property
    def is_negotiated(self) -> bool:
        return self._negotiated

    @property
    def remote_open(self) -> bool:
        """Whether the remote may still send."""
        return self._muxed.remote_open

    @property
    def ended(self) -> bool:
        """Whether neither side may send any more."""
        return not (self._muxed.local_open or self._muxed.remote_open)

    def set_receiver(self, receiver: StreamReceiver) -> None:
        """From now on what comes goes to ``receiver``, not to :meth:`read`. Call it before anything can come."""
        self._receiver = receiver

    def write_now(self, data: bytes) -> bool:
        """Sends all of ``data`` if that takes no waiting; else, sends nothing and returns False."""
        if self.connection.congested or len(data) + len(self._lines_to_send) > self._muxed.send_window:
            return False
        self._send(data)
        return True

    def send_lines(self) -> None:
        """Sends the protocol lines if they have not left yet: they ride on the first data, else they go alone."""
        if self._lines_to_send and self._error is None:
            self._send(b"")

    def release(self) -> None:
        """Sends FIN and drops what still comes. No window is given back, and what does not end in time is reset."""
        if self._error is not None or self._released:
            return
        self._released = True
        self._receiver = None
        if self._buffer:
            self._return_budget()
        self._buffer = None
        self._eof = False
        if self._lines_to_send:
            self.send_lines()
        connection = self.connection
        connection.send_fin(self._muxed)
        if self._muxed.remote_open:
            # A request's own deadline serves as well, as long as it is no later: that saves setting another one.
            latest = connection.now() + connection.config.request_timeout
            if not self._deadline_tick or self._deadline > latest:
                self.set_deadline(latest)
        else:
            self._detach()
        self._wake()

    def credit(self, size: int) -> None:
        """Lets the remote send ``size`` bytes more, or, while the budget is exhausted, as soon as it no longer is."""
        budget = self.connection.budget
        if not budget.exhausted:
            self.connection.credit(self._muxed, size)
            return
        if not self._withheld:
            budget.when_available(self._credit_withheld)
        self._withheld += size

    def expect(self, size: int) -> None:
        """``size`` bytes are to come: unless memory is short, the remote need not wait for window before they have."""
        self.connection.expect(self._muxed, size)

    def set_deadline(self, when: float) -> None:
        """Has the receiver told, or a stream without one reset, at ``when`` (the loop's time). Replaces the one before."""
        if not self._deadline_tick:
            self._deadline_tick = self.connection.deadlines.add(when, self)
        elif when < self._deadline:
            self.clear_deadline()
            self._deadline_tick = self.connection.deadlines.add(when, self)
        # Else the one before strikes first, and is put off then: few strike, and most are put off at each step.
        self._deadline = when

    def clear_deadline(self) -> None:
        if self._deadline_tick:
            self.connection.deadlines.remove(self._deadline_tick, self)
            self._deadline_tick = 0

    # -- called by the connection ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self._negotiated:
            data = self._negotiate(data)
            if not data:
                return
        if self.connection.budget.overrun and self._error is None:
            self.connection.reset(self._muxed, 0)
            self._end(LimitExceeded("max_receive_buffer"))
        elif self._receiver is not None:
            self._receiver.data_received(data)
        elif not self._released and self._error is None:
            if self._buffer is None:
                self._buffer = deque()
            append_chunk(self._buffer, data)
            self.connection.budget.take(len(data))
            self._wake_reader()

    def eof_received(self) -> None:
        if not self._negotiated and self._error is None:
            # After "na", go, js and rust reset; the Rust crate closes before it: either way it does not serve us.
            self.connection.reset(self._muxed, 0)
            self._end(ProtocolNotSupported(self.protocol))
            return
        if not self._muxed.local_open:
            self._detach()
        self._eof = not self._released and self._error is None
        if self._receiver is not None:
            self._receiver.eof_received()
        elif self._read_waiter is not None:
            self._wake_reader()

    def reset_received(self, code: int) -> None:
        self._end(StreamReset(code) if self._negotiated else ProtocolNotSupported(self.protocol))

    def connection_lost(self, error: StrongholdError) -> None:
        self._end(error)

    def wake_writer(self) -> None:
        if self._write_waiter is not None and not self._write_waiter.done():
            self._write_waiter.set_result(None)

    # -- called by the deadlines -----------------------------------------------------------------

    def expire(self) -> None:
        self._deadline_tick = 0
        if self._deadline > self.connection.now():
            self.set_deadline(self._deadline)
        elif self._receiver is not None:
            self._receiver.expired()
        else:
            self.reset()

    # -- negotiation -----------------------------------------------------------------------------

    def _negotiate(self, data: bytes) -> bytes:
        """Takes the lines; returns what follows them. Known lines that came whole are compared, not parsed."""
        if self._machine is None:
            if self._muxed.outbound:
                lines = encode_lines(self.protocol)
                if data.startswith(lines):
                    self._agree()
                    return data[len(lines) :]
            elif data.startswith(multistream.HEADER):
                start = len(multistream.HEADER) + 1
                end = start + data[start - 1] if len(data) >= start else start
                if start < end <= len(data) and data[start - 1] < 0x80 and data.endswith(b"\n", start, end):
                    protocol = data[start : end - 1].decode("utf-8", "replace")
                    if self.connection.accepts(protocol):
                        self._accept(protocol, encode_lines(protocol))
                        return data[end:]
        try:
            return self._negotiate_slowly(data)
        except (NegotiationError, ProtocolNotSupported) as error:
            self._flush_machine()
            self.connection.reset(self._muxed, 0)
            self._end(error)
            return b""

    def _negotiate_slowly(self, data: bytes) -> bytes:
        if self._machine is None:
            if self._muxed.outbound:
                self._machine = multistream.Dialer(self.protocol)
                self._machine.data_to_send()  # has left with the first data
            else:
                offered = _OfferedProtocols(self.connection)
                self._machine = multistream.Listener(offered, self.connection.config.max_negotiation_rounds)
        rest = self._machine.receive_data(data)
        self._flush_machine()
        if self._machine is not None and self._machine.protocol is not None:
            protocol = self._machine.protocol
            self._machine = None
            if self._muxed.outbound:
                self._agree()
            else:
                self._accept(protocol, b"")
        return rest

    def _flush_machine(self) -> None:
        if self._machine is not None:
            for line in self._machine.data_to_send():
                self.connection.send_data(self._muxed, line)

    def _agree(self) -> None:
        self._negotiated = True
        self.connection.protocol_served(self.protocol)
        if self._agreement is not None:
            self._wake_negotiators()

    def _accept(self, protocol: str, lines: bytes) -> None:
        self._negotiated = True
        self.protocol = protocol
        if self._deadline_tick:
            self.clear_deadline()  # of the negotiation
        self._lines_to_send = lines
        self.connection.accept(self)

    # -- details ---------------------------------------------------------------------------------

    def _send(self, data: bytes | memoryview) -> None:
        if self._lines_to_send:
            data = b"".join((self._lines_to_send, data))
            self._lines_to_send = b""
        self.connection.send_data(self._muxed, data)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._released:
            raise ClosedError("we have closed the stream")

    def _end(self, error: StrongholdError) -> None:
        if self._error is not None:
            return
        self._error = error
        self._detach()
        receiver = self._receiver
        self._receiver = None
        if receiver is not None:
            receiver.stream_failed(error)
        self._wake()

    def _wake(self) -> None:
        if self._read_waiter is not None:
            self._wake_reader()
        if self._write_waiter is not None:
            self.wake_writer()
        if self._agreement is not None:
            self._wake_negotiators()

    def _wake_negotiators(self) -> None:
        assert self._agreement is not None
        self._agreement.set_result(None)
        self._agreement = None

    def _wake_reader(self) -> None:
        if self._read_waiter is not None and not self._read_waiter.done():
            self._read_waiter.set_result(None)

    async def _wait_to_read(self) -> None:
        if self._read_waiter is not None:
            raise RuntimeError("another task reads this stream")
        self._read_waiter = asyncio.get_running_loop().create_future()
        try:
            await self._read_waiter
        finally:
            self._read_waiter = None

    async def _wait_to_write(self) -> None:
        if self._write_waiter is not None:
            raise RuntimeError("another task writes to this stream")
        self._write_waiter = asyncio.get_running_loop().create_future()
        if self.connection.congested:
            self.connection.wait_for_drain(self)
        try:
            await self._write_waiter
        finally:
            self._write_waiter = None

    def _credit_withheld(self) -> None:
        size, self._withheld = self._withheld, 0
        if self._error is None and not self._released:
            self.credit(size)

    def _detach_if_ended(self) -> None:
        if not self._muxed.local_open and not self._muxed.remote_open:
            self._detach()

    def _detach(self) -> None:
        """The stream has ended both ways. Without the cycle of references it is freed at once, not by the collector."""
        if self._buffer:
            self._return_budget()
        self._muxed.owner = None
        if self._deadline_tick:
            self.clear_deadline()

    def _return_budget(self) -> None:
        """What has come can still be read, but counts no longer: nobody may ever read it."""
        if self._buffer and self._muxed.owner is not None:
            self.connection.budget.give(sum(map(len, self._buffer)) - self._buffer_offset)


def append_chunk(chunks: MutableSequence[bytes], data: bytes) -> None:
    """Keeps what has come. Small pieces are joined: two bytes in an object of their own would take 35."""
    if chunks and len(chunks[-1]) + len(data) <= MAX_SMALL_CHUNK:
        chunks[-1] += data
    else:
        chunks.append(data)


class _OfferedProtocols:
    """What the remote of a connection may open, as a container."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __contains__(self, protocol: object) -> bool:
        assert isinstance(protocol, str)
        accepted = self._connection.accepts(protocol)
        if not accepted:
            self._connection.refused(protocol)
        return accepted


@lru_cache(maxsize=256)
def encode_lines(protocol: str) -> bytes:
    """The two lines with which a dialer opens a stream, and which the listener echoes."""
    return multistream.HEADER + multistream.encode_line(protocol)
