"""A byte pipe that is one thing or the other: which, its first byte tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from ..events import Path
from ..multiaddr import Multiaddr
from .pipe import BytePipe, PipeReceiver
from .tls_pipe import RECORD_TYPES
from .transport import Connected

__all__ = ["EitherPipe", "Serve"]

Serve: TypeAlias = Callable[[BytePipe, Connected], PipeReceiver]
"""Makes a pipe over another one; gives it to Connected, and returns what receives for the one below."""


class EitherPipe:
    """A pipe over ``lower`` that ``serve`` makes: the one for TLS (True), or the one for what is none (False). Until the
    first byte has come, it is ``lower`` itself that is written to and closed."""

    allowance = None

    def __init__(self, lower: BytePipe, serve: Mapping[bool, Serve], connected: Connected) -> None:
        self.local_address = lower.local_address
        self._pipe = self._lower = lower
        self._serve = serve
        self._connected = connected
        self._receiver = connected(self)

    @property
    def remote_address(self) -> Multiaddr:
        return self._pipe.remote_address

    @property
    def path(self) -> Path:
        return self._pipe.path

    @property
    def receiver(self) -> PipeReceiver:
        return self._receiver

    @receiver.setter
    def receiver(self, receiver: PipeReceiver) -> None:
        self._receiver = receiver
        if self._pipe is not self._lower:
            self._pipe.receiver = receiver

    # -- as a pipe -------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._pipe.write(data)

    def pause_reading(self) -> None:
        self._pipe.pause_reading()

    def silence(self) -> float:
        return self._pipe.silence()

    def resume_reading(self) -> None:
        self._pipe.resume_reading()

    def close(self) -> None:
        self._pipe.close()

    def abort(self) -> None:
        self._pipe.abort()

    # -- as the lower pipe's receiver, up to the first byte ----------------------------------------

    def data_received(self, data: memoryview) -> None:
        self._lower.receiver = self._serve[data[0] in RECORD_TYPES](self._lower, self._made)
        self._lower.receiver.data_received(data)

    def pipe_closed(self, error: Exception | None) -> None:
        self._receiver.pipe_closed(error)

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()

    def _made(self, pipe: BytePipe) -> PipeReceiver:
        if pipe is self._pipe:
            self._receiver = self._connected(self)  # its address has become known
        self._pipe = pipe
        return self._receiver
