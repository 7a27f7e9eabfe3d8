"""A wire between two peers that a test can cut, so that neither end is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from stronghold_p2p import Multiaddr

__all__ = ["Wire", "wired"]


class Wire:
    """Dial :attr:`address` in place of what it leads to."""

    def __init__(self, address: Multiaddr) -> None:
        self.address = address
        self.dead = False
        """What either end sends goes nowhere, and neither hears of it."""
        self.connections = 0
        """Those that were made over it."""
        self.received = 0
        """Bytes that came for what it leads to."""


@asynccontextmanager
async def wired(to: Multiaddr) -> AsyncIterator[Wire]:
    """A wire to the TCP address ``to``, or what runs over TCP there."""
    (ip, host), (_, port), *rest = to.components
    tasks: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                wire.received += 0 if back else len(data)
                if not wire.dead:
                    writer.write(data)
        if not wire.dead:
            writer.close()

    async def connect(near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        wire.connections += 1
        far, far_writer = await asyncio.open_connection(host, int(port or 0))
        try:
            await asyncio.gather(forward(near, far_writer, back=False), forward(far, near_writer, back=True))
        finally:
            near_writer.transport.abort()
            far_writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(connect(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    components = ((ip, "127.0.0.1"), ("tcp", str(server.sockets[0].getsockname()[1])), *rest)
    wire = Wire(Multiaddr.parse("".join(f"/{name}" + (f"/{value}" if value else "") for name, value in components)))
    try:
        yield wire
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
