"""A byte pipe in memory, for tests: the same upgrade and connection as over TCP, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stronghold_p2p.events import Path
from stronghold_p2p.multiaddr import Multiaddr
from stronghold_p2p.transport.pipe import BytePipe, PipeReceiver

__all__ = ["MemoryPipe", "memory_pipes"]


class MemoryPipe:
    """One end of a pipe. What is written reaches the other end in a later turn of the loop, ``lag`` turns after the next, cut
    into ``segment`` bytes.

    ``max_send_buffer`` bytes that the other end has not read pause the writer; :attr:`reading` set to False makes this
    end a peer that stops reading.
    """

    receiver: PipeReceiver
    allowance = None

    def __init__(
        self, remote_address: Multiaddr, max_send_buffer: int, segment: int | None, path: Path, lag: int
    ) -> None:
        self.remote_address = remote_address
        self.local_address: Multiaddr | None = None
        self.path = path
        self.written = bytearray()
        """All that this end has written: what an eavesdropper sees."""
        self.dead = False
        """What this end writes from now on goes nowhere, as on a wire that was cut."""
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._max_send_buffer = max_send_buffer
        self._segment = segment
        self._lag = lag
        self._other: MemoryPipe
        self._inbox = bytearray()
        self._reading = True
        self._held = False
        """By the receiver."""
        self._paused = False
        self._closing = False
        self._closed = False
        self._scheduled = False

    @property
    def reading(self) -> bool:
        return self._reading

    @reading.setter
    def reading(self, reading: bool) -> None:
        self._reading = reading
        self._schedule()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._closed:
            return
        self.written += data
        if self.dead:
            return
        other = self._other
        other._inbox += data
        other._schedule()
        if not self._paused and len(other._inbox) > self._max_send_buffer:
            self._paused = True
            self.receiver.pause_writing()

    def pause_reading(self) -> None:
        self._held = True

    def silence(self) -> float:
        return 0.0 if self._held else self._loop.time() - self._heard_at

    def resume_reading(self) -> None:
        if self._held:
            self._held = False
            self._heard_at = self._loop.time()
            self._schedule()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._other._schedule()

    def abort(self) -> None:
        """Both ends lose the connection, as with a TCP reset."""
        self.break_with(None)
        self._other.break_with(ConnectionResetError("reset by the other end"))

    def break_with(self, error: Exception | None) -> None:
        """This end dies with ``error``, as a socket does half-way."""
        if not self._closed:
            self._closed = True
            self._inbox.clear()
            self._loop.call_soon(lambda: self.receiver.pipe_closed(error))  # it may not be known yet

    def _schedule(self) -> None:
        if not self._scheduled and self._reading and not self._held:
            self._scheduled = True
            self._loop.call_soon(self._deliver, self._lag)

    def _deliver(self, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._deliver, turns - 1)
            return
        self._scheduled = False
        if self._closed or not self._reading or self._held:
            return
        if self._inbox:
            data = bytes(self._inbox[: self._segment])
            del self._inbox[: self._segment]
            self._heard_at = self._loop.time()
            self.receiver.data_received(memoryview(data))
            if self._inbox or self._other._closing:
                self._schedule()
            writer = self._other
            if writer._paused and not self._inbox:
                writer._paused = False
                writer.receiver.resume_writing()
        elif self._other._closing:
            self.break_with(None)
            self._other.break_with(None)


def memory_pipes(
    dialer: Callable[[BytePipe], PipeReceiver],
    listener: Callable[[BytePipe], PipeReceiver],
    *,
    max_send_buffer: int = 256 * 1024,
    segment: int | None = None,
    paths: tuple[Path, Path] | None = None,
    lag: int = 0,
) -> tuple[MemoryPipe, MemoryPipe]:
    """The two ends of a pipe, each connected to the receiver that its callable gives."""
    listening, dialing = (Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}") for port in (4001, 4002))
    dialed, accepted = paths or (Path("memory", listening), Path("memory"))
    ends = (
        MemoryPipe(listening, max_send_buffer, segment, dialed, lag),
        MemoryPipe(dialing, max_send_buffer, segment, accepted, lag),
    )
    ends[0]._other, ends[1]._other = ends[1], ends[0]
    ends[0].receiver, ends[1].receiver = dialer(ends[0]), listener(ends[1])
    return ends[0], ends[1]
