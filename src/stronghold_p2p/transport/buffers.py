"""Memory that all peers of an event loop share and use again.

What is given back to the system has to be faulted in again, page by page, which takes as long as to encrypt it. Allocators
give back what is free at the end of their memory, and each block from some size on: so what passes here in bulk is read
into, encrypted to and decrypted to memory that stays.
"""

from __future__ import annotations

import asyncio
from io import BytesIO
from sys import getrefcount
from typing import Final
from weakref import WeakKeyDictionary

__all__ = ["READ_BUFFER_SIZE", "Buffers", "MessageBuffer", "buffers_of"]

READ_BUFFER_SIZE: Final = 1024 * 1024
"""Bytes of one read at most. Measured with 1 MB messages: a quarter more than with 256 KiB, and less again with 2 MiB."""

BLOCK_SIZE: Final = READ_BUFFER_SIZE
"""Bytes of a block: a flush, or a read of which the rest has to wait."""

MAX_BLOCKS: Final = 8
"""Those that are kept. In one turn of the loop few are in use: sockets take what is written, streams are read."""

MAX_LINGERING: Final = 16 * 1024 * 1024
"""Bytes of messages that were given out and are not freed yet."""

MAX_LOOKED_AT: Final = 16
"""Of these, the oldest, for each new message: others may have hundreds of them."""

IDLE_TIME: Final = 5.0
"""Seconds without use after which all of this is given back."""


class Buffers:
    """Those of one event loop."""

    def __init__(self) -> None:
        self.read: Final = memoryview(bytearray(READ_BUFFER_SIZE))
        """What a read brings, until the callback returns: as warm in the cache as it gets."""
        self._blocks: list[bytearray] = []
        self._lingering: list[bytes] = []
        self._lingering_size = 0
        self._used = False
        self._watched = False

    def take_block(self, size: int) -> bytearray:
        """At least ``size`` bytes, of which nobody has a view. They are given back by giving up all views."""
        self._use()
        if size <= BLOCK_SIZE:
            for block in self._blocks:
                if _is_free(block):
                    return block
            if len(self._blocks) < MAX_BLOCKS:
                self._blocks.append(bytearray(BLOCK_SIZE))
                return self._blocks[-1]
        return bytearray(size)

    def message(self, size: int) -> MessageBuffer:
        """Where a message of ``size`` bytes is put together.

        Messages linger after they were given out, until others take their place: each is freed just before the next of its
        kind is made, and leaves the allocator no reason to give its memory back.
        """
        self._use()
        index, wanted = 0, size
        while wanted > 0 and index < min(len(self._lingering), MAX_LOOKED_AT):
            if _references(self._lingering, index) == ALONE:
                wanted -= self._let_go(index)
            else:
                index += 1  # it frees nothing yet
        return MessageBuffer(self, size)

    def linger(self, message: bytes) -> None:
        """``message`` was given out."""
        self._lingering.append(message)
        self._lingering_size += len(message)
        while self._lingering_size > MAX_LINGERING:
            self._let_go(0)

    def _let_go(self, index: int) -> int:
        size = len(self._lingering.pop(index))
        self._lingering_size -= size
        return size

    def _use(self) -> None:
        self._used = True
        if not self._watched:
            self._watched = True
            asyncio.get_running_loop().call_later(IDLE_TIME, self._look)

    def _look(self) -> None:
        self._watched = False
        if self._used:
            self._use()
            self._used = False
        else:
            self._blocks.clear()
            self._lingering.clear()
            self._lingering_size = 0


class MessageBuffer:
    """A message of known size that comes in pieces. They are written to where it stays: it is not copied as a whole."""

    __slots__ = ("_buffers", "_file", "view")

    def __init__(self, buffers: Buffers, size: int) -> None:
        self._buffers = buffers
        self._file = BytesIO(bytes(size))
        self.view = self._file.getbuffer()
        """All of it, to be written to."""

    def finish(self) -> bytes:
        """The message; to be called once."""
        self.view.release()
        message = self._file.getvalue()  # the very bytes that were written to, unless there is a view of them
        self._buffers.linger(message)
        return message

    def drop(self) -> None:
        """The rest does not come. From Python 3.13 on the garbage collector complains to nobody of memory that has a view yet."""
        self.view.release()


def _references(messages: list[bytes], index: int) -> int:
    return getrefcount(messages[index])


ALONE: Final = _references([bytes(READ_BUFFER_SIZE)], 0)
"""References to a message that nobody has but its list."""


def _is_free(block: bytearray) -> bool:
    try:
        block.append(block.pop())  # which it refuses while anybody has a view of it
    except BufferError:
        return False
    return True


_buffers: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Buffers]] = WeakKeyDictionary()


def buffers_of(loop: asyncio.AbstractEventLoop) -> Buffers:
    """The one of all peers of an event loop."""
    buffers = _buffers.get(loop)
    if buffers is None:
        buffers = _buffers[loop] = Buffers()
    return buffers
