"""A receiver that passes on what comes on a stream, in large pieces if much comes at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

from .buffers import buffers_of
from .receiver import StreamReceiver
from .substream import Substream

__all__ = ["Gatherer"]

NOTHING: Final = memoryview(b"")


class Gatherer(StreamReceiver):
    """Gives all that one read of the socket brings to :meth:`take` together, from the first large piece on: each piece of a
    megabyte would cost the next a frame, or a copy of the message that it cuts, and messages of its own."""

    __slots__ = ("_block", "_gathered", "stream")

    stream: Substream

    def __init__(self) -> None:
        self._block = NOTHING
        self._gathered = 0
        """Bytes that lie there."""

    @abstractmethod
    def take(self, data: bytes | memoryview) -> None:
        """At least one byte. Memory under ``data`` is used again when its last view is given up."""

    def give_gathered(self) -> None:
        """Call it before an end is passed on."""
        block, size = self._block, self._gathered
        self._block, self._gathered = NOTHING, 0
        if size:
            self.take(block[:size])

    # -- as the stream's receiver ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        size = len(data)
        if self._gathered:
            self.place_for(size)[:size] = data
            self.data_placed(size)
        else:
            self.take(data)

    def place_for(self, size: int) -> memoryview:
        if size > len(self._block) - self._gathered:
            self.give_gathered()
            self._block = memoryview(buffers_of(self.stream.loop).take_block(size))
            self.stream.after_read(self.give_gathered)
        return self._block[self._gathered :]

    def data_placed(self, size: int) -> None:
        self._gathered += size
