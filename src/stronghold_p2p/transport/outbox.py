"""What was pushed to a stream and has not left."""

from __future__ import annotations

from collections import deque

__all__ = ["Outbox"]


class Outbox:
    """Pieces in order, as views: nothing is copied while it waits. Only a stream on which something waits has one."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self.size = 0
        """Bytes of all pieces."""
        self._pieces: deque[memoryview] = deque()

    def append(self, data: bytes | memoryview) -> None:
        """At least one byte, which must not change."""
        self._pieces.append(memoryview(data))
        self.size += len(data)

    @property
    def first_size(self) -> int:
        """Bytes of the first piece; there is one."""
        return len(self._pieces[0])

    def take(self, size: int) -> memoryview:
        """The first ``size`` bytes of the first piece, or all of it if it has no more."""
        data = self._pieces[0]
        if len(data) <= size:
            self._pieces.popleft()
        else:
            self._pieces[0] = data[size:]
            data = data[:size]
        self.size -= len(data)
        return data
