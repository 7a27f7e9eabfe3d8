"""The server of ping (libp2p/specs ping/ping.md), in the callbacks of its stream."""

from __future__ import annotations

from ..errors import StrongholdError
from ..transport.receiver import StreamReceiver
from ..transport.substream import Substream

__all__ = ["Echo"]


class Echo(StreamReceiver):
    """Echoes payloads of ``size`` bytes until the remote closes the stream, or sends or reads nothing for ``idle_timeout``
    seconds. A remote may ping as often as it likes, so each takes no task."""

    __slots__ = ("_idle_timeout", "_part", "_size", "_stream", "_unsent")

    def __init__(self, stream: Substream, size: int, idle_timeout: float) -> None:
        self._stream = stream
        self._size = size
        self._idle_timeout = idle_timeout
        self._part = b""
        """Of a payload that has not come whole."""
        self._unsent = 0
        """Bytes that wait until the remote reads: so long it may send no more than its window."""
        stream.receiver = self
        self._put_off()

    def data_received(self, data: bytes) -> None:
        payloads = self._part + data
        end = len(payloads) - len(payloads) % self._size
        self._part = payloads[end:]
        if end:
            if self._stream.push(payloads[:end]):
                self._echoed(end)
            else:
                self._unsent += end

    def resume_writing(self) -> None:
        unsent, self._unsent = self._unsent, 0
        self._echoed(unsent)

    def eof_received(self) -> None:
        if self._part:
            self._stream.reset()  # in the middle of a ping
        else:
            self._stream.release()

    def stream_failed(self, error: StrongholdError) -> None:
        return  # there is nothing to end

    def expired(self) -> None:
        self._stream.release()

    def _echoed(self, size: int) -> None:
        self._stream.credit(size)
        self._put_off()

    def _put_off(self) -> None:
        self._stream.set_deadline(self._stream.now() + self._idle_timeout)
