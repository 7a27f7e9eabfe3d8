"""Messages on a stream: each is its length, an unsigned varint, and its body."""

from __future__ import annotations

from typing import Final

from ..encoding import varint
from ..errors import DecodeError
from ..transport.buffers import MessageBuffer
from ..transport.output import MAX_JOIN_SIZE
from ..transport.receiver import append_chunk
from ..transport.substream import Substream

__all__ = ["MessageReader", "send_message"]

MIN_BUFFER: Final = 16 * 1024
"""Bytes that are missing of a message for which memory is set apart: as many as the channel can decrypt in place."""


def send_message(stream: Substream, message: bytes) -> bool:
    """Sends one message. False if a part of it waits for the remote: the next one should wait, too.

    No task waits while the remote does not read: the stream keeps what is left, and its receiver hears by
    ``resume_writing`` when that has left. A long message is not copied.
    """
    size = len(message)
    if size <= MAX_JOIN_SIZE:
        framed = varint.encode(size) + message
        return stream.write_now(framed) or stream.push(framed)
    stream.push(varint.encode(size))
    return stream.push(message)


class MessageReader:
    """Takes messages out of what comes on a stream, one after the other.

    A message may be longer than the window: its parts are given back as they come. What comes behind a message that was
    given out is kept as it is, until :meth:`next` asks for it, and gets no window back before. So what a remote can have
    waiting here is one message and one window, and counts as received.
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_filled",
        "_given",
        "_head",
        "_max_size",
        "_offset",
        "_owed",
        "_reserved",
        "_stream",
        "_total",
        "kept",
    )

    def __init__(self, stream: Substream, max_size: int) -> None:
        """``max_size`` is that of a message's body."""
        self.kept = 0
        """Bytes that have come and were not given out."""
        self._stream = stream
        self._max_size = max_size
        self._chunks: list[bytes] = []
        self._offset = 0
        """Where in the first chunk the message under way begins."""
        self._total = -1
        """Bytes of that message with its length, -1 while that is not known."""
        self._head = 0
        """Bytes of its length."""
        self._buffer: MessageBuffer | None = None
        """Where a long message is put together that comes without a wait; else, it is in the chunks."""
        self._filled = 0
        """Bytes of it that have come."""
        self._reserved = 0
        """Bytes that are held for the rest."""
        self._given = False
        """A message was given out, and the next one was not asked for."""
        self._owed = 0
        """Bytes whose window the remote has not got back."""

    def take(self, data: bytes) -> bytes | None:
        """Takes what has come; returns the message that it completes, unless one was given out before.

        Raises:
            DecodeError: a length is malformed, or over the limit.
        """
        if not self.kept and not self._given:
            head = varint.decode(data)
            if head is not None:
                size, start = head
                if len(data) == start + size <= self._max_size:
                    # Whole, and nothing else: nearly every request and response is.
                    self._given = True
                    self._owed += len(data)
                    return data[start:]
        buffer = self._buffer
        if buffer is None:
            self._keep(data)
            return None if self._given else self._take_kept()
        came = min(len(data), self._reserved)
        buffer.view[self._filled : self._filled + came] = data[:came]
        complete = self.fill(came)
        if came < len(data):
            self._keep(data[came:])
        if not complete:
            return None
        self._buffer = None
        self._take_out()
        return buffer.finish()

    def place_for(self, size: int) -> memoryview | None:
        """Where what is missing of the message under way is to be written, before :meth:`fill` is told; None if the next
        ``size`` bytes are not known to be of it."""
        if self._buffer is None or size > self._reserved:
            return None
        return self._buffer.view[self._filled : self._filled + self._reserved]

    def fill(self, size: int) -> bool:
        """So many bytes are where they belong. Whether they complete the message, which the next :meth:`take` returns."""
        self._filled += size
        self._reserved -= size
        self.kept += size
        self._owed += size
        return not self._reserved

    def next(self) -> bytes | None:
        """The message behind the one that was given out, if it has come whole. Call it when that one is done with: the
        remote gets its window back.

        Raises:
            DecodeError: as for :meth:`take`.
        """
        self._given = False
        self._give_back(self._owed - self.kept)
        return self._take_kept() if self.kept else None

    def drop(self) -> None:
        """Forgets what was not given out."""
        self._stream.let_go(self.kept + self._reserved)
        self._chunks.clear()
        if self._buffer is not None:
            self._buffer.drop()
            self._buffer = None
        self.kept = self._reserved = 0

    def _keep(self, data: bytes) -> None:
        append_chunk(self._chunks, data)
        came = len(data)
        self.kept += came
        self._owed += came
        self._stream.hold(came)

    def _take_kept(self) -> bytes | None:
        if self._total < 0:
            self._read_length()
        if 0 <= self._total <= self.kept:
            return self._cut()
        if self._buffer is None:  # else all of it may come as it is
            self._give_back(self._owed)
        return None

    def _read_length(self) -> None:
        chunks = self._chunks
        head = varint.decode(chunks[0], self._offset)
        while head is None:
            if len(chunks) == 1:
                return
            # A length has at most nine bytes: it rarely lies in two chunks, and never in many.
            chunks[:2] = [chunks[0][self._offset :] + chunks[1]]
            self._offset = 0
            head = varint.decode(chunks[0])
        size, start = head
        if size > self._max_size:
            raise DecodeError(self._stream.protocol, f"a message of {size} bytes is over the limit of {self._max_size}")
        self._head = start - self._offset
        self._total = self._head + size
        if self.kept < self._total:
            # The rest need not wait for its window, as far as memory allows.
            missing = self._total - self.kept
            self._stream.expect(missing)
            if missing >= MIN_BUFFER:
                buffer = self._buffer = self._stream.reserve(size, missing)
                if buffer is not None:
                    self._begin(buffer, missing)

    def _cut(self) -> bytes:
        """Takes the message, which is there whole, out of what is kept; its bytes are joined once."""
        start, end = self._offset + self._head, self._offset + self._total
        pieces: list[bytes | memoryview] = []
        used_up = 0
        for chunk in self._chunks:
            if end < len(chunk):
                pieces.append(memoryview(chunk)[start:end])
                break
            pieces.append(memoryview(chunk)[start:] if start else chunk)
            used_up += 1
            end -= len(chunk)
            start = 0
        del self._chunks[:used_up]
        self._offset = end
        self._take_out()
        return b"".join(pieces)

    def _begin(self, buffer: MessageBuffer, missing: int) -> None:
        """What is there of the message goes first."""
        self._reserved = missing
        self._filled = 0
        skipped = self._offset + self._head
        for chunk in self._chunks:
            part = memoryview(chunk)[skipped:]
            buffer.view[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            skipped = max(skipped - len(chunk), 0)
        self._chunks.clear()
        self._offset = 0

    def _take_out(self) -> None:
        """The message under way is given out."""
        self._stream.let_go(self._total)
        self.kept -= self._total
        self._total = -1
        self._given = True

    def _give_back(self, size: int) -> None:
        if size:
            self._owed -= size
            self._stream.credit(size)
