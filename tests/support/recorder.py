"""The callback face of a stream, and all that it was told."""

from __future__ import annotations

from stronghold_p2p import StrongholdError
from stronghold_p2p.transport.receiver import StreamReceiver
from stronghold_p2p.transport.substream import Substream

__all__ = ["Recorder"]


class Recorder(StreamReceiver):
    """Receives for ``stream``, and gives window back at once, unless told not to."""

    def __init__(self, stream: Substream) -> None:
        self.stream = stream
        self.received = bytearray()
        self.gives_window = True
        self.eof = False
        self.error: StrongholdError | None = None
        self.has_agreed = False
        self.times_resumed = 0
        self.times_expired = 0
        stream.receiver = self

    def data_received(self, data: bytes) -> None:
        assert data
        assert not self.eof
        assert self.error is None
        self.received += data
        if self.gives_window:
            self.stream.credit(len(data))

    def data_placed(self, size: int) -> None:
        raise AssertionError

    def eof_received(self) -> None:
        assert not self.eof
        assert self.error is None
        self.eof = True

    def agreed(self) -> None:
        assert not self.has_agreed
        self.has_agreed = True

    def resume_writing(self) -> None:
        assert self.error is None
        assert not self.stream.pending
        self.times_resumed += 1

    def stream_failed(self, error: StrongholdError) -> None:
        assert self.error is None, "it was the last call"
        self.error = error

    def expired(self) -> None:
        assert self.error is None
        self.times_expired += 1

    def connection_closing(self) -> None:
        assert self.error is None
