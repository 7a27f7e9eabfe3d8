"""Two ends of a stream in memory, with the interface of ``Stream`` and without a connection under it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import pytest

from stronghold_p2p.errors import RemoteProtocolError, StreamReset
from stronghold_p2p.identity import Keypair, PeerId

WINDOW = 64 * 1024
"""Bytes that may wait to be read; a writer waits for more room."""


class FakeStream:
    """One end. ``calls`` has what its user did, in order."""

    protocol = "/fake/1.0.0"

    def __init__(self, peer: PeerId, segment: int) -> None:
        self.peer = peer
        self.other: FakeStream
        self.calls: list[str] = []
        self.written = bytearray()
        self.read_size = 0
        self._segment = segment
        """Bytes that one read gives at most."""
        self._inbox = bytearray()
        self._ended = False
        self._was_reset = False
        self._waiters: list[asyncio.Future[None]] = []

    async def negotiated(self) -> None:
        self.calls.append("negotiated")

    async def read(self, n: int = 65_536) -> bytes:
        while not self._inbox and not self._ended:
            await self._wait()
        size = min(n, self._segment)
        data = bytes(self._inbox[:size])
        del self._inbox[:size]
        self.read_size += len(data)
        self.other._wake()
        return data

    async def readinto(self, buffer: bytearray) -> int:
        data = await self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def readexactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            chunk = await self.read(n - len(data))
            if not chunk:
                raise RemoteProtocolError(self.protocol, f"the stream ended after {len(data)} of {n} bytes")
            data += chunk
        return data

    async def write(self, data: bytes) -> None:
        assert "fin" not in self.calls
        self.calls.append("write")
        while data:
            while (room := WINDOW - len(self.other._inbox)) <= 0:
                await self._wait()
            self._check()
            self.other._inbox += data[:room]
            self.written += data[:room]
            self.other._wake()
            data = data[room:]

    async def close_write(self) -> None:
        self.calls.append("fin")
        self.other._ended = True
        self.other._wake()

    def reset(self) -> None:
        for end in (self, self.other):
            end._was_reset = True
            end._wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            self.reset()
        elif "fin" not in self.calls:
            await self.close_write()

    async def _wait(self) -> None:
        self._check()
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
        self._check()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def _check(self) -> None:
        if self._was_reset:
            raise StreamReset


@pytest.fixture(scope="session")
def keys() -> tuple[Keypair, Keypair]:
    """The dialer's and the listener's identity."""
    return Keypair.generate(), Keypair.generate()


@pytest.fixture(params=[65_536, 1], ids=["whole", "byte-by-byte"])
def segment(request: pytest.FixtureRequest) -> Any:
    """Bytes that a read gives at most."""
    return request.param


@pytest.fixture
def streams(keys: tuple[Keypair, Keypair], segment: int) -> tuple[Any, Any]:
    """The dialer's and the listener's end of one stream."""
    return pair(keys, segment)


@pytest.fixture
def open_streams(keys: tuple[Keypair, Keypair]) -> Callable[[], tuple[Any, Any]]:
    """Makes the two ends of a stream on which reads give all there is."""
    return lambda: pair(keys, 1024 * 1024)


def pair(keys: tuple[Keypair, Keypair], segment: int) -> tuple[Any, Any]:
    dialer, listener = FakeStream(keys[1].peer_id, segment), FakeStream(keys[0].peer_id, segment)
    dialer.other, listener.other = listener, dialer
    return dialer, listener
