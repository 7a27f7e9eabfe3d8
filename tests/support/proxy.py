"""A reverse proxy for WebSockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from stronghold_p2p import Multiaddr

__all__ = ["proxy"]


@asynccontextmanager
async def proxy(
    target: Multiaddr,
    *headers: str,
    context: ssl.SSLContext | None = None,
    answer: Callable[[bytes], bytes] = lambda data: data,
) -> AsyncIterator[int]:
    """Forwards what comes to the port that it gives to ``target``, with ``headers`` added to the request. With a ``context``
    TLS ends here. ``answer`` may change what goes back."""
    (_, host), (_, port), *_ = target.components
    forwarding: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        forwarding.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            back, ahead = await asyncio.open_connection(host, int(port or 0))
            ahead.write(head[:-2] + "".join(f"{header}\r\n" for header in headers).encode() + b"\r\n")
            try:
                await asyncio.gather(_pump(reader, ahead, lambda data: data), _pump(back, writer, answer))
            finally:
                ahead.close()
        writer.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in forwarding:
            task.cancel()
        await asyncio.gather(*forwarding)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(change(data))
            await writer.drain()
    finally:
        writer.close()
