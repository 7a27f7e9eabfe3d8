"""A message: its length as an unsigned varint, and its body."""

from __future__ import annotations

from ..encoding import varint
from ..errors import DecodeError
from ..transport.receiver import StreamReceiver, append_chunk
from ..transport.substream import MAX_JOIN_SIZE, Substream

__all__ = ["MessageReceiver", "frame", "is_short", "push"]


def frame(body: bytes) -> bytes:
    """A short message as it is sent."""
    return varint.encode(len(body)) + body


def is_short(body: bytes) -> bool:
    """Whether joining a message with its length costs less than a frame of its own."""
    return len(body) <= MAX_JOIN_SIZE


def push(stream: Substream, body: bytes) -> bool:
    """Sends a message of any length; a long one is not copied. False if a part of it waits: see :meth:`Substream.push`."""
    if is_short(body):
        return stream.push(frame(body))
    stream.push(varint.encode(len(body)))
    return stream.push(body)


class MessageReceiver(StreamReceiver):
    """Puts one message together from what comes on a stream."""

    __slots__ = ("_chunks", "_missing", "_size", "max_size", "stream")

    def __init__(self, stream: Substream, max_size: int) -> None:
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

    def expect(self, size: int) -> None:
        """``size`` bytes are to come."""
        self.stream.expect(size)

    def drop(self) -> None:
        """Forgets what has come."""
        if self._size:
            self.stream.let_go(self._size)
            self._chunks.clear()
            self._size = 0

    def _take_part(self, data: bytes) -> bytes | None:
        append_chunk(self._chunks, data)
        self._size += len(data)
        self.stream.hold(len(data))
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
            self.expect(self._missing)
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
