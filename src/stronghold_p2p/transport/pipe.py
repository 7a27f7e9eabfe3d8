"""The byte pipe: all that a connection needs to know of what lies under Noise."""

from __future__ import annotations

from typing import Protocol

from ..events import Path
from ..multiaddr import Multiaddr
from .allowance import Allowance

__all__ = ["BytePipe", "NullReceiver", "PipeReceiver"]


class PipeReceiver(Protocol):
    """What a pipe calls, always from the event loop."""

    def data_received(self, data: memoryview) -> None:
        """Bytes came. ``data`` is valid during the call only: the buffer under it serves every connection."""

    def pipe_closed(self, error: Exception | None) -> None:
        """The pipe has ended, by us, the remote or ``error``; the last call of all."""

    def pause_writing(self) -> None:
        """More than ``Config.max_send_buffer`` bytes wait to be sent."""

    def resume_writing(self) -> None:
        """Most of them have been sent."""


class BytePipe(Protocol):
    """A reliable, ordered, two-way stream of bytes with no secrets kept: TCP, a WebSocket, or a stream of another
    connection."""

    receiver: PipeReceiver
    """Who is called; the upgrade first, then the connection."""
    local_address: Multiaddr | None
    """Where our end of the socket is that everything goes through; None for a stream of another connection."""

    @property
    def remote_address(self) -> Multiaddr:
        """Where the other end is, without a peer id; up to the first data perhaps the proxy in front of it."""

    @property
    def path(self) -> Path:
        """How it got there; up to the first data that of a pipe below."""

    @property
    def allowance(self) -> Allowance | None:
        """What is left of the limits of a relay; None: there are none."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends, or queues, all of ``data``, which must not be touched while the pipe has a view of it."""

    def pause_reading(self) -> None:
        """Nothing is given to the receiver any more, not even in this very call of it, until :meth:`resume_reading`. What has
        come meanwhile waits, and so does an end behind it. Calling it again changes nothing."""

    def silence(self) -> float:
        """Seconds since the last byte came from the remote. 0 while that says nothing: what has come waits, reading is
        paused, or the system has not taken all that was written and itself ends a pipe whose remote takes nothing."""

    def resume_reading(self) -> None:
        """What has come is given to the receiver again, in callbacks of their own. Calling it again changes nothing."""

    def close(self) -> None:
        """Ends the pipe after what was written has left. What has come and waits is dropped."""

    def abort(self) -> None:
        """Ends the pipe now; what has not left is lost."""


class NullReceiver:
    """Receives for a pipe that was refused, until it has ended."""

    def data_received(self, data: memoryview) -> None: ...

    def pipe_closed(self, error: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...
