"""The callback face of a stream, and all that it was told."""

from __future__ import annotations

from stronghold_p2p import StrongholdError
from stronghold_p2p.transport.substream import Substream

__all__ = ["Recorder"]


class Recorder:
    """Receives for ``stream``, and gives window back at once."""

    def __init__(self, stream: Substream) -> None:
        self.stream = stream
        self.received = bytearray()
        self.eof = False
        self.error: StrongholdError | None = None
        self.times_expired = 0
        stream.set_receiver(self)

    def data_received(self, data: bytes) -> None:
        assert data
        assert not self.eof
        assert self.error is None
        self.received += data
        self.stream.credit(len(data))

    def eof_received(self) -> None:
        assert not self.eof
        assert self.error is None
        self.eof = True

    def stream_failed(self, error: StrongholdError) -> None:
        assert self.error is None, "it was the last call"
        self.error = error

    def expired(self) -> None:
        assert self.error is None
        self.times_expired += 1
