"""What goes wrong with the bytes of a connection, at one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final, NamedTuple, Protocol

__all__ = ["End", "Fault", "Kind", "Way"]

DELAY: Final = 2.0
"""Seconds: fewer than every limit of time."""

PACE: Final = 0.002
"""Seconds between two bytes of what is throttled: a handshake and a request are there before every limit of time."""


class Kind(Enum):
    """What happens when the byte comes."""

    CUT = "cut"
    """Both ends are told that the connection is lost."""
    HALF_CLOSE = "half-close"
    """This byte never arrives, and nothing after it: as if its sender had said that no more comes. The other direction stays."""
    CORRUPT = "corrupt"
    """It arrives as another one."""
    STALL = "stall"
    """This byte never arrives, and nothing after it. Nobody is told."""
    DELAY = "delay"
    """It comes later, and all that follows."""
    THROTTLE = "throttle"
    """From here on, the bytes come one by one."""


class Fault(NamedTuple):
    """One of them, of one connection."""

    kind: Kind
    to_listener: bool
    """In the direction to who was dialed."""
    offset: int
    """Number of the byte in that direction, from 0."""
    bits: int = 0xFF
    """Those that are changed, of a byte that is corrupted."""

    def __str__(self) -> str:
        return f"{self.kind.value} at byte {self.offset} to the {'listener' if self.to_listener else 'dialer'}"


class End(Protocol):
    """Where bytes go."""

    async def write(self, data: bytes) -> None: ...

    async def end(self) -> None:
        """No more comes."""


class Way:
    """One direction of a connection."""

    def __init__(
        self, read: Callable[[], Awaitable[bytes]], to: End, fault: Fault | None, cut: Callable[[], None]
    ) -> None:
        """``fault``: what is to go wrong in this direction; ``cut`` ends the connection."""
        self.come = 0
        """Bytes that have."""
        self._read = read
        self._to = to
        self._fault = fault
        self._cut = cut

    async def run(self) -> None:
        """Passes on what comes until its end."""
        while data := await self._read():
            left = len(data) if self._fault is None else self._fault.offset - self.come
            self.come += len(data)
            if data[:left]:
                await self._to.write(data[:left])
            if self._fault is not None and data[left:]:
                await self._strike(self._fault, data[left:])
                return
        await self._to.end()

    async def _strike(self, fault: Fault, rest: bytes) -> None:
        match fault.kind:
            case Kind.CUT:
                self._cut()
            case Kind.HALF_CLOSE:
                await self._to.end()
                await self._lose()
            case Kind.STALL:
                await self._lose()
            case Kind.CORRUPT:
                await self._go_on(bytes((rest[0] ^ fault.bits,)) + rest[1:])
            case Kind.DELAY:
                await asyncio.sleep(DELAY)
                await self._go_on(rest)
            case Kind.THROTTLE:
                await self._go_slowly(rest)

    async def _go_on(self, rest: bytes) -> None:
        self._fault = None
        await self._to.write(rest)
        await self.run()

    async def _lose(self) -> None:
        while data := await self._read():
            self.come += len(data)

    async def _go_slowly(self, data: bytes) -> None:
        while data:
            for byte in data:
                await asyncio.sleep(PACE)
                await self._to.write(bytes((byte,)))
            data = await self._read()
        await self._to.end()
