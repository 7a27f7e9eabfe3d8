"""A byte pipe that leads nowhere, for tests of what lies over one."""

from __future__ import annotations

from stronghold_p2p.events import Path
from stronghold_p2p.multiaddr import Multiaddr
from stronghold_p2p.transport.pipe import PipeReceiver

__all__ = ["RecordingPipe"]


class RecordingPipe:
    """Keeps what is written."""

    receiver: PipeReceiver
    allowance = None
    remote_address = Multiaddr.parse("/ip4/127.0.0.1/tcp/1")
    local_address: Multiaddr | None = None
    path = Path("tcp")

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.aborted = False
        self.closed = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def pause_reading(self) -> None:
        self.paused = True

    def silence(self) -> float:
        return 0.0

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True
