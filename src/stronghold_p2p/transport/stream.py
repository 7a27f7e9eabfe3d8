"""The coroutine API of a stream, for users of the library and protocols off the hot path."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from ..errors import ClosedError, RemoteProtocolError, StrongholdError
from ..events import Direction
from ..identity import PeerId
from ..loops import check_loop
from .buffers import buffers_of
from .receiver import StreamReceiver, append_chunk
from .substream import Substream

__all__ = ["Stream", "hand_over", "take_over"]


class Stream:
    """One stream of a connection, for one reader and one writer at a time.

    ``async with`` closes the stream, and resets it on an exception. Data received before an error is read first.

    Raises:
        ProtocolNotSupported: from every coroutine: the remote does not speak the protocol.
        StreamReset: from every coroutine: the remote reset the stream.
        ConnectionLost: from every coroutine: the connection ended.
        ClosedError: from every coroutine: we closed or reset the stream.
        RuntimeError: from every call on another event loop, and for a second reader or writer.
    """

    __slots__ = ("_callbacks", "_substream")

    def __init__(self, substream: Substream) -> None:
        self._substream = substream
        # Its handler is sure to close it; one of ours may be dropped. And only a remote would have many end unread.
        substream.keeps_held = substream.direction is Direction.INBOUND
        self._callbacks = _Callbacks(substream)
        substream.receiver = self._callbacks

    def __repr__(self) -> str:
        return f"<Stream {self._substream}>"

    @property
    def peer(self) -> PeerId:
        """The remote peer id, authenticated by the handshake."""
        return self._substream.peer

    @property
    def protocol(self) -> str:
        """The protocol id."""
        return self._substream.protocol

    @property
    def direction(self) -> Direction:
        """Who opened the stream."""
        return self._substream.direction

    async def negotiated(self) -> None:
        """Waits until the remote has accepted the protocol."""
        check_loop(self._substream.loop)
        while not self._substream.is_negotiated:
            self._callbacks.check()
            self._substream.propose()
            await self._callbacks.agreement()

    async def read(self, n: int = 65_536) -> bytes:
        """Reads 1 to ``n`` bytes, as soon as there are any; ``b""`` at the end of the stream."""
        check_loop(self._substream.loop)
        callbacks = self._callbacks
        while not callbacks.chunks:
            if callbacks.eof:
                return b""
            callbacks.check()
            self._substream.send_lines()
            await callbacks.arrival()
        return callbacks.take(n)

    async def readinto(self, buffer: bytearray | memoryview) -> int:
        """Reads 1 to ``len(buffer)`` bytes into ``buffer``, as soon as there are any, and returns how many; 0 at the end of
        the stream. The fastest way to read much: what comes while this waits is decrypted to where it belongs.

        Do not touch ``buffer`` meanwhile. A megabyte takes all that one read of the socket brings. Only so many bytes of it
        as are returned mean anything.

        Raises TypeError if ``buffer`` is read-only.
        """
        check_loop(self._substream.loop)
        callbacks = self._callbacks
        with memoryview(buffer).cast("B") as view:  # released, since the frames of an error have it
            if view.readonly:
                raise TypeError("expected a buffer to write to, such as a bytearray, got a read-only one")
            while not callbacks.chunks:
                if callbacks.eof or not view:
                    return 0
                callbacks.check()
                self._substream.send_lines()
                if size := await callbacks.arrival(view):
                    return size
            return callbacks.take_into(view)

    async def readexactly(self, n: int) -> bytes:
        """Reads exactly ``n`` bytes.

        Raises:
            RemoteProtocolError: the stream ended before.
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
        """Sends all of ``data``, which may be reused afterwards. Waits while the remote's window or the socket is full.

        A cancelled write still sends the rest of its ``data`` in the background, unless the stream is reset, so that data
        is never truncated. The next write waits for that rest.

        Raises:
            RuntimeError: after :meth:`close_write`, or while another task writes.
        """
        check_loop(self._substream.loop)
        unchanging = data if isinstance(data, bytes) else bytes(data)
        await self._callbacks.departure()
        if not self._substream.push(unchanging):
            await self._callbacks.departure()

    async def close_write(self) -> None:
        """Closes our direction of the stream (FIN). Reading is still possible."""
        check_loop(self._substream.loop)
        if self._callbacks.attached:
            self._substream.finish()

    async def close(self) -> None:
        """Closes the stream: sends FIN and discards further input. Does not wait for the remote."""
        check_loop(self._substream.loop)
        self._close()

    def reset(self, code: int = 0) -> None:
        """Resets both directions immediately (RST). ``code`` is an error code for remotes that support them."""
        check_loop(self._substream.loop)
        self._reset(code)

    async def __aenter__(self) -> Self:
        check_loop(self._substream.loop)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None:
            self._close()
        elif not self._substream.loop.is_closed():  # else the interpreter is shutting down
            self._reset(0)

    def _reset(self, code: int) -> None:
        if self._callbacks.attached:
            self._substream.reset(code)
            self._callbacks.close(ClosedError("we have reset the stream"))

    def _close(self) -> None:
        if self._callbacks.attached:
            self._substream.release()
            self._callbacks.close(ClosedError("we have closed the stream"))


class _Callbacks(StreamReceiver):
    """Receives from the substream on behalf of :class:`Stream`, to keep these methods out of the public API."""

    __slots__ = (
        "_agreement",
        "_error",
        "_offset",
        "_reader",
        "_room",
        "_substream",
        "_target",
        "_target_size",
        "_writer",
        "attached",
        "chunks",
        "eof",
    )

    def __init__(self, substream: Substream) -> None:
        self._substream = substream
        self.chunks: deque[bytes | memoryview] | None = None
        """Unread input; None until the first bytes, to keep idle streams small. Large pieces lie in blocks."""
        self._room: memoryview | None = None
        """What is left of the last block."""
        self._target: memoryview | None = None
        """What the reader who waits wants to be filled."""
        self._target_size = 0
        """Bytes that have come there."""
        self.eof = False
        """The remote sent FIN; a lost connection does not change that."""
        self.attached = True
        """The stream still owns its substream; False after :func:`take_over`."""
        self._offset = 0
        self._error: StrongholdError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._agreement: asyncio.Future[None] | None = None
        """Wakes all who wait for the negotiation: the reader, the writer and others."""

    # -- called by the stream --------------------------------------------------------------------

    def check(self) -> None:
        """Raises the error that ended the stream, if any."""
        if self._error is not None:
            raise self._error

    def take(self, n: int) -> bytes:
        """1 to ``n`` bytes of the first chunk."""
        assert self.chunks
        data, offset = self.chunks[0], self._offset
        if len(data) - offset <= n:
            self.chunks.popleft()
            self._offset = 0
            if offset:
                data = data[offset:]
        else:
            self._offset += n
            data = data[offset : offset + n]
        if not self.chunks:
            self._room = None
        self._substream.let_go(len(data))
        self._substream.credit(len(data))
        return bytes(data)

    def take_into(self, view: memoryview) -> int:
        """As :meth:`take`, from all chunks, to ``view``; returns how many bytes."""
        size = 0
        while self.chunks and size < len(view):
            data = self.take(len(view) - size)
            view[size : size + len(data)] = data
            size += len(data)
        return size

    async def arrival(self, target: memoryview | None = None) -> int:
        """Waits for input or the end of the stream. Input goes to ``target`` first; returns the bytes that did."""
        if self._reader is not None:
            raise RuntimeError("another task reads this stream")
        self._reader = self._substream.loop.create_future()
        self._target = target
        size = 0
        try:
            await self._reader
            size, self._target_size = self._target_size, 0
        finally:
            self._reader = self._target = None
            if self._target_size and target is not None:  # who waited was cancelled: the next to read gets it
                self.chunks = deque((bytes(target[: self._target_size]), *(self.chunks or ())))
                self._target_size = 0
        if size:
            self._substream.let_go(size)
            self._substream.credit(size)
        return size

    async def departure(self) -> None:
        """Waits until all written data has left. Raises the error that ended the stream before."""
        self.check()
        while self._substream.pending:
            if self._writer is not None:
                raise RuntimeError("another task writes to this stream")
            self._writer = self._substream.loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
            self.check()

    async def agreement(self) -> None:
        """Waits until the remote has accepted the protocol, or the stream has ended."""
        if self._agreement is None:
            self._agreement = self._substream.loop.create_future()
        await asyncio.wait((self._agreement,))  # one of those who wait may be cancelled

    def close(self, error: ClosedError) -> None:
        """We ended the stream: drops unread input, unless the remote ended it first."""
        if self._error is None:
            self.chunks = self._room = None
            self.eof = False
            self._fail(error)

    def detach(self) -> bytes:
        """For :func:`take_over`: returns the unread input."""
        self.check()
        if self.eof:
            raise RemoteProtocolError(self._substream.protocol, "the stream ended before the expected bytes")
        early = bytearray()
        while self.chunks:
            early += self.take(len(self.chunks[0]))
        self.attached = False
        self.close(ClosedError("the stream was taken over"))
        return bytes(early)

    # -- as the substream's receiver -------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        target = self._target_for(len(data))
        if target is not None:
            target[: len(data)] = data
            self._target_size += len(data)
        else:
            if self.chunks is None:
                self.chunks = deque()
            append_chunk(self.chunks, data)
        self._substream.hold(len(data))
        _wake(self._reader)

    def place_for(self, size: int) -> memoryview | None:
        target = self._target_for(size)
        if target is not None:
            return target
        if self._room is None or len(self._room) < size:
            self._room = memoryview(buffers_of(self._substream.loop).take_block(size))
        return self._room[:]

    def data_placed(self, size: int) -> None:
        if self._target_for(size) is not None:
            self._target_size += size
        elif self._room is not None:
            if self.chunks is None:
                self.chunks = deque()
            self.chunks.append(self._room[:size])
            self._room = self._room[size:]
        self._substream.hold(size)
        _wake(self._reader)

    def eof_received(self) -> None:
        self.eof = True
        _wake(self._reader)

    def agreed(self) -> None:
        agreement, self._agreement = self._agreement, None
        _wake(agreement)

    def resume_writing(self) -> None:
        _wake(self._writer)

    def stream_failed(self, error: StrongholdError) -> None:
        self._fail(error)

    def expired(self) -> None:
        self._substream.reset()
        self._fail(ClosedError("the stream timed out"))

    # -- details ---------------------------------------------------------------------------------

    def _target_for(self, size: int) -> memoryview | None:
        """What is left of the target, if nothing waits before and ``size`` bytes fit."""
        if self._target is None or self.chunks or self._target_size + size > len(self._target):
            return None
        return self._target[self._target_size :]

    def _fail(self, error: StrongholdError) -> None:
        self._error = error
        _wake(self._reader)
        _wake(self._writer)
        self.agreed()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def take_over(stream: Stream) -> tuple[Substream, bytes]:
    """The substream of ``stream`` and its unread input, after a handshake with coroutines.

    The caller must set another receiver at once, and end the substream later; ``stream`` counts as closed.

    Raises:
        StreamReset, ConnectionLost, ClosedError: the stream has ended.
        RemoteProtocolError: the remote has closed its side.
    """
    return stream._substream, stream._callbacks.detach()


def hand_over(substream: Substream, early: list[bytes], eof: bool) -> Stream:
    """The stream of a substream that another receiver has read until now: ``early`` is what has come, all of it held, and by
    ``eof`` that is all."""
    stream = Stream(substream)
    if early:
        stream._callbacks.chunks = deque(early)
    stream._callbacks.eof = eof
    return stream
