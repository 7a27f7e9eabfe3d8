"""The coroutine face of a stream: what users of the library, and protocols off the hot path, read and write."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from ..errors import ClosedError, RemoteProtocolError, StrongholdError
from ..events import Direction
from ..identity import PeerId
from ..loops import check_loop
from .substream import StreamReceiver, Substream, append_chunk

__all__ = ["Stream"]


class Stream:
    """One stream of a connection, as its user sees it.

    Bytes are read and written by coroutines, one reader and one writer at a time. ``async with`` closes the stream, and
    resets it on an exception.

    Every coroutine raises :class:`ProtocolNotSupported` if the remote does not speak the protocol, :class:`StreamReset`
    if the remote reset the stream, :class:`ConnectionLost` if its connection ended, and :class:`ClosedError` if we ended
    it. What came before is read first. Used elsewhere than on the peer's event loop, it raises RuntimeError.
    """

    __slots__ = ("_inbox", "_substream")

    def __init__(self, substream: Substream) -> None:
        self._substream = substream
        self._inbox = _Inbox(substream)
        substream.set_receiver(self._inbox)

    def __repr__(self) -> str:
        return f"<Stream {self._substream}>"

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, proved by the handshake."""
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
        """Returns as soon as the remote has agreed to the protocol."""
        check_loop(self._substream.loop)
        await self._substream.negotiated()

    async def read(self, n: int = 65_536) -> bytes:
        """1 to ``n`` bytes, as soon as there are any; ``b""`` when the remote has sent all."""
        check_loop(self._substream.loop)
        inbox = self._inbox
        while not inbox.chunks:
            if inbox.eof:
                return b""
            inbox.check()
            self._substream.send_lines()
            await inbox.wait()
        return inbox.take(n)

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
        check_loop(self._substream.loop)
        await self._substream.write(data)

    async def close_write(self) -> None:
        """Tells the remote that we send no more (FIN). What it still sends can be read."""
        check_loop(self._substream.loop)
        self._substream.finish()

    async def close(self) -> None:
        """Ends our part: we send no more, and what still comes is dropped. Does not wait for the remote."""
        check_loop(self._substream.loop)
        self._close()

    def reset(self, code: int = 0) -> None:
        """Ends the stream at once, both ways (RST). ``code`` tells a remote that knows error codes why."""
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
        elif not self._substream.loop.is_closed():  # else Python clears away what is left of it
            self._reset(0)

    def _reset(self, code: int) -> None:
        self._substream.reset(code)
        self._inbox.close(ClosedError("we have reset the stream"))

    def _close(self) -> None:
        self._substream.release()
        self._inbox.close(ClosedError("we have closed the stream"))


class _Inbox(StreamReceiver):
    """What has come on a stream and was not read, and who waits for it: apart from the stream, whose user is shown none
    of this."""

    __slots__ = ("_error", "_offset", "_substream", "_waiter", "chunks", "eof")

    def __init__(self, substream: Substream) -> None:
        self._substream = substream
        self.chunks: deque[bytes] | None = None
        """None until something comes: an idle stream has no use for it."""
        self.eof = False
        """The remote has sent all, which no end of the connection takes back."""
        self._offset = 0
        self._error: StrongholdError | None = None
        self._waiter: asyncio.Future[None] | None = None

    # -- called by the stream --------------------------------------------------------------------

    def check(self) -> None:
        """Raises what has ended the stream."""
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
        self._substream.let_go(len(data))
        self._substream.credit(len(data))
        return data

    async def wait(self) -> None:
        """Until something has come, or nothing will."""
        if self._waiter is not None:
            raise RuntimeError("another task reads this stream")
        self._waiter = self._substream.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def close(self, error: ClosedError) -> None:
        """We have ended the stream: what came is dropped, unless the remote had ended it first."""
        if self._error is None:
            self.chunks = None
            self.eof = False
            self._fail(error)

    # -- as the stream's receiver ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.chunks is None:
            self.chunks = deque()
        append_chunk(self.chunks, data)
        self._substream.hold(len(data))
        self._wake()

    def eof_received(self) -> None:
        self.eof = True
        self._wake()

    def stream_failed(self, error: StrongholdError) -> None:
        self._fail(error)

    def expired(self) -> None:
        self._substream.reset()
        self._fail(ClosedError("the stream's time was up"))

    # -- details ---------------------------------------------------------------------------------

    def _fail(self, error: StrongholdError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
