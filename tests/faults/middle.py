"""Who lies between two peers and has something go wrong: a proxy before TCP or WebSocket, or a relay."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from support.meddler import Meddler

from simulation.network import Endpoint
from simulation.sockets import RESETS
from stronghold_p2p import Stream, StrongholdError, StrongholdP2p

from .fault import End, Fault, Way

__all__ = ["FaultyRelay", "Middle", "Proxy"]


class Middle:
    """Joins two peers."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        """What is to go wrong with the next connection, and with none after it."""
        self.ways: dict[bool, Way] = {}
        """Of the last connection, by whether it leads to the listener."""

    def way(
        self, read: Callable[[], Awaitable[bytes]], to: End, cut: Callable[[], None], *, to_listener: bool
    ) -> Awaitable[None]:
        """One way of a new connection."""
        fault = self.fault if self.fault is not None and self.fault.to_listener is to_listener else None
        if fault is not None:
            self.fault = None
        way = self.ways[to_listener] = Way(read, to, fault, cut)
        return way.run()


class Proxy(Middle):
    """Of TCP, before ``target``."""

    def __init__(self, target: Endpoint) -> None:
        super().__init__()
        self._target = target

    async def listen(self, port: int) -> None:
        """On that port of its machine, for good."""
        await asyncio.start_server(self._serve, "0.0.0.0", port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, ahead = await asyncio.open_connection(*self._target)

        def cut() -> None:
            for end in (writer, ahead):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
                end.transport.abort()

        await asyncio.gather(
            _until_lost(self.way(_reads(reader), _TcpEnd(ahead), cut, to_listener=True)),
            _until_lost(self.way(_reads(back), _TcpEnd(writer), cut, to_listener=False)),
        )
        for end in (writer, ahead):
            end.close()


class _TcpEnd:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, data: bytes) -> None:
        if not self._writer.is_closing():  # else who is there has gone
            self._writer.write(data)

    async def end(self) -> None:
        self._writer.write_eof()


def _reads(reader: asyncio.StreamReader) -> Callable[[], Awaitable[bytes]]:
    return lambda: reader.read(65_536)


async def _until_lost(way: Awaitable[None]) -> None:
    with suppress(OSError):  # also what a socket says that is no more connected
        await way


class FaultyRelay(Middle, Meddler):
    """Of what passes through circuits, and so of what a relay can do."""

    def __init__(self, peer: StrongholdP2p[Any, Any]) -> None:
        Middle.__init__(self)
        Meddler.__init__(self, peer)

    async def pump(self, ends: tuple[Stream, Stream], to_target: bool) -> None:
        one, other = ends if to_target else reversed(ends)
        with suppress(StrongholdError):
            await self.way(one.read, _CircuitEnd(other), self.cut, to_listener=to_target)


class _CircuitEnd:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def end(self) -> None:
        await self._stream.close_write()
