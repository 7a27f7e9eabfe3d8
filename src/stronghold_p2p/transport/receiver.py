"""Who takes what comes on a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import MutableSequence
from typing import Final

from ..compiling import mypyc_attr
from ..errors import StrongholdError

__all__ = ["StreamReceiver", "append_chunk"]

MAX_SMALL_CHUNK: Final = 4096
"""Bytes up to which pieces that are kept are joined."""


@mypyc_attr(allow_interpreted_subclasses=True)
class StreamReceiver(ABC):
    """Takes what comes on a stream in the very callback in which it came. A class and no protocol: compiled, each call goes
    by its table."""

    __slots__ = ()

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """At least one byte."""

    def place_for(self, size: int) -> memoryview | None:
        """Where the next ``size`` bytes, a large piece of what is to come, are to be written, and more behind them if there is
        room: :meth:`data_placed` follows at once, unless the connection fails. None: they are to be given to
        :meth:`data_received`, as nearly all are."""
        return None

    def data_placed(self, size: int) -> None:
        """So many bytes were written to the :meth:`place_for` them."""
        return

    @abstractmethod
    def eof_received(self) -> None:
        """The remote sends no more."""

    def agreed(self) -> None:
        """The remote has agreed to the protocol, for which :meth:`Substream.propose` waits."""
        return

    def resume_writing(self) -> None:
        """All that was pushed has left. Called after :meth:`Substream.push` has returned False."""
        return

    @abstractmethod
    def stream_failed(self, error: StrongholdError) -> None:
        """The stream has ended: reset, not supported, connection lost. The last call; what was pushed and has not left
        is lost."""

    @abstractmethod
    def expired(self) -> None:
        """The deadline that was set has passed."""

    def connection_closing(self) -> None:
        """We are about to close the connection in order: the last moment to say something."""
        return


def append_chunk(chunks: MutableSequence[bytes] | MutableSequence[bytes | memoryview], data: bytes) -> None:
    """Keeps what has come. Small pieces are joined: two bytes in an object of their own would take 35."""
    last = chunks[-1] if chunks else None
    if isinstance(last, bytes) and len(last) + len(data) <= MAX_SMALL_CHUNK:
        chunks[-1] = last + data
    else:
        chunks.append(data)
